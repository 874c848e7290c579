"""Tool calls: whether a text calls the right functions with the right arguments, or rightly calls none.

Columns, as the Berkeley Function-Calling Leaderboard publishes them (Patil et al. 2025): `function`, the offered
functions' descriptions (or the problem's `tools`, as OpenAI writes them); `ground_truth`, the answer key, an empty list
where nothing is to be called; `language`, one of `python` (default), `java`, `javascript`.

Calls are read by `chat.calls` and compared by `call_matching`; nothing is executed. Order does not count. Where a key
and a schema contradict each other the key decides.

What differs from BFCL's checker: an integer is taken wherever a float is, also inside lists; calls are paired with the
key so that as many as possible are met, not in the order they stand in; a bare name is a value in Java and JavaScript
only; where nothing is to be called, a call that cannot be read, or one inside prose, is an attempt and wrong.

Where tools replied, the calls of all turns are judged together, as they were read when they were made, and not the last
text, which answers.

What this scorer can NOT judge: other right answers than those listed, and which turn a call stands in. The lenient
comparison of texts, BFCL's own, takes "10.5" for "105"; `strings="exact"` does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from posttrain.chat.call_schemas import find_schema_fault
from posttrain.chat.calls import Call, CallRefusedError, Syntax, read_calls
from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.call_matching import Language, Strings, match_calls
from posttrain.scorers.reasoning import ReasoningBlock, read_reply

Mode = Literal["match", "valid"]


class ToolCalls:
    """Scores 1 for the right calls, 0 for others (`core.protocols.Scorer`).

    Args:
        syntax: The form that calls are written in, see `chat.calls`.
        mode: `match` compares with `ground_truth`; `valid` asks only for at least one call, each to an offered
            function with arguments that its schema takes (BFCL's relevance).
        strings: How texts are compared in `match`, see `call_matching.match_calls`.
        allows_text: Whether words may stand around `<tool_call>` blocks.
        allows_fence: Whether the other forms may stand in one code fence.
        reasoning: The block that is taken off before calls are read.

    Parts in `match`: `calls_expected`, `calls_found`, `calls_met`.

    Raises:
        ValueError: A setting is none of those named.
    """

    name = "tool_calls"

    # many parameters: each is one setting of what a text may look like
    def __init__(
        self,
        *,
        syntax: Syntax = "any",
        mode: Mode = "match",
        strings: Strings = "lenient",
        allows_text: bool = False,
        allows_fence: bool = False,
        reasoning: ReasoningBlock | None = None,
    ) -> None:
        for value, kind in ((syntax, Syntax), (mode, Mode), (strings, Strings)):
            if value not in get_args(kind):
                raise ValueError(f"one of {', '.join(get_args(kind))}, found {value!r}")
        self._syntax = syntax
        self._mode = mode
        self._strings = strings
        self._allows_text = allows_text
        self._allows_fence = allows_fence
        self._reasoning = reasoning

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem's functions, key or language are missing or malformed.
        """
        return [self._score(problem, completion) for problem, completion in items]

    def _score(self, problem: Problem, completion: Completion) -> Outcome:
        functions = _read_functions(problem)
        language = _read_language(problem)
        key = _read_key(problem) if self._mode == "match" else None
        text = read_reply(completion, self._reasoning)
        if isinstance(text, Outcome):
            return text
        if completion.transcript and key == []:
            return Outcome("scored", 0.0, why="a tool call where none was asked for")
        if completion.transcript:
            return self._conclude(_list_made(completion), key, functions, language)
        if key == []:
            found = _find_attempt(text, functions)
            return Outcome("scored", float(found is None), why=found or "calls nothing, as it should")
        try:
            calls = read_calls(
                text,
                self._syntax,
                allows_text=self._allows_text,
                allows_fence=self._allows_fence,
                allows_names=language != "python",
            )
        except CallRefusedError as error:
            return Outcome("unparsed", 0.0, why=str(error), fault="policy")
        return self._conclude(calls, key, functions, language)

    def _conclude(
        self,
        calls: Sequence[Call],
        key: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]] | None,
        functions: Mapping[str, Mapping[str, Any]],
        language: Language,
    ) -> Outcome:
        if key is None:
            fault = next((fault for call in calls if (fault := find_schema_fault(call, functions))), None)
            return Outcome("scored", float(fault is None), why=fault or "valid calls")
        num_met, reason = match_calls(calls, key, functions, strings=self._strings, language=language)
        parts = {"calls_expected": len(key), "calls_found": len(calls), "calls_met": num_met}
        return Outcome("scored", float(reason is None), why=reason or "the right calls", parts=_to_floats(parts))


def _list_made(completion: Completion) -> list[Call]:
    """Return the calls that were made on the way to a completion."""
    made = [call["function"] for message in completion.transcript for call in message.get("tool_calls", ())]
    return [Call(function["name"], function["arguments"]) for function in made]


def _find_attempt(text: str, functions: Mapping[str, Any]) -> str | None:
    """Return what looks like a call in a text that should hold none, None where nothing does."""
    if re.search(r"</?tool_call|\"tool_calls\"\s*:", text):
        return "a tool call where none was asked for"
    try:
        calls = read_calls(text, "any", allows_fence=True, allows_names=True)
        return f"calls {calls[0].name[:60]!r}, where nothing was to be called"
    except CallRefusedError:
        pass
    for name in functions:
        if re.search(rf"(?<![\w.]){re.escape(name)}\s*\(|[\"']{re.escape(name)}[\"']\s*[:,]", text):
            return f"an attempt to call {name!r}, where nothing was to be called"
    return None


def _read_functions(problem: Problem) -> dict[str, Mapping[str, Any]]:
    given = problem.columns.get("function", problem.tools)
    entries = given if isinstance(given, list | tuple) else [given]
    functions = {}
    for entry in entries:
        inner = entry.get("function", entry) if isinstance(entry, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise DataError(
                f"'function' is {given!r:.200}" if given is not None else "no column 'function', and no tools",
                expected="a list of function descriptions with a name and parameters",
                cure="map BFCL's column, or give the problem's tools",
                place=problem.problem_id,
            )
        functions[inner["name"]] = inner
    return functions


def _read_language(problem: Problem) -> Language:
    language = problem.columns.get("language", "python")
    for known in get_args(Language):
        if language == known:
            return known
    raise DataError(
        f"'language' is {language!r}",
        expected=f"one of {', '.join(get_args(Language))}",
        cure="correct the column, or leave it out for Python",
        place=problem.problem_id,
    )


def _read_key(problem: Problem) -> list[Mapping[str, Mapping[str, Sequence[Any]]]]:
    key = problem.columns.get("ground_truth")
    if not isinstance(key, list | tuple) or not all(_is_entry(entry) for entry in key):
        raise DataError(
            f"'ground_truth' is {key!r:.200}" if "ground_truth" in problem.columns else "no column 'ground_truth'",
            expected="a list of {function: {parameter: [values that are right]}}, empty where nothing is to be called",
            cure="join BFCL's possible answers by id, or use mode='valid'",
            place=problem.problem_id,
        )
    return list(key)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        return False
    (parameters,) = entry.values()
    return isinstance(parameters, Mapping) and all(isinstance(values, list | tuple) for values in parameters.values())


def _to_floats(counts: Mapping[str, int]) -> dict[str, float]:
    return {name: float(count) for name, count in counts.items()}
