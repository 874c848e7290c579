"""The tests of a problem, read from its columns. The columns are described in `code`."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.records import Problem
from posttrain.scorers.code_asserts import TestCodeError, build_assert_tests, build_check_tests
from posttrain.scorers.code_comparison import Comparison, holds_nan, is_plain
from posttrain.scorers.code_expressions import Call
from posttrain.scorers.code_judging import CodeTest, is_sendable
from posttrain.scorers.code_programs import PromptCode, read_prompt_code
from posttrain.scorers.code_tests import ENTRY_PATTERN, OutputTest, ValueTest

_FORMS = ("tests", "asserts", "test_list", "test")
_ARGUMENT_KEYS = ("args", "input", "inputs")
_EXPECTED_KEYS = ("expected", "output", "outputs")


@dataclass(frozen=True, slots=True)
class CodeTask:
    """What a program is judged by: its hidden tests, at least one, and the code that it may continue.

    Made by `read_task`, read by `code.CodeScorer`.
    """

    tests: tuple[CodeTest, ...]
    prompt: PromptCode | None = None


def read_task(problem: Problem, comparison: Comparison) -> CodeTask:
    """Return the tests of a problem.

    Raises:
        DataError: No tests, tests in two forms, or tests that cannot be used.
    """
    columns = problem.columns
    present = [name for name in _FORMS if columns.get(name) is not None]
    if len(present) != 1:
        _refuse(
            problem, f"columns {', '.join(present)}" if present else "no tests", f"one column of {', '.join(_FORMS)}"
        )
    entry = columns.get("entry", columns.get("entry_point"))
    if entry is not None and not (isinstance(entry, str) and ENTRY_PATTERN.fullmatch(entry)):
        _refuse(problem, f"'entry' is {entry!r:.80}", "the name of a function, such as f, Solution.f or Solution().f")
    seed = int(hash_text("tests", problem.problem_id)[:8], 16)
    try:
        if present == ["test"]:
            return _read_check(problem, entry, seed)
        if present != ["tests"]:
            return CodeTask(tuple(_read_asserts(problem, present[0], entry, seed)))
    except TestCodeError as error:
        _refuse(problem, str(error), "test code that calls the program")
    pairs = _read_pairs(problem)
    if entry is None:
        return CodeTask(tuple(_read_output_test(problem, number, pair) for number, pair in enumerate(pairs, 1)))
    return CodeTask(
        tuple(_read_value_test(problem, number, pair, entry, comparison) for number, pair in enumerate(pairs, 1))
    )


def _read_check(problem: Problem, entry: str | None, seed: int) -> CodeTask:
    if entry is None:
        _refuse(problem, "no column 'entry_point'", "the name of the function that 'test' checks")
    prompt = None
    for text in _list_prompts(problem):
        prompt = prompt or read_prompt_code(text, entry)
    test = problem.columns["test"]
    if not isinstance(test, str):
        _refuse(problem, f"'test' is {test!r:.80}", "code that defines check(candidate)")
    return CodeTask(tuple(build_check_tests(test, entry, prompt, seed)), prompt)


def _list_prompts(problem: Problem) -> list[str]:
    """Return the texts that may be the beginning of the program, the most explicit first."""
    texts = [problem.columns.get("code_prompt"), problem.columns.get("prompt")]
    texts += [message.get("content") for message in problem.messages[-1:]]
    return [text for text in texts if isinstance(text, str)]


def _read_asserts(problem: Problem, column: str, entry: str | None, seed: int) -> list[CodeTest]:
    asserts = _read_list(problem, column)
    if not all(isinstance(text, str) and text.strip() for text in asserts):
        _refuse(problem, f"'{column}' holds {asserts!r:.80}", "texts of Python, one assertion each")
    parts = [problem.columns.get(name) for name in ("setup", "test_setup_code", "test_imports")]
    lists = [part if isinstance(part, list | tuple) else [part] for part in parts if part is not None]
    lines = [line for part in lists for line in part]
    if not all(isinstance(line, str) for line in lines):
        _refuse(problem, "a setup that is no text", "Python code, or a list of its lines")
    name = entry.split(".")[0].removesuffix("()") if entry is not None else ""
    functions = {name: name} if name else {}
    return build_assert_tests("\n".join(lines), asserts, functions, seed)


def _read_pairs(problem: Problem) -> list[tuple[Any, Any, Mapping[str, Any]]]:
    """Return (input, expected, named arguments) of every test, whichever way they are written."""
    tests = _decode(problem, "tests", problem.columns["tests"])
    if isinstance(tests, Mapping):
        inputs, expected = (_take(problem, tests, names, "tests") for names in (_ARGUMENT_KEYS, _EXPECTED_KEYS))
        if not (isinstance(inputs, Sequence) and isinstance(expected, Sequence) and len(inputs) == len(expected)):
            _refuse(problem, "'tests' with inputs and outputs that do not pair", "two lists of the same length")
        tests = list(zip(inputs, expected, strict=True))
    if not isinstance(tests, list | tuple) or not tests:
        _refuse(problem, f"'tests' is {tests!r:.80}", "a list of at least one [input, expected]")
    pairs: list[tuple[Any, Any, Mapping[str, Any]]] = []
    for number, test in enumerate(tests, 1):
        if isinstance(test, Mapping):
            kwargs = test.get("kwargs") or {}
            is_named_only = "kwargs" in test and not set(_ARGUMENT_KEYS) & set(test)
            args = [] if is_named_only else _take(problem, test, _ARGUMENT_KEYS, f"test {number}")
            expected = _take(problem, test, _EXPECTED_KEYS, f"test {number}")
            if not (isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)):
                _refuse(problem, f"test {number} has kwargs {kwargs!r:.80}", "a mapping of names")
            pairs.append((args, expected, kwargs))
        elif isinstance(test, list | tuple) and len(test) == 2:
            pairs.append((test[0], test[1], {}))
        else:
            _refuse(problem, f"test {number} is {test!r:.80}", "[input, expected]")
    return pairs


# many parameters: a pair, where it stands, and how it is compared
def _read_value_test(
    problem: Problem, number: int, pair: tuple[Any, Any, Mapping[str, Any]], entry: str, comparison: Comparison
) -> ValueTest:
    args, expected, kwargs = pair
    if not isinstance(args, list | tuple):
        _refuse(problem, f"test {number} has arguments {args!r:.80}", "a list of arguments, one for each parameter")
    if not (is_plain(list(args)) and is_plain(dict(kwargs)) and is_plain(expected)):
        _refuse(problem, f"test {number} holds values of other types", "plain data: numbers, text, lists, dicts, sets")
    if not is_sendable([args, kwargs]):
        _refuse(
            problem, f"test {number} has arguments too large to be given to a program", "at most 16 MiB of arguments"
        )
    if holds_nan(expected):
        _refuse(problem, f"test {number} expects NaN, which equals nothing", "asserts with math.isnan(...)")
    return ValueTest(Call(entry, tuple(args), dict(kwargs)), expected, comparison)


def _read_output_test(problem: Problem, number: int, pair: tuple[Any, Any, Mapping[str, Any]]) -> OutputTest:
    stdin, expected, kwargs = pair
    if not (isinstance(stdin, str) and isinstance(expected, str)) or kwargs:
        _refuse(
            problem,
            f"test {number} is {[stdin, expected]!r:.80}",
            "[standard input, standard output] as texts, or a column 'entry' that names the function to call",
        )
    return OutputTest(stdin, expected)


def _read_list(problem: Problem, column: str) -> list[Any]:
    value = _decode(problem, column, problem.columns[column])
    if not isinstance(value, list | tuple) or not value:
        _refuse(problem, f"'{column}' is {value!r:.80}", "a list of at least one test")
    return list(value)


def _decode(problem: Problem, column: str, value: Any) -> Any:
    """Return a column that is written as text (JSON, or a Python literal) as what it says."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return read(value)
    return _refuse(problem, f"'{column}' is {value!r:.80}", "a list, or its text as JSON or a Python literal")


def _take(problem: Problem, test: Mapping[str, Any], names: Sequence[str], what: str) -> Any:
    present = [name for name in names if name in test]
    if len(present) != 1:
        _refuse(problem, f"{what} has {sorted(map(str, test))!r:.80}", f"one of {', '.join(names)}")
    return test[present[0]]


def _refuse(problem: Problem, found: str, expected: str) -> NoReturn:
    raise DataError(
        found,
        expected=expected,
        cure="map the task's data, columns: {tests: <your column>}, leave the row out, or choose another scorer",
        place=problem.problem_id,
    )
