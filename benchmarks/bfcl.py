"""BFCL's answer keys as texts a model could have written: every listed value in every form, and mutants of each."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.records import Completion, Problem
from posttrain.evaluation.suites.bfcl import KEYED, read_key, read_messages

SINGLE_TURN = KEYED
Calls = list[tuple[str, dict[str, Any]]]
_IDS = np.zeros(0, dtype=np.int32)


def read_problems(folder: Path, name: str) -> list[Problem]:
    """Return one file's problems with the columns that `ToolCalls` reads, joined with the answers by id."""
    path = folder / f"{name}.jsonl"
    rows = _read_lines(path if path.is_file() else folder / f"{name}.jsonl.gz")
    answers = _read_lines(folder / "possible_answer" / f"{name}.jsonl")
    return [Problem(row["id"], read_messages(row), read_key(row, name, answers)) for row in rows]


def build_item(problem: Problem, text: str) -> tuple[Problem, Completion]:
    """Return a problem with a completion of this text."""
    return problem, Completion(problem.problem_id, 0, _IDS, _IDS, text, "stop", "none", 0)


def list_answers(problem: Problem) -> Iterator[Calls]:
    """Yield the calls of the key's first values, then one more for each further value and each omission allowed."""
    key = [next(iter(entry.items())) for entry in problem.columns["ground_truth"]]
    needed = [set(_find_schema(problem, name).get("required") or ()) for name, _ in key]
    base: Calls = [
        (name, {p: _first(values) for p, values in parameters.items() if _is_given(values) or p in required})
        for (name, parameters), required in zip(key, needed, strict=True)
    ]
    yield base
    for number, (_, parameters) in enumerate(key):
        required = needed[number]
        for parameter, values in parameters.items():
            for value in list(_expand(values))[1:]:
                changed = copy.deepcopy(base)
                changed[number][1][parameter] = value
                yield changed
            if "" in values and parameter in base[number][1] and parameter not in required:
                changed = copy.deepcopy(base)
                del changed[number][1][parameter]
                yield changed


def list_mutants(problem: Problem) -> Iterator[tuple[str, str, Calls, bool]]:
    """Yield (kind, what was changed, calls, whether the key lists them after all).

    Each differs from the key's first values in one thing that is wrong, unless a changed value is one of those listed.
    """
    base = next(list_answers(problem))
    is_python = problem.columns["language"] == "python"
    yield "one call too many", base[0][0], [*base, copy.deepcopy(base[0])], False
    if len(base) > 1:
        yield "a call missing", base[-1][0], base[:-1], False
    for number, (name, arguments) in enumerate(base):
        yield "wrong name", name, _replace(base, number, (f"{name}_other", arguments)), False
        unknown = {**arguments, "not_a_parameter": 1}
        yield "unknown argument", name, _replace(base, number, (name, unknown)), False
        alternatives = problem.columns["ground_truth"][number][name]
        required = _find_schema(problem, name).get("required") or ()
        for parameter, value in arguments.items():
            if "" not in alternatives[parameter] or parameter in required:
                fewer = {p: v for p, v in arguments.items() if p != parameter}
                yield "missing argument", f"{name}.{parameter}", _replace(base, number, (name, fewer)), False
            changes = (("wrong type", _change_type(value, is_python)), ("wrong value", _change_value(value)))
            for kind, changed in changes:
                calls = _replace(base, number, (name, {**arguments, parameter: changed}))
                yield kind, f"{name}.{parameter}", calls, changed in alternatives[parameter]


def render(calls: Calls, syntax: str) -> str:
    """Return calls as a text in one of the forms of `posttrain.chat.calls`."""
    if syntax == "python":
        return f"[{', '.join(_render_python(name, arguments) for name, arguments in calls)}]"
    entries = [{"name": name, "arguments": arguments} for name, arguments in calls]
    if syntax == "json":
        return json.dumps(entries, ensure_ascii=False)
    if syntax == "hermes":
        return "\n".join(f"<tool_call>\n{json.dumps(entry)}\n</tool_call>" for entry in entries)
    functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls]
    return json.dumps({"tool_calls": [{"type": "function", "function": function} for function in functions]})


def write_source(problem: Problem, calls: Calls) -> Calls:
    """Return calls whose values are texts of Java or JavaScript source, as BFCL asks models for them."""
    is_java = problem.columns["language"] == "java"
    written = []
    for name, arguments in calls:
        properties = _find_schema(problem, name)["properties"]
        kinds = {p: str(properties.get(p, {}).get("type")) for p in arguments}
        written.append((name, {p: _write_value(v, kinds[p], is_java, outer=True) for p, v in arguments.items()}))
    return written


def _write_value(value: Any, kind: str, is_java: bool, *, outer: bool = False) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, str):
        return value if outer else json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return f"{value}L" if is_java and kind == "long" else str(value)
    if isinstance(value, list):
        inner = ", ".join(_write_value(item, "", is_java) for item in value)
        if not is_java:
            return f"[{inner}]"
        return (
            f"new ArrayList<>(Arrays.asList({inner}))" if kind == "ArrayList" and value else f"new Object[]{{{inner}}}"
        )
    if is_java:
        puts = " ".join(f"put({json.dumps(k)}, {_write_value(v, '', True)});" for k, v in value.items())
        return f"new HashMap<String, Object>() {{{{ {puts} }}}}"
    return "{" + ", ".join(f"{json.dumps(k)}: {_write_value(v, '', False)}" for k, v in value.items()) + "}"


def _render_python(name: str, arguments: dict[str, Any]) -> str:
    plain = [f"{p}={v!r}" for p, v in arguments.items() if p.isidentifier() and p not in {"from", "class", "in"}]
    other = {p: v for p, v in arguments.items() if not p.isidentifier() or p in {"from", "class", "in"}}
    return f"{name}({', '.join([*plain, *([f'**{other!r}'] if other else [])])})"


def _expand(values: list[Any]) -> Iterator[Any]:
    """Yield each value that is no omission, with the alternatives inside mappings taken one by one."""
    for value in values or [[]]:
        if value != "":
            yield from _resolve(value)


def _resolve(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        base = {
            k: _first(v) if isinstance(v, list) else v
            for k, v in value.items()
            if not isinstance(v, list) or _is_given(v)
        }
        yield base
        for name, inner in value.items():
            for changed in list(_expand(inner))[1:] if isinstance(inner, list) else []:
                yield {**base, name: changed}
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield [next(_resolve(item)) for item in value]
    else:
        yield value


def _first(values: list[Any]) -> Any:
    return next(_expand(values), "")  # nothing but the sign of omission: the empty text


def _is_given(values: list[Any]) -> bool:
    return not values or any(value != "" for value in values)


def _find_schema(problem: Problem, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(f["parameters"] for f in problem.columns["function"] if f["name"] == name)
    return found


def _change_type(value: Any, is_python: bool) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {"value": value} if isinstance(value, list) else [value]
    return str(value) if is_python else [value]  # a number in a text is right in Java and JavaScript


def _change_value(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if value is None:
        return "something"
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "zq"
    if isinstance(value, list):
        return [*value[:-1], _change_value(value[-1])] if value else ["something"]
    return {**value, **{k: _change_value(v) for k, v in list(value.items())[:1]}} if value else {"something": 1}


def _replace(calls: Calls, number: int, call: tuple[str, dict[str, Any]]) -> Calls:
    return [*calls[:number], call, *calls[number + 1 :]]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
