"""What an answer may cost, decided from its text and its syntax tree before anything is computed.

A computer-algebra system told to print `5^{5^{5^{5^5}}}` holds the interpreter for ever, and neither a thread nor
a signal ends it. So the size of every result is bounded from below upwards first: a power whose digits would be
too many is refused when its base and exponent are known, and before it is taken.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

MAX_CHARACTERS = 2000
MAX_DEPTH = 40
"""Brackets inside brackets."""
MAX_LITERAL_DIGITS = 400
"""Digits of one number as written."""
MAX_NODES = 600
MAX_DIGITS = 2000
"""Digits that numerator and denominator of an exact result may need together, by an upper bound."""
MAX_TOWER = 2
"""Exponents inside exponents."""
SYMBOL_DIGITS = 6
"""Digits of the numbers that stand in for a variable."""

Tree = list[Any]
"""A syntax tree as JSON has it: `["num", "3/4"]`, `["sym", "x"]`, `["add", a, b]`; see `math_syntax`."""


class Unreadable(Exception):  # noqa: N818 - not an error of the program: an answer's own property
    """An answer that has no reading here; the text says why, for a person."""


class TooCostly(Unreadable):
    """An answer that would cost too much to compute."""


def check_text(text: str) -> None:
    """Bound an answer's length, nesting and digits, in one pass over it.

    Raises:
        TooCostly: It exceeds a bound.
    """
    if len(text) > MAX_CHARACTERS:
        raise TooCostly(f"{len(text)} characters, more than {MAX_CHARACTERS}")
    depth = digits = 0
    for character in text:
        if character in "({[":
            depth += 1
        elif character in ")}]":
            depth -= 1
        digits = digits + 1 if character.isdigit() else 0
        if depth > MAX_DEPTH:
            raise TooCostly(f"brackets nested deeper than {MAX_DEPTH}")
        if digits > MAX_LITERAL_DIGITS:
            raise TooCostly(f"a number of more than {MAX_LITERAL_DIGITS} digits")


def count_digits(value: Fraction) -> int:
    """Return the decimal digits of numerator and denominator together, rounded up."""
    bits = value.numerator.bit_length() + (value.denominator.bit_length() if value.denominator != 1 else 0)
    return int(bits * math.log10(2)) + 1


def check_digits(digits: float, what: str) -> float:
    """Return the digits if they are within the bound.

    Raises:
        TooCostly: They are not.
    """
    if not digits <= MAX_DIGITS:
        raise TooCostly(f"{what} has more than {MAX_DIGITS} digits")
    return digits


def check_power(base: Fraction, exponent: Fraction) -> None:
    """Refuse an exact power that is too large to be taken.

    Raises:
        TooCostly: `|exponent| * log10(|numerator| * denominator)` exceeds the bound.
    """
    if base in (0, 1, -1):
        return
    size = math.log10(abs(base.numerator)) + math.log10(base.denominator)
    check_digits(float(min(abs(exponent), Fraction(10 * MAX_DIGITS))) * size, "a power")


def check_factorial(argument: Fraction) -> int:
    """Return the argument of a factorial, which must be a small whole number.

    Raises:
        TooCostly: It is too large.
        Unreadable: It is negative or not whole.
    """
    if argument.denominator != 1 or argument < 0:
        raise Unreadable(f"a factorial of {argument}")
    if argument > MAX_DIGITS or int(argument) * math.log10(max(1, int(argument))) > MAX_DIGITS:
        raise TooCostly("a factorial that is too large")
    return int(argument)


def check_binomial(top: Fraction, bottom: Fraction) -> tuple[int, int]:
    """Return the arguments of a binomial coefficient, which must be small whole numbers.

    Raises:
        TooCostly: They are too large.
        Unreadable: They are negative or not whole.
    """
    if top.denominator != 1 or bottom.denominator != 1 or top < 0 or bottom < 0:
        raise Unreadable("a binomial coefficient of what is not a whole number")
    if top > MAX_DIGITS:
        raise TooCostly("a binomial coefficient that is too large")
    return int(top), int(bottom)


def measure(tree: Tree) -> float:
    """Return an upper bound on the digits that a tree's value takes where its variables are small numbers.

    Used for trees that are not exact numbers as a whole. Powers with a constant exponent count that many copies
    of their base; exponents that hold a variable count as their own size.

    Raises:
        TooCostly: Too many digits, nodes or exponents inside exponents.
    """
    _count_nodes(tree, [0])
    return _measure(tree, 0)


def _count_nodes(tree: Tree, count: list[int]) -> None:
    count[0] += 1
    if count[0] > MAX_NODES:
        raise TooCostly(f"more than {MAX_NODES} parts")
    for part in tree[1:]:
        if isinstance(part, list):
            _count_nodes(part, count)


def _measure(tree: Tree, tower: int) -> float:
    kind = tree[0]
    if kind == "num":
        return float(count_digits(Fraction(tree[1])))
    if kind == "sym":
        return SYMBOL_DIGITS
    if kind == "pow":
        return check_digits(_measure_power(tree, tower), "a power")
    if kind in ("fact", "binom") and tree[1][0] == "num":
        size = Fraction(tree[1][1])
        return check_digits(float(size) * 3 if abs(size) < 10 * MAX_DIGITS else math.inf, f"a {kind}")
    return check_digits(1 + sum(_measure(part, tower) for part in tree[1:] if isinstance(part, list)), "the answer")


def _measure_power(tree: Tree, tower: int) -> float:
    if tower >= MAX_TOWER:
        raise TooCostly("a tower of powers")
    base, exponent = _measure(tree[1], tower), _measure(tree[2], tower + 1)
    times = _read_size(tree[2])
    return base * max(1.0, times) if times is not None else base * exponent


def _read_size(tree: Tree) -> float | None:
    """Return |value| of an exponent that is a plain number, possibly negated or divided."""
    if tree[0] == "num":
        value = abs(Fraction(tree[1]))
        return float(value) if value < 10**9 else math.inf
    if tree[0] == "neg":
        return _read_size(tree[1])
    if tree[0] == "div":
        top, bottom = _read_size(tree[1]), _read_size(tree[2])
        return None if top is None or not bottom else top / bottom
    return None
