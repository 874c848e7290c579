"""What an endpoint answers: JSON read with care, checked field by field, and made a completion.

Tool calls stand after the text, one `<tool_call>` each with `{"name": ..., "arguments": ...}` inside, as
models write them that call tools in their text. The arguments are the endpoint's own text where that is a
JSON object, else that text as a JSON string. Ids of calls mean nothing outside the endpoint and are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from posttrain.core.records import Completion, FinishReason, TopLogprobs
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served_settings import ServedSettings

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",  # the model ended its turn itself, with a call
    "function_call": "stop",
    "length": "length",
    "content_filter": "filtered",
}
"""What an endpoint's `finish_reason` becomes; any other is refused."""

_CALL = "<tool_call>\n{}\n</tool_call>"
_LARGEST_NUMBER = 1e30  # in float32, and not infinite
_THINKING = "<think>\n{}\n</think>\n\n"


class UnusableAnswerError(Exception):
    """An answer that is no completion; its text says what was found, and holds nothing that the endpoint wrote."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What a request is charged for."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of an endpoint, checked.

    Made here, read by the sampler. `counts` is None where the endpoint does not say; `fingerprint` is what
    it calls its present configuration.
    """

    text: str
    finish_reason: FinishReason
    counts: TokenCounts | None
    fingerprint: str
    logprobs: npt.NDArray[np.float32] | None
    top_logprobs: TopLogprobs | None

    def complete(self, problem_id: str, sample_index: int, policy_hash: str, seed: int) -> Completion:
        """Return the answer as a completion; an endpoint that speaks text tells no ids."""
        return Completion(
            problem_id=problem_id,
            sample_index=sample_index,
            prompt_ids=np.zeros(0, dtype=np.int32),
            ids=np.zeros(0, dtype=np.int32),
            text=self.text,
            finish_reason=self.finish_reason,
            policy_hash=policy_hash,
            seed=seed,
            sampler_logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
        )


def read_json(body: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        UnusableAnswerError: No JSON, nested too deeply, or with NaN and infinities, which are no JSON.
    """
    try:
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_read_float)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else f"{len(body)} bytes"
        raise UnusableAnswerError(f"{kind}, which is no JSON ({reason})") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _read_float(text: str) -> float:
    value = float(text)
    if not abs(value) < _LARGEST_NUMBER:
        raise ValueError(text)
    return value


def read_answer(value: Any, served: ServedSettings, settings: SamplingSettings) -> Answer:
    """Return a checked answer.

    Raises:
        UnusableAnswerError: It has not the form of OpenAI's interface, was cut for an unknown reason, lacks
            log-probs that were asked for, or has more tokens than were allowed.
    """
    if isinstance(value, dict) and "error" in value and "choices" not in value:
        raise UnusableAnswerError("an error in place of an answer, with status 200")
    choice = _take(_take(value, "choices", list, "answer"), 0, dict, "choices")
    name = _take(choice, "finish_reason", str, "choices[0]")
    if name not in FINISH_REASONS:
        raise UnusableAnswerError(f"a finish_reason that is none of {', '.join(FINISH_REASONS)}")
    is_chat = served.route == "chat"
    if is_chat:
        message = _take(choice, "message", dict, "choices[0]")
        text, is_plain = _read_message(message, keep_reasoning=served.keep_reasoning)
    else:
        text, is_plain = _take(choice, "text", str, "choices[0]"), True
    logprobs, top = None, None
    if served.logprobs or settings.top_logprobs:
        read = _read_chat_logprobs if is_chat else _read_plain_logprobs
        rows = read(choice.get("logprobs"))
        if rows is None and text and is_plain:
            raise UnusableAnswerError("no log-probs, which were asked for")
        if rows is not None:
            logprobs = np.array([row[0] for row in rows], dtype=np.float32)
            top = _stack([row[1] for row in rows], settings.top_logprobs) if settings.top_logprobs else None
    counts = _read_counts(value.get("usage"))
    if counts is not None and counts.completion_tokens > settings.max_new_tokens:
        raise UnusableAnswerError(
            f"{counts.completion_tokens} new tokens where {served.length_field} was {settings.max_new_tokens}"
        )
    fingerprint = value.get("system_fingerprint")
    return Answer(
        text=_mend(text),
        finish_reason=FINISH_REASONS[name],
        counts=counts,
        fingerprint=fingerprint if isinstance(fingerprint, str) else "",
        logprobs=logprobs,
        top_logprobs=top,
    )


def _take(holder: Any, key: str | int, kind: type[Any], place: str) -> Any:
    """Return what a mapping or list holds under a key, if it is of the right kind."""
    is_there = len(holder) > key if isinstance(holder, list) and isinstance(key, int) else False
    is_there = key in holder if isinstance(holder, dict) else is_there
    found = holder[key] if is_there else None
    if not isinstance(found, kind):
        what = type(found).__name__ if is_there else "nothing"
        raise UnusableAnswerError(f"{place} with {what} as {key!r}, where a {kind.__name__} belongs")
    return found


def _read_message(message: dict[str, Any], *, keep_reasoning: bool) -> tuple[str, bool]:
    """Return a chat message's text, and whether the model wrote it as it stands."""
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise UnusableAnswerError(f"content of type {type(content).__name__}, where text belongs")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise UnusableAnswerError(f"tool_calls of type {type(calls).__name__}, where a list belongs")
    if isinstance(message.get("function_call"), dict):
        calls = [*calls, {"function": message["function_call"]}]
    parts = [content] if content else []
    parts += [_CALL.format(_write_call(_take(call, "function", dict, "a tool call"))) for call in calls]
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    is_kept = keep_reasoning and isinstance(reasoning, str) and bool(reasoning)
    return (_THINKING.format(reasoning) if is_kept else "") + "\n".join(parts), not calls


def _write_call(function: dict[str, Any]) -> str:
    name = json.dumps(_take(function, "name", str, "a tool call"), ensure_ascii=False)
    arguments = function.get("arguments", "")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        raise UnusableAnswerError(f"arguments of type {type(arguments).__name__}, where text belongs")
    try:
        is_object = isinstance(json.loads(arguments, parse_constant=_refuse_constant), dict)
    except (ValueError, RecursionError):
        is_object = False
    written = arguments.strip() if is_object else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {name}, "arguments": {written}}}'


_Row = tuple[float, list[tuple[str, float]]]
"""A drawn token's log-prob, and the most probable tokens at its place."""


def _read_chat_logprobs(value: Any) -> list[_Row] | None:
    entries = value.get("content") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        return None
    rows: list[_Row] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UnusableAnswerError(f"a log-prob of type {type(entry).__name__}, where a mapping belongs")
        listed = entry.get("top_logprobs") or []
        if not isinstance(listed, list):
            raise UnusableAnswerError(f"top_logprobs of type {type(listed).__name__}, where a list belongs")
        top = [(_take(item, "token", str, "top_logprobs"), _read_logprob(item.get("logprob"))) for item in listed]
        rows.append((_read_logprob(entry.get("logprob")), top))
    return rows


def _read_plain_logprobs(value: Any) -> list[_Row] | None:
    chosen = value.get("token_logprobs") if isinstance(value, dict) else None
    if not isinstance(chosen, list):
        return None
    listed = value.get("top_logprobs") or [None] * len(chosen)
    if not isinstance(listed, list) or len(listed) != len(chosen):
        raise UnusableAnswerError(f"top_logprobs that are not one for each of {len(chosen)} tokens")
    rows: list[_Row] = []
    for logprob, items in zip(chosen, listed, strict=True):
        if items is not None and not isinstance(items, dict):
            raise UnusableAnswerError(f"top_logprobs of type {type(items).__name__}, where a mapping belongs")
        top = [(token, _read_logprob(item)) for token, item in (items or {}).items()]
        rows.append((_read_logprob(logprob), top))
    return rows


def _read_logprob(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST_NUMBER:
        raise UnusableAnswerError(f"a log-prob of type {type(value).__name__}, where a finite number belongs")
    return float(value)


def _stack(rows: list[list[tuple[str, float]]], count: int) -> TopLogprobs:
    """Return the most probable tokens by text, most probable first; where an endpoint names fewer, -inf and ""."""
    logprobs_TK = np.full((len(rows), count), -np.inf, dtype=np.float32)
    texts_TK = []
    for row, items in enumerate(rows):
        best = sorted(items, key=lambda item: -item[1])[:count]
        logprobs_TK[row, : len(best)] = [logprob for _, logprob in best]
        texts_TK.append((*(_mend(text) for text, _ in best), *[""] * (count - len(best))))
    return TopLogprobs(np.zeros((len(rows), 0), dtype=np.int32), logprobs_TK, tuple(texts_TK))


def _read_counts(value: Any) -> TokenCounts | None:
    if value is None:
        return None
    counts = [_take(value, name, int, "usage") for name in ("prompt_tokens", "completion_tokens")]
    if any(isinstance(count, bool) or not 0 <= count < 2**53 for count in counts):
        raise UnusableAnswerError("a usage with numbers that count nothing")
    return TokenCounts(*counts)


def _mend(text: str) -> str:
    """Return a text that UTF-8 can hold: halves of surrogate pairs become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
