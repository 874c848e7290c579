"""Arithmetic and functions of bounded cost, for what a program's values are put to outside every sandbox.

Each is Python's own, but refuses work that a small value can make large (`2 ** n`, `[0] * n`, `range(n)`).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_ITEMS = 2_000
MAX_BITS = 65_536
MAX_CHARACTERS = 100_000
"""What is evaluated here: larger values go to a sandbox, where cost has a limit."""


class TooLargeError(Exception):
    """A value that costs too much to be computed with outside a sandbox."""


def check_size(value: Any) -> None:
    """Raise TooLargeError where a plain value has too many items, characters or digits to compute with here."""
    num_items = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        num_items += 1
        if isinstance(item, int) and item.bit_length() > MAX_BITS:
            raise TooLargeError(f"an integer of {item.bit_length()} bits")
        if isinstance(item, str | bytes):
            num_items += len(item) * MAX_ITEMS // MAX_CHARACTERS
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        if num_items + len(waiting) > MAX_ITEMS:
            raise TooLargeError(f"more than {MAX_ITEMS} items")


def _guard(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return an operation that refuses text formatting, and integers whose result is quadratic work."""

    def operate_bounded(left: Any, right: Any) -> Any:
        if isinstance(left, str | bytes) and operate is operator.mod:
            raise TooLargeError("text formatting")
        result = operate(left, right)
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise TooLargeError(f"an integer of {result.bit_length()} bits")
        return result

    return operate_bounded


def _multiply(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int) and isinstance(other, str | bytes | list | tuple) and one * len(other) > MAX_CHARACTERS:
            raise TooLargeError(f"a sequence of {len(other)} items repeated")
    return left * right


def _raise_to(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise TooLargeError(f"a power of {exponent}")
    return base**exponent


def _shift_left(left: Any, right: Any) -> Any:
    if isinstance(right, int) and right > MAX_BITS:
        raise TooLargeError(f"a shift by {right} bits")
    return left << right


def _range(*bounds: Any) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_CHARACTERS:
        raise TooLargeError(f"a range of {len(numbers)} numbers")
    return numbers


def _to_bytes(*parts: Any) -> bytes:
    if parts and isinstance(parts[0], int) and parts[0] > MAX_CHARACTERS:
        raise TooLargeError(f"{parts[0]} bytes")
    return bytes(*parts)


def _type_of(value: Any) -> type:
    return type(value)


def _round(number: Any, ndigits: Any = None) -> Any:
    if isinstance(ndigits, int) and abs(ndigits) > 1_000:
        raise TooLargeError(f"rounding to {ndigits} digits")
    return round(number, ndigits)


FUNCTIONS: dict[str, Callable[..., Any]] = {"range": _range, "bytes": _to_bytes, "type": _type_of, "round": _round}
BINARY_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _guard(operator.add), ast.Sub: _guard(operator.sub), ast.Mult: _guard(_multiply),
    ast.Div: _guard(operator.truediv), ast.FloorDiv: _guard(operator.floordiv), ast.Mod: _guard(operator.mod),
    ast.Pow: _guard(_raise_to), ast.LShift: _guard(_shift_left), ast.RShift: _guard(operator.rshift),
    ast.BitAnd: _guard(operator.and_), ast.BitOr: _guard(operator.or_), ast.BitXor: _guard(operator.xor),
}  # fmt: skip
