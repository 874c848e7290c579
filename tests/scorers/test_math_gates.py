"""The gates: what costs too much is refused before it is computed, what is large and cheap is let through."""

from fractions import Fraction

import pytest

from posttrain.scorers.math_gates import (
    MAX_DIGITS,
    TooCostly,
    Unreadable,
    check_binomial,
    check_factorial,
    check_power,
    check_text,
    count_digits,
    measure,
)
from posttrain.scorers.math_syntax import parse_expression
from posttrain.scorers.math_text import write_plainly
from posttrain.scorers.math_values import evaluate


@pytest.mark.parametrize("text", ["1" * 401, "(" * 41, "[" * 41, "x" * 2001, "{" * 50 + "}" * 50, "٣" * 401])
def test_a_text_that_is_too_long_too_deep_or_a_number_too_large_is_refused(text):
    with pytest.raises(TooCostly):
        check_text(text)


def test_a_text_within_the_bounds_passes():
    check_text("1" * 400 + "+" + "2" * 400)
    check_text("(" * 40 + ")" * 40)
    check_text("()" * 1000)


@pytest.mark.parametrize(
    "text",
    [
        "5^{5^{5^{5^5}}}", "5^{5^5}", "2^{10^9}", "(2^{1000})^{1000}", "10^{-9999}", "((9!)!)!", "1000!",
        r"\binom{10^{10}}{5}", r"2^{2000}*3^{3000}*5^{1000}", r"(\frac{1}{3})^{99999}",
    ],
)  # fmt: skip
def test_an_exact_value_that_would_be_too_large_is_refused(text):
    with pytest.raises(TooCostly):
        evaluate(parse_expression(write_plainly(text)))


@pytest.mark.parametrize(
    "text", ["(x+1)^{100000}", "x^{x^{x^x}}", "2^{x^{2^{x}}}", "(x^{100})^{100}", "+".join(["x"] * 700)]
)
def test_an_expression_that_would_cost_too_much_is_refused(text):
    with pytest.raises(TooCostly):
        measure(parse_expression(text))


def test_large_and_cheap_is_let_through():
    assert evaluate(parse_expression("2^{4950}")) == 2**4950
    assert evaluate(parse_expression("100!/98!")) == 9900
    assert measure(parse_expression("x^{100}+1")) < MAX_DIGITS


def test_digits_are_counted_of_numerator_and_denominator_together():
    for value in (Fraction(1), Fraction(999), Fraction(-1000), Fraction(1, 7), Fraction(10**50, 3)):
        exact = len(str(abs(value.numerator))) + (len(str(value.denominator)) if value.denominator > 1 else 0)
        assert exact <= count_digits(value) + 1 and count_digits(value) <= exact + 1


def test_one_and_zero_may_be_raised_to_anything():
    for base in (0, 1, -1):
        check_power(Fraction(base), Fraction(10**100))


@pytest.mark.parametrize("argument", [Fraction(1, 2), Fraction(-1)])
def test_a_factorial_of_what_is_no_whole_number_is_unreadable_and_not_costly(argument):
    with pytest.raises(Unreadable) as caught:
        check_factorial(argument)
    assert not isinstance(caught.value, TooCostly)
    with pytest.raises(Unreadable):
        check_binomial(argument, Fraction(1))
