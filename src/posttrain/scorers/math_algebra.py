"""Decides equality of expressions and equations that are no exact numbers; runs only inside a killable process.

Two expressions are equal if they agree at random points: rational points and a precision beyond the digits that the
expressions could hide a difference in (Schwartz 1980, Zippel 1979: a polynomial of degree d that is not zero vanishes
at a point drawn from n values with probability at most d / n). Numbers with roots or pi are one such point.
Two equations are equal if the differences of their sides have a constant ratio that is not zero, two inequalities
if it is positive.

No simplifier takes part, so the cost is that of a few evaluations; whatever still runs too long is killed from
outside. The points depend on the two texts alone: the same pair has the same verdict everywhere.

Not decided here: whether an answer has the shape that was asked (factored, in lowest terms).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import mpmath

from posttrain.scorers.math_gates import Tree, Unreadable, measure
from posttrain.scorers.math_objects import Object, match
from posttrain.scorers.math_values import Infinite, evaluate

Values = dict[str, Fraction]
Job = dict[str, Any]
_NUM_POINTS = 12
_ENOUGH = 4
"""Points that must agree where a function is not defined, or not real, at all of them."""
_GUARD_DIGITS = 25
_UNDEFINED = (ZeroDivisionError, ValueError, OverflowError)
_FUNCTIONS = {name: getattr(mpmath.mp, name) for name in (
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "ln", "exp",
)}  # fmt: skip


def decide(job: Job) -> bool:
    """Return whether `job["answer"]` is `job["gold"]`: objects of `math_objects`.

    `job["tolerance"]`, if there, is the largest absolute difference of two numbers, as a fraction's text.

    Raises:
        Unreadable: One of them has no value at any point.
        TooCostly: Its evaluation would take too many digits.
    """
    gold, answer, tolerance = job["gold"], job["answer"], job.get("tolerance")
    rng = random.Random(hashlib.sha256(json.dumps([gold, answer]).encode()).digest())
    if gold[0] == answer[0] == "relation":
        return gold[1] == answer[1] and _is_same_relation(gold, answer, rng)
    margin = Fraction(tolerance) if tolerance else None
    return bool(match(gold, answer, lambda left, right: are_equal(left, right, rng, margin)))


def are_equal(left: Tree, right: Tree, rng: random.Random, margin: Fraction | None = None) -> bool:
    """Return whether two expressions agree wherever both are defined and real (complex, if `i` is in them).

    Raises:
        Unreadable: They have no common point.
        TooCostly: Their evaluation would take too many digits.
    """
    exact = evaluate(left), evaluate(right)
    if isinstance(exact[0], Infinite) or isinstance(exact[1], Infinite):
        return exact[0] == exact[1]
    digits = int(measure(left) + measure(right))
    names = sorted(_find_names(left) | _find_names(right))
    is_complex = _holds(left, "i") or _holds(right, "i")
    smallest = mpmath.mpf(10) ** -(digits + _GUARD_DIGITS)
    num_agreed = aside_agreed = aside_differed = 0
    with mpmath.workdps(2 * digits + 3 * _GUARD_DIGITS):
        for values in _draw_points(names, rng):
            pair = _evaluate_both(left, right, values)
            if pair is None:
                continue
            difference, scale = abs(pair[0] - pair[1]), max(1, abs(pair[0]), abs(pair[1]))
            is_close = difference <= (_to_real(margin) if margin else smallest * scale)
            if names and not is_complex and not (_is_real(pair[0], smallest) and _is_real(pair[1], smallest)):
                aside_agreed += is_close  # an identity of real numbers need not hold on the branches beyond them
                aside_differed += not is_close
                continue
            if not is_close:
                return False
            num_agreed += 1
    if not names and num_agreed == 0:
        raise Unreadable("it has no value")
    if not names or num_agreed >= _ENOUGH:
        return True
    return num_agreed + aside_agreed >= _ENOUGH and aside_differed == 0


def _is_same_relation(gold: Object, answer: Object, rng: random.Random) -> bool:
    sides = [gold[2], gold[3], answer[2], answer[3]]
    digits = int(sum(measure(side) for side in sides))
    names = sorted(set().union(*(_find_names(side) for side in sides)))
    smallest = mpmath.mpf(10) ** -(digits + _GUARD_DIGITS)
    ratio: Any = None
    num_agreed = 0
    with mpmath.workdps(2 * digits + 3 * _GUARD_DIGITS):
        for values in _draw_points(names, rng):
            ours, theirs = _evaluate_both(gold[2], gold[3], values), _evaluate_both(answer[2], answer[3], values)
            if ours is None or theirs is None or ours[0] == ours[1]:
                continue
            found = (theirs[0] - theirs[1]) / (ours[0] - ours[1])
            ratio = found if ratio is None else ratio
            if abs(found - ratio) > smallest * max(1, abs(ratio)) or abs(found) <= smallest:
                return False
            num_agreed += 1
    is_positive = ratio is not None and _is_real(ratio, smallest) and mpmath.re(ratio) > 0
    return num_agreed >= _ENOUGH and (gold[1] == "=" or bool(is_positive))


def _draw_points(names: list[str], rng: random.Random) -> Iterator[Values]:
    """Yield rational points: first positive ones, then of both signs, between 0.1 and 3 in size."""
    if not names:
        yield {}
        return
    for number in range(_NUM_POINTS):
        signs = (1,) if number < _ENOUGH else (1, -1)
        yield {name: rng.choice(signs) * Fraction(rng.randint(11, 299), 101) for name in names}


def _evaluate_both(left: Tree, right: Tree, values: Values) -> tuple[Any, Any] | None:
    try:
        pair = compute(left, values), compute(right, values)
    except _UNDEFINED:
        return None
    return pair if all(mpmath.isfinite(value) for value in pair) else None


def _is_real(value: Any, smallest: Any) -> bool:
    return bool(abs(mpmath.im(value)) <= smallest * max(1, abs(value)))


def _find_names(tree: Tree) -> set[str]:
    if tree[0] == "sym":
        return {tree[1]}
    return set().union(*(_find_names(part) for part in tree[1:] if isinstance(part, list)))


def _holds(tree: Tree, constant: str) -> bool:
    return tree == ["const", constant] or any(_holds(part, constant) for part in tree[1:] if isinstance(part, list))


def _to_real(value: Fraction) -> Any:
    return mpmath.mpf(value.numerator) / value.denominator


def compute(tree: Tree, values: Values) -> Any:
    """Return a tree's value at a point, at mpmath's working precision.

    Raises:
        ZeroDivisionError, ValueError, OverflowError: It has none there.
    """
    kind = tree[0]
    if kind == "num":
        return _to_real(Fraction(tree[1]))
    if kind == "sym":
        return _to_real(values[tree[1]])
    if kind == "const":
        return {"pi": mpmath.mp.pi, "e": mpmath.mp.e, "i": mpmath.mpc(0, 1), "inf": mpmath.mp.inf}[tree[1]] * 1
    if kind == "fn":
        return _FUNCTIONS[tree[1]](compute(tree[2], values))
    if kind in ("pow", "root"):
        return _compute_power(tree, values)
    parts = [compute(part, values) for part in tree[1:]]
    if kind == "add":
        return sum(parts[1:], parts[0])
    if kind == "mul":
        product = parts[0]
        for part in parts[1:]:
            product *= part
        return product
    return _compute_other(kind, parts)


def _compute_other(kind: str, parts: list[Any]) -> Any:
    if kind == "neg":
        return -parts[0]
    if kind == "inv":
        return 1 / parts[0]
    if kind == "div":
        return parts[0] / parts[1]
    if kind == "log":
        return mpmath.log(parts[1]) / mpmath.log(parts[0])
    if kind == "binom":
        return mpmath.binomial(parts[0], parts[1])
    return {"abs": abs, "fact": mpmath.factorial, "floor": mpmath.floor, "ceil": mpmath.ceil}[kind](parts[0])


def _compute_power(tree: Tree, values: Values) -> Any:
    """Take a power; an odd root of a negative real number is the negative real one, as in school."""
    if tree[0] == "root":
        base, exponent = tree[2], ["inv", tree[1]]
    else:
        base, exponent = tree[1], tree[2]
    number = compute(base, values)
    exact = evaluate(exponent)
    is_negative = isinstance(number, mpmath.mpf) and number < 0
    if is_negative and isinstance(exact, Fraction) and exact.denominator % 2 and exact.denominator > 1:
        size = mpmath.power(-number, _to_real(exact))
        return -size if exact.numerator % 2 else size
    return mpmath.power(number, _to_real(exact) if isinstance(exact, Fraction) else compute(exponent, values))
