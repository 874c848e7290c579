"""A calculator: exact arithmetic over rational numbers, bounded in length, depth and digits."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from posttrain.rollouts.tools import Tool, ToolError, take_text

MAX_CHARACTERS = 200
MAX_DIGITS = 100
"""Of a numerator or denominator, of results in between too."""
_DECIMALS = 10
_LARGEST = 10**MAX_DIGITS
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda x, y: Fraction(x // y),
    ast.Mod: operator.mod,
}


def compute(expression: str) -> str:
    """Return the value of an expression of numbers, brackets and `+ - * / // % **`, as text.

    Whole numbers and fractions that end are exact; of others ten decimals are given, rounded.

    Raises:
        ToolError: It is none, divides by zero, or is too large.
    """
    text = expression.strip().replace("×", "*").replace("−", "-").replace("^", "**")
    if len(text) > MAX_CHARACTERS:
        raise ToolError(f"an expression of more than {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(text, mode="eval").body
        return write_number(_evaluate(tree, text))
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError("not an expression of numbers, brackets and + - * / // % **") from None


def write_number(value: Fraction) -> str:
    """Return a number as text: exact where its decimals end within ten places, else rounded to ten."""
    scaled = round(value * 10**_DECIMALS)
    whole, rest = divmod(abs(scaled), 10**_DECIMALS)
    digits = f"{rest:0{_DECIMALS}d}".rstrip("0")
    return ("-" if scaled < 0 else "") + str(whole) + (f".{digits}" if digits else "")


def _evaluate(node: ast.expr, text: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = _read_number(str(ast.get_source_segment(text, node)).replace("_", "").lower())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _evaluate(node.operand, text)
        value = -inner if isinstance(node.op, ast.USub) else inner
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        value = _raise(_evaluate(node.left, text), _evaluate(node.right, text))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        value = _OPERATIONS[type(node.op)](_evaluate(node.left, text), _evaluate(node.right, text))
    else:
        raise ValueError(type(node).__name__)
    if abs(value.numerator) >= _LARGEST or value.denominator >= _LARGEST:
        raise ToolError(f"a number of more than {MAX_DIGITS} digits")
    return value


def _read_number(written: str) -> Fraction:
    """Return a number as it is written, so that 0.1 is a tenth."""
    _, _, exponent = written.partition("e")
    if exponent and abs(int(exponent)) > MAX_DIGITS:
        raise ToolError(f"a number of more than {MAX_DIGITS} digits")
    return Fraction(written)


def _raise(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolError("a power whose exponent is not whole")
    size = max(abs(base.numerator), base.denominator)
    if size > 1 and size.bit_length() * abs(exponent) > 8 * MAX_DIGITS:
        raise ToolError(f"a number of more than {MAX_DIGITS} digits")
    return base ** int(exponent)


def _run(arguments: Mapping[str, Any]) -> str:
    return compute(arguments["expression"])


CALCULATOR = Tool(
    "calculator", "Computes an arithmetic expression exactly.", take_text(expression="such as (12 + 30) * 1.5"), _run
)
