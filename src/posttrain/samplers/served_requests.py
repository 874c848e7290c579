"""What is sent to an endpoint: the body of a request, or a refusal that names the setting it cannot honour.

Everything that decides the answer is sent, the neutral values too: a vLLM server fills in what its model's
`generation_config.json` says wherever a request is silent.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import hash_text
from posttrain.core.records import Message, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served_settings import ServedSettings

PromptText = Callable[[Problem], str]
"""Renders a problem to the text of its prompt, generation prompt included."""

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
MAX_TEMPERATURE = 2.0
MAX_STOP_STRINGS = 4
MAX_TOP_LOGPROBS = {"chat": 20, "completions": 5}
_CALL_ID = "call{:05d}"  # nine letters and digits, which every endpoint takes
_MESSAGE_KEYS = ("role", "content", "name")
_WHOLE_ANSWER = {"stream", "stream_options", "n", "best_of", "echo"}


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request to an endpoint.

    Args:
        path: Below the base URL.
        content: The body as JSON in ASCII; None for a GET.
        key: Hash of everything that decides the answer.
        max_new_tokens: Most tokens that the answer may have.
    """

    path: str
    content: bytes | None = None
    key: str = ""
    max_new_tokens: int = 0

    @property
    def max_prompt_tokens(self) -> int:
        """An upper bound of the prompt's tokens: a token stands for at least one byte of the body."""
        return len(self.content or b"")


def check_settings(served: ServedSettings, settings: SamplingSettings) -> None:
    """Check that an endpoint of this kind can do what the settings ask for.

    Raises:
        RecipeError: It cannot; the error's place is the setting.
    """
    if settings.temperature > MAX_TEMPERATURE:
        raise _refuse("temperature", settings.temperature, f"0 to {MAX_TEMPERATURE:g} at an endpoint", "lower it")
    if settings.constraint is not None and settings.constraint.kind == "json_schema":
        _read_schema(settings.constraint.text)
    if served.kind == "vllm":
        return
    defaults = SamplingSettings(max_new_tokens=1)
    for name in ("top_k", "min_p", "repetition_penalty", "stop_ids", "ignore_eos"):
        if getattr(settings, name) != getattr(defaults, name):
            raise _refuse(name, getattr(settings, name), "a setting that OpenAI's interface has a field for")
    if settings.constraint is not None and (settings.constraint.kind != "json_schema" or served.route != "chat"):
        expected = "a constraint of kind json_schema on the route chat"
        raise _refuse("constraint", f"{settings.constraint.kind} on the route {served.route}", expected)
    if len(settings.stop_strings) > MAX_STOP_STRINGS:
        raise _refuse("stop_strings", list(settings.stop_strings), f"at most {MAX_STOP_STRINGS} stop strings")
    most = MAX_TOP_LOGPROBS[served.route]
    if settings.top_logprobs > most:
        raise _refuse("top_logprobs", settings.top_logprobs, f"at most {most} on the route {served.route}")


def _refuse(name: str, value: Any, expected: str, cure: str = "") -> RecipeError:
    cure = cure or f"leave {name} out, or set kind: vllm if the endpoint is a vLLM server"
    return RecipeError(f"{name} is {value}", expected=expected, cure=cure, place=name)


def _read_schema(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refuse("constraint", f"no JSON: {error}", "a JSON Schema as JSON text", "correct the schema") from None
    if not isinstance(schema, dict):
        raise _refuse("constraint", text[:80], "a JSON Schema, which is an object", "correct the schema")
    return schema


class RequestWriter:
    """Writes the requests of one call of `sample`.

    Args:
        served: The endpoint.
        settings: What to draw with; checked by `check_settings`.
        render_prompt: For the route `completions`.
        identity: Hash of the endpoint's identity, part of every request's key.
    """

    def __init__(
        self, served: ServedSettings, settings: SamplingSettings, render_prompt: PromptText | None, identity: str
    ) -> None:
        self._served = served
        self._render_prompt = render_prompt
        self._identity = identity
        self._max_new_tokens = settings.max_new_tokens
        self._fields = {
            "model": served.model,
            **_write_settings(served, settings),
            **(_write_vllm(served, settings) if served.kind == "vllm" else {}),
        }
        taken = {*self._fields, *_WHOLE_ANSWER, "messages", "tools", "prompt", "seed"}
        clash = sorted(taken & set(served.extra_body))
        if clash:
            raise RecipeError(
                f"extra_body holds '{clash[0]}'",
                expected="fields that the settings do not write themselves",
                cure=f"leave '{clash[0]}' out of extra_body, and use the setting for it",
                place="extra_body",
            )

    def write(self, problem: Problem, seed: int, sample_index: int) -> ServedRequest:
        """Return the request for one sample of a problem.

        Raises:
            DataError: Its messages have no form that the endpoint takes.
        """
        body = {**self._fields, **self._write_prompt(problem), "seed": seed % 2**31, **self._served.extra_body}
        try:
            text = json.dumps(body, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"messages or tools that are no JSON: {error}", cure="correct the row", place=problem.problem_id
            ) from None
        path = PATHS[self._served.route]
        key = hash_text("served 1", self._identity, path, text, str(seed), str(sample_index))
        return ServedRequest(path, text.encode("ascii"), key, self._max_new_tokens)

    def _write_prompt(self, problem: Problem) -> dict[str, Any]:
        if self._render_prompt is not None and self._served.route == "completions":
            return {"prompt": self._render_prompt(problem)}
        messages = write_messages(problem.messages, problem.problem_id, takes_reasoning=self._served.kind == "vllm")
        return {"messages": messages, **({"tools": problem.tools} if problem.tools else {})}


def _write_settings(served: ServedSettings, settings: SamplingSettings) -> dict[str, Any]:
    fields: dict[str, Any] = {
        served.length_field: settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": 1.0 if settings.top_p is None else settings.top_p,
    }
    if settings.stop_strings:
        fields["stop"] = list(settings.stop_strings)
    if served.logprobs or settings.top_logprobs:
        count = settings.top_logprobs
        if served.route == "chat":
            # vLLM's list begins with the drawn token, in the place of the last of the most probable ones.
            is_led_by_drawn = served.kind == "vllm" and count > 0
            fields |= {"logprobs": True, "top_logprobs": count + 1 if is_led_by_drawn else count}
        else:
            fields["logprobs"] = count
    if settings.constraint is not None and settings.constraint.kind == "json_schema":
        schema = {"name": "completion", "schema": _read_schema(settings.constraint.text), "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _write_vllm(served: ServedSettings, settings: SamplingSettings) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "top_k": settings.top_k or 0,
        "min_p": settings.min_p or 0.0,
        "repetition_penalty": settings.repetition_penalty or 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(settings.stop_ids),
        "ignore_eos": settings.ignore_eos,
    }
    if served.route == "completions":
        fields["add_special_tokens"] = False  # the rendered prompt has its own
    if settings.constraint is not None and settings.constraint.kind != "json_schema":
        name = {"regex": "regex", "lark": "grammar"}[settings.constraint.kind]
        # The second is what servers before 0.11 read; each kind of server ignores the other's field.
        fields["structured_outputs"] = {name: settings.constraint.text}
        fields[f"guided_{name}"] = settings.constraint.text
    return fields


def write_messages(messages: Sequence[Message], place: str, *, takes_reasoning: bool) -> list[dict[str, Any]]:
    """Return messages in the form of OpenAI's interface: calls with ids, arguments as text, replies that name a call.

    Args:
        messages: In the house's form, where calls have no ids and a reply follows the call that it answers.
        place: Names the problem in errors.
        takes_reasoning: The endpoint has a field for `reasoning_content`.

    Raises:
        DataError: A reply to no call, or thinking where the endpoint has no field for it.
    """
    written = []
    waiting: deque[tuple[str, str]] = deque()
    count = 0
    for message in messages:
        fields = {name: message[name] for name in _MESSAGE_KEYS if message.get(name) is not None}
        if message.get("reasoning_content"):
            if not takes_reasoning:
                raise DataError(
                    "a message holds reasoning_content, for which OpenAI's interface has no field",
                    cure="leave it out of the rows, or set kind: vllm if the endpoint is a vLLM server",
                    place=place,
                )
            fields["reasoning_content"] = message["reasoning_content"]
        if message.get("tool_calls"):
            calls = [_write_call(call, count + number) for number, call in enumerate(message["tool_calls"])]
            count += len(calls)
            waiting.extend((call["id"], call["function"]["name"]) for call in calls)
            fields["tool_calls"] = calls
            fields.setdefault("content", None)
        if message["role"] == "tool":
            fields["tool_call_id"] = _take_call(waiting, message, place)
        written.append(fields)
    return written


def _write_call(call: dict[str, Any], number: int) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": function["name"], "arguments": text}
    return {"id": call.get("id") or _CALL_ID.format(number), "type": "function", "function": function}


def _take_call(waiting: deque[tuple[str, str]], reply: Message, place: str) -> str:
    """Return the id of the call that a reply answers: the one it names, else the first open one of its tool or of any.

    Raises:
        DataError: No call is open.
    """
    if not waiting:
        raise DataError(
            "a tool's reply follows no open call",
            expected="a call in the tool_calls of an assistant message before it",
            cure="give the call in tool_calls rather than in the text, or leave the reply out",
            place=place,
        )
    by_id = (call for call in waiting if call[0] == reply.get("tool_call_id"))
    by_name = (call for call in waiting if call[1] == reply.get("name"))
    chosen = next(by_id, None) or next(by_name, None) or waiting[0]
    waiting.remove(chosen)
    return chosen[0]
