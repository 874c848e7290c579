"""Exact numbers: reading plain numerals, evaluating a tree as a fraction, units and percent.

No float takes part. A tree whose value is rational is evaluated here, every step after its cost is known; any other
(roots that do not come out, pi, variables) has no exact value here and goes to `math_algebra`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from posttrain.scorers.math_gates import (
    Tree,
    Unreadable,
    check_binomial,
    check_digits,
    check_factorial,
    check_power,
    count_digits,
)

_DIGITS = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
_NUMERAL = re.compile(
    r"(?P<sign>[+-]?)(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3}| ?\* ?10\^(?:\{[+-]?\d{1,3}\}|\d{1,3}))?", re.I
)
_FRACTION = re.compile(r"([+-]?)(?:(\d+) ?(?= \d|\\))?(?:([+-]?\d+) ?/ ?(\d+)|\\frac\{([+-]?\d+)\}\{(\d+)\})")
_REPEATING = re.compile(r"(\d+)\.(\d*)(?:\\bar ?\{?(\d+)\}?)|(\d+)\.\((\d+)\)")
INFINITY = "inf"


@dataclass(frozen=True, slots=True)
class Infinite:
    """An endpoint at infinity: sign +1 or -1."""

    sign: int


Exact = Fraction | Infinite


def write_repeating(text: str) -> str:
    r"""Return the text with repeating decimals as fractions: `0.\bar{3}` and `0.(3)` become `\frac{1}{3}`."""

    def write(found: re.Match[str]) -> str:
        whole, once, again = (found[1], found[2], found[3]) if found[3] else (found[4], "", found[5])
        if len(once + again) > 200:
            raise Unreadable("a repeating decimal of more than 200 digits")
        numerator = int(whole + once + again) - int(whole + once)
        value = Fraction(numerator, 10 ** len(once) * (10 ** len(again) - 1))
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"

    return _REPEATING.sub(write, text)


def read_integer(text: str) -> Fraction:
    """Return a number written in digits; `18.00` is a whole one, `1e3` and `36/2` are none at all.

    `10.5` is read as well: it is a wrong answer, not one that cannot be read.

    Raises:
        Unreadable: It is written otherwise.
    """
    if not _DIGITS.fullmatch(text):
        raise Unreadable(f"{show(text)} is not a whole number in digits")
    return Fraction(text.rstrip("."))


def read_numeral(text: str) -> Fraction:
    r"""Return a decimal (`-1.5`, `1e3`, `2 * 10^3`), a fraction of whole numbers or a mixed number.

    Raises:
        Unreadable: It is written otherwise: a computation is not a number.
    """
    text = write_repeating(text)
    if _NUMERAL.fullmatch(text):
        mantissa, _, exponent = re.sub(r" ?\* ?10\^", "e", text.lower(), count=1).partition("e")
        value = Fraction(mantissa.rstrip(".") if mantissa[-1:] == "." else mantissa)
        return value * Fraction(10) ** int(exponent.strip("{}") or "0")
    found = _FRACTION.fullmatch(text)
    if not found:
        raise Unreadable(f"{show(text)} is not a plain number")
    sign, whole, *parts = found.groups()
    top, bottom = (int(part) for part in (parts[:2] if parts[0] else parts[2:]))
    if bottom == 0:
        raise Unreadable("a fraction over zero")
    if whole is not None and not 0 < top < bottom:
        raise Unreadable("a whole number before a fraction that is not proper")
    value = int(whole or "0") + Fraction(top, bottom)
    return -value if sign == "-" else value


def write_mixed(text: str) -> str:
    r"""Return the text with a mixed number typed on a keyboard (`1 4/5`) as `1\frac{4}{5}`, where that is all of it."""
    found = re.fullmatch(r"([+-]?)(\d+) (\d+) ?/ ?(\d+)", text)
    return rf"{found[1]}{found[2]}\frac{{{found[3]}}}{{{found[4]}}}" if found else text


def evaluate(tree: Tree) -> Exact | None:
    """Return a tree's exact value, or None where it is not rational or holds a variable.

    Raises:
        TooCostly: A step would take too many digits.
        Unreadable: A step has no value: a division by zero, a factorial of a half.
    """
    kind = tree[0]
    if kind == "num":
        return Fraction(tree[1])
    if kind == "const":
        return Infinite(1) if tree[1] == INFINITY else None
    if kind == "sym":
        return None
    values = [evaluate(part) for part in tree[1:] if isinstance(part, list)]
    if len(values) == 1 and isinstance(values[0], Infinite):
        return Infinite(-values[0].sign) if kind == "neg" else None
    numbers = [value for value in values if isinstance(value, Fraction)]
    if len(numbers) < len(values) or kind not in _STEPS:
        return None
    result = _STEPS[kind](numbers)
    if result is not None:
        check_digits(count_digits(result), "the answer")
    return result


def _multiply(values: list[Fraction]) -> Fraction:
    product = Fraction(1)
    for value in values:
        check_digits(count_digits(product) + count_digits(value), "a product")
        product *= value
    return product


def _add(values: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for value in values:
        check_digits(count_digits(total) + count_digits(value), "a sum")
        total += value
    return total


def _invert(value: Fraction) -> Fraction:
    if value == 0:
        raise Unreadable("a division by zero")
    return 1 / value


def _raise(base: Fraction, exponent: Fraction) -> Fraction | None:
    if base == 0 and exponent <= 0:
        raise Unreadable("zero to a power that is not positive")
    if exponent.denominator == 1:
        check_power(base, exponent)
        return base ** int(exponent)
    if exponent.denominator > 64:
        return None
    root = _take_root(Fraction(exponent.denominator), base)
    return None if root is None else _raise(root, Fraction(exponent.numerator))


def _take_root(degree: Fraction, value: Fraction) -> Fraction | None:
    """Return a rational root, or None; an odd root of a negative number is negative."""
    if degree.denominator != 1 or not 2 <= degree <= 64:
        return None
    n = int(degree)
    if value < 0:
        root = _take_root(degree, -value) if n % 2 else None
        return None if root is None else -root
    top, bottom = _whole_root(value.numerator, n), _whole_root(value.denominator, n)
    return None if top is None or bottom is None else Fraction(top, bottom)


def _whole_root(value: int, n: int) -> int | None:
    if n == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    low, high = 0, 1 << (value.bit_length() // n + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**n < value:
            low = middle + 1
        else:
            high = middle
    return low if low**n == value else None


_STEPS: dict[str, Callable[[list[Fraction]], Fraction | None]] = {
    "add": _add,
    "mul": _multiply,
    "neg": lambda v: -v[0],
    "inv": lambda v: _invert(v[0]),
    "div": lambda v: _multiply([v[0], _invert(v[1])]),
    "pow": lambda v: _raise(v[0], v[1]),
    "root": lambda v: _take_root(v[0], v[1]),
    "abs": lambda v: abs(v[0]),
    "floor": lambda v: Fraction(math.floor(v[0])),
    "ceil": lambda v: Fraction(math.ceil(v[0])),
    "fact": lambda v: Fraction(math.factorial(check_factorial(v[0]))),
    "binom": lambda v: Fraction(math.comb(*check_binomial(v[0], v[1]))),
}


def show(text: str) -> str:
    """Return a text for a sentence, cut to a readable length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def show_number(value: Fraction) -> str:
    """Return a number for a sentence, cut to a readable length."""
    if count_digits(value) > 60:
        return f"a number of {count_digits(value)} digits"
    return str(value)
