"""The tests of a program whose verdict is formed outside every sandbox: values, printed text, rewritten assertions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.sandbox.programs import Program, ProgramResult
from posttrain.scorers.code_arithmetic import TooLargeError, check_size
from posttrain.scorers.code_comparison import Comparison, outputs_match, show_value, values_match
from posttrain.scorers.code_expressions import Call, Expression
from posttrain.scorers.code_judging import Judging, Verdict, describe_failure
from posttrain.scorers.code_scripts import ScriptTest

ENTRY_PATTERN = re.compile(r"[A-Za-z_]\w*(\(\))?(\.[A-Za-z_]\w*)*", re.ASCII)
"""A function, or a method of a class or of its instance: `f`, `Solution.f`, `Solution().f`."""
_ENTRY = "\n\ndef posttrain_entry__(*args__, **kwargs__):\n    return {function}(*args__, **kwargs__)\n"


@dataclass(frozen=True, slots=True)
class ValueTest:
    """A call of the program, and the value that it must return."""

    call: Call
    expected: Any
    comparison: Comparison

    def judge(self, source: str) -> Judging[Verdict]:
        """Judge a program by what one call returns."""
        (result,) = yield [build_call_program(source, self.call)]
        if result.status != "ok":
            return Verdict(False, result.status, f"{show_call(self.call)} {describe_failure(result)}")
        if values_match(self.expected, result.value, self.comparison):
            return Verdict(True)
        found = f"gave {_show_typed(result.value)}, expected {_show_typed(self.expected)}"
        return Verdict(False, "ok", f"{show_call(self.call)} {found}")


@dataclass(frozen=True, slots=True)
class OutputTest:
    """What the program reads on standard input, and what it must print."""

    stdin: str
    expected: str

    def judge(self, source: str) -> Judging[Verdict]:
        """Judge a program by what it prints; it must end by itself."""
        (result,) = yield [Program(source, stdin=self.stdin)]
        shown = f"for the input {show_value(self.stdin, 80)} it"
        if result.status != "ok":
            return Verdict(False, result.status, f"{shown} {describe_failure(result)}")
        if outputs_match(self.expected, result.stdout):
            return Verdict(True)
        return Verdict(
            False, "ok", f"{shown} printed {show_value(result.stdout)}, expected {show_value(self.expected)}"
        )


@dataclass(frozen=True, slots=True)
class AssertTest:
    """An assertion as an expression over calls of the program.

    Values too large to compute with here are given to the same assertion in a sandbox, where cost has a limit.
    """

    expression: Expression

    def judge(self, source: str) -> Judging[Verdict]:
        """Judge a program by whether the assertion holds of what its calls return."""
        calls = self.expression.calls
        results = yield [build_call_program(source, call) for call in calls]
        try:
            return self._evaluate(results)
        except TooLargeError:
            answers = [
                (Call("answer__", (number,), {}), ["returned", result.value] if result.status == "ok" else ["ended"])
                for number, result in enumerate(results)
            ]
        script = ScriptTest("import math", f"assert {self.expression.text_of_answers}", {"answer__": "answer__"})
        return (yield from script.judge(source, answers))

    def _evaluate(self, results: list[ProgramResult]) -> Verdict:
        def read(number: int) -> Any:
            if results[number].status != "ok":
                raise _CallError(number)
            check_size(results[number].value)
            return results[number].value

        shown = f"assert {self.expression.text}"[:300]
        try:
            is_passed = bool(self.expression.evaluate(read))
        except _CallError as error:
            number: int = error.args[0]
            call = show_call(self.expression.calls[number])
            return Verdict(False, results[number].status, f"{call} {describe_failure(results[number])}")
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            return Verdict(False, "ok", f"{shown}: {type(error).__name__} of {self._show_values(results)}")
        return Verdict(True) if is_passed else Verdict(False, "ok", f"{shown}: it gave {self._show_values(results)}")

    def _show_values(self, results: list[ProgramResult]) -> str:
        return ", ".join(show_value(result.value, 100) for result in results if result.status == "ok")


class _CallError(Exception):
    """A call whose value the assertion needs, and that has none: its number."""


def build_call_program(source: str, call: Call) -> Program:
    """Return a program that makes one call."""
    if call.function.isidentifier():
        return Program(source, entry=call.function, args=tuple(call.args), kwargs=dict(call.kwargs))
    wrapped = source + _ENTRY.format(function=call.function)
    return Program(wrapped, entry="posttrain_entry__", args=tuple(call.args), kwargs=dict(call.kwargs))


def show_call(call: Call) -> str:
    """Return a call as a person would write it, of bounded length."""
    arguments = [show_value(argument, 80) for argument in call.args]
    arguments += [f"{name}={show_value(argument, 80)}" for name, argument in _items(call.kwargs)]
    text = f"{call.function}({', '.join(arguments)})"
    return text if len(text) <= 200 else text[:197] + "..."


def _items(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(mapping.items())


def _show_typed(value: Any) -> str:
    return f"{show_value(value)} ({type(value).__name__})"
