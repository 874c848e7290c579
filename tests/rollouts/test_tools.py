"""Tools: exact and bounded sums, programs in the sandbox, functions of the user's own, and their schemas."""

from __future__ import annotations

import threading
import time

import pytest

from posttrain.core.errors import RecipeError
from posttrain.rollouts.calculator import CALCULATOR, compute
from posttrain.rollouts.tools import (
    MAX_HUNG_CALLS,
    TimedFunction,
    ToolError,
    build_python_tool,
    describe_function,
)
from posttrain.sandbox.programs import ProgramLimits
from posttrain.sandbox.running import ProgramPool


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("24 * 49", "1176"),
        ("0.1 + 0.2", "0.3"),
        ("-(2 + 3) * 4 / 8", "-2.5"),
        ("1 / 3", "0.3333333333"),
        ("2 / 3 * 3", "2"),
        ("7 // 2 + 7 % 4", "6"),
        ("2 ^ 10 - 2 ** -1", "1023.5"),
        ("1_000 × 3 − 1", "2999"),
        ("99999999999999999999 + 1", "100000000000000000000"),
        ("1e3", "1000"),
        ("1 ** 99999999999", "1"),
    ],
)
def test_sums_are_exact(expression: str, value: str) -> None:
    assert compute(expression) == value and CALCULATOR.run({"expression": expression}) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "not an expression"),
        ("2 +", "not an expression"),
        ("x", "not an expression"),
        ("__import__('os').getcwd()", "not an expression"),
        ("True + 1", "not an expression"),
        ("'a' * 3", "not an expression"),
        ("1 if 2 else 3", "not an expression"),
        ("1j", "not an expression"),
        ("1e999999999", "more than 100 digits"),
        ("9 ** 9 ** 9", "more than 100 digits"),
        ("(9 ** 99) * (9 ** 99)", "more than 100 digits"),
        ("2 ** 0.5", "exponent is not whole"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("(" * 180 + "1", "not an expression"),
        ("1 + " * 60 + "1", "more than 200 characters"),
    ],
)
def test_what_is_no_sum_or_too_large_is_said(expression: str, why: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ToolError, match=why):
        compute(expression)
    assert time.monotonic() - begun < 60  # no astronomical number was begun


def test_programs_give_what_they_print_and_failures_say_why() -> None:
    with ProgramPool(1, limits=ProgramLimits(cpu_seconds=1, wall_seconds=5)) as pool:
        tool = build_python_tool(pool)
        assert tool.run({"code": "print(6 * 7)"}) == "42" and tool.run({"code": "x = 1"}) == "(nothing was printed)"
        with pytest.raises(ToolError, match=r"(?s)ZeroDivisionError.*begun"):
            tool.run({"code": "print('begun'); 1 / 0"})
        with pytest.raises(ToolError, match="time"):
            tool.run({"code": "while True: pass"})


def test_a_function_is_described_by_its_signature_and_docstring() -> None:
    def weather(town: str, days: int = 1, units: list[str] | None = None) -> str:
        """Tells the weather
        of a town.

        More for who reads the source.
        """
        return f"{town} {days} {units}"

    with pytest.raises(RecipeError, match="units"):
        describe_function(weather, "tools")

    def rain(town: str, days: int = 1, *, hourly: bool = False) -> str:
        """Tells the weather
        of a town."""
        return f"{town} {days} {hourly}"

    about, parameters = describe_function(rain, "tools")
    assert about == "Tells the weather of a town."
    assert parameters == {
        "type": "object",
        "properties": {"town": {"type": "string"}, "days": {"type": "integer"}, "hourly": {"type": "boolean"}},
        "required": ["town"],
    }


def test_a_function_that_hangs_costs_its_time_and_many_that_hang_fail_at_once() -> None:
    calls: list[int] = []
    is_over = threading.Event()

    def hang(n: int) -> None:
        calls.append(n)
        is_over.wait(60)

    tool = TimedFunction(hang, 0.005)
    for n in range(MAX_HUNG_CALLS):
        with pytest.raises(ToolError, match="no result within"):
            tool({"n": n})
    with pytest.raises(ToolError, match="8 earlier calls have not returned"):
        tool({"n": 99})
    is_over.set()
    assert sorted(calls) == list(range(MAX_HUNG_CALLS))

    def leave(n: int) -> None:
        raise SystemExit(n)

    with pytest.raises(ToolError, match="SystemExit: 3"):
        TimedFunction(leave, 5)({"n": 3})
