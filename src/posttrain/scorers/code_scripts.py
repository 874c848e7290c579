"""Tests whose own code must run: in a sandbox of their own, where the program is absent.

The test's code runs with stand-ins for the program's functions (`code_driver`). Where it calls one, the run ends
with the calls that it wants answered; each is run in a fresh process that holds the program alone, the answers,
plain data or an exception's built-in class, are recorded, and the test's code runs again from its beginning with
them, until it ends by itself. Its verdict is then its own: nothing that the program can reach takes part in it.
`random` is seeded alike in every run, so that a test draws the same inputs each time; answers are found by the
call's arguments, so that their order does not matter.

A test that calls the program more than `MAX_CALLS` times fails; where it would for any program, it is refused.

What it can not judge: objects that the program keeps between calls or changes in place (every call has a fresh
process and copies of its arguments), arguments and values that are no plain data, names of the program that are
no functions, and tests that evaluate a text which the program gave (they hand it the verdict).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from posttrain.sandbox.programs import Program, ProgramResult
from posttrain.scorers.code_expressions import Call
from posttrain.scorers.code_judging import BrokenTestError, Judging, Verdict, describe_failure, is_sendable

MAX_CALLS = 2_000
_TOO_MANY = f"the tests call the program more than {MAX_CALLS} times, which is more than is run"
_FIRST_CALLS = 8  # a wrong program mostly fails the first; the others are run once these have passed
_NEXT_CALLS = 128  # at a time: answers may be large, and all of a round are held
_ANSWER = """

def posttrain_answer__(args__, kwargs__):
    function__ = {function}
    try:
        return ["returned", function__(*args__, **kwargs__)]
    except Exception as error__:
        names__ = [kind.__name__ for kind in type(error__).__mro__ if kind.__module__ == "builtins"]
        try:
            return ["raised", names__[0], str(error__)[:500]]
        except Exception:
            return ["raised", names__[0], ""]
"""

Answer = list[Any]
"""`["returned", value]`, `["raised", class name, message]` or `["ended"]`."""


@dataclass(frozen=True, slots=True)
class ScriptTest:
    """A test as code: it passes where the code ends without an exception.

    Args:
        setup: Code to run before the stand-ins exist: the test's imports and functions.
        tests: The code that tests.
        functions: Names of the program's functions in the test's code, and the expression of each in the program.
        check: A function of the test's code to call with the stand-in of this name (HumanEval), if any.
        seed: Seeds `random` in the test's code.
    """

    setup: str
    tests: str
    functions: Mapping[str, str]
    check: str | None = None
    seed: int = 0

    def judge(self, source: str, answers: Sequence[tuple[Call, Answer]] = ()) -> Judging[Verdict]:
        """Judge a program, some of whose answers may be known already."""
        known: list[tuple[Any, Answer]] = [([c.function, list(c.args), dict(c.kwargs)], a) for c, a in answers]
        failures: dict[int, ProgramResult] = {}
        is_guessing = True
        for _ in range(2 * MAX_CALLS):
            job = self._build_job(known, is_guessing)
            if not is_sendable(job):
                return Verdict(False, "output", "its answers are too large, or nested too deeply, for the tests")
            (result,) = yield [Program(_read_driver(), entry="run_tests", args=(job,))]
            if result.status != "ok" and is_guessing and not answers:
                is_guessing = False  # what was guessed may have led it astray
                continue
            if result.status == "sandbox_error" or (result.status == "timeout" and not known):
                return Verdict(False, "sandbox_error", f"the tests by themselves {describe_failure(result)}")
            state = self._read_state(result, has_answers=bool(known))
            if state["state"] == "passed":
                return Verdict(True)
            if state["state"] == "ended":
                failure = failures.get(state["number"], ProgramResult("raised"))
                return Verdict(False, failure.status, f"a call of the tests {describe_failure(failure)}")
            if state["state"] != "asked":
                return Verdict(False, "ok", state.get("why") or state.get("unsendable") or _TOO_MANY)
            calls = state["calls"][: _NEXT_CALLS if known else _FIRST_CALLS]
            results = yield [build_answer_program(source, *call) for call in calls]
            if any(answer.status == "sandbox_error" for answer in results):
                return Verdict(False, "sandbox_error", next(r.why for r in results if r.status == "sandbox_error"))
            for call, answer in zip(calls, results, strict=True):
                if answer.status == "ok" and not is_answer(answer.value):
                    answer = ProgramResult("bad_record", why="its answer was tampered with")
                if answer.status != "ok":
                    failures[len(known)] = answer
                known.append((call, answer.value if answer.status == "ok" else ["ended"]))
        return Verdict(False, "ok", _TOO_MANY)

    def _build_job(self, known: Sequence[tuple[Any, Answer]], is_guessing: bool) -> dict[str, Any]:
        return {
            "setup": self.setup,
            "tests": _mark_assertions(self.tests),
            "functions": dict(self.functions),
            "check": self.check,
            "answers": [[*call, answer] for call, answer in known],
            "max_calls": MAX_CALLS,
            "is_guessing": is_guessing,
            "seed": self.seed,
        }

    def _read_state(self, result: ProgramResult, *, has_answers: bool) -> dict[str, Any]:
        """Return how a run of the test's code stands.

        Raises:
            BrokenTestError: It failed before the program had any part in it, or never called the program.
        """
        if result.status != "ok":
            if not has_answers:
                raise BrokenTestError(f"the tests by themselves {describe_failure(result)}")
            return {"state": "failed", "why": f"with these answers the tests {describe_failure(result)}"}
        state: dict[str, Any] = result.value
        if state["state"] == "passed" and not state["num_calls"]:
            raise BrokenTestError("the tests never call the program")
        if has_answers:
            return state
        if "unsendable" in state:
            raise BrokenTestError(f"the tests cannot be judged: {state['unsendable']}")
        if state.get("is_full") and not _holds_while(f"{self.setup}\n{self.tests}"):
            raise BrokenTestError(_TOO_MANY)
        if state["state"] not in ("asked", "passed"):
            raise BrokenTestError(f"the tests fail before the program has answered: {state.get('why', _TOO_MANY)}")
        return state


def build_answer_program(source: str, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Return a program that calls one of its functions and gives the answer: a value, or the exception raised."""
    wrapped = source + _ANSWER.format(function=function)
    return Program(wrapped, entry="posttrain_answer__", args=(list(args), dict(kwargs)))


def is_answer(value: Any) -> bool:
    """Return whether a value has the form of an answer: the program may have replaced what forms it."""
    if type(value) is not list or not value:
        return False
    if value[0] == "returned":
        return len(value) == 2
    return value[0] == "raised" and len(value) == 3 and all(type(part) is str for part in value[1:])


class _AssertionMarker(ast.NodeTransformer):
    """Writes `assert ...` as `try: assert ... except Exception: settle_assertion__()`."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        """Return the assertion in its handler."""
        settle = ast.Expr(ast.Call(ast.Name("settle_assertion__", ast.Load()), [], []))
        handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [settle])
        return ast.Try(body=[node], handlers=[handler], orelse=[], finalbody=[])


@cache
def _read_driver() -> str:
    return resources.files(__package__).joinpath("code_driver.py").read_text(encoding="utf-8")


def _holds_while(tests: str) -> bool:
    """Return whether a guess in a condition may be why code asks for ever."""
    return any(isinstance(node, ast.While) for node in ast.walk(ast.parse(tests)))


@lru_cache(maxsize=1024)
def _mark_assertions(tests: str) -> str:
    return ast.unparse(ast.fix_missing_locations(_AssertionMarker().visit(ast.parse(tests))))
