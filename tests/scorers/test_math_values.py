"""Exact numbers: numerals, evaluation without floats, units."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.scorers.math_gates import Unreadable
from posttrain.scorers.math_syntax import parse_expression
from posttrain.scorers.math_text import write_plainly
from posttrain.scorers.math_units import name_unit, split_unit
from posttrain.scorers.math_values import Infinite, evaluate, read_integer, read_numeral, write_repeating


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_is_read_as_itself_in_every_form_of_writing_it(value):
    top, bottom = value.numerator, value.denominator
    for text in (f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}"):
        assert read_numeral(text) == value
        assert evaluate(parse_expression(text)) == value
    whole, rest = divmod(abs(value), 1)
    if rest and whole:
        sign = "-" if value < 0 else ""
        assert read_numeral(rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}") == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_every_decimal_is_read_exactly(value):
    assert read_numeral(str(value)) == Fraction(value)
    assert read_integer(str(value)) == Fraction(value)


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(1, 10**4))
def test_a_repeating_decimal_is_the_fraction_that_it_converges_to(whole, once, again):
    text = write_repeating(rf"{whole}.{once}\bar{{{again}}}")
    period = Fraction(again, 10 ** len(str(again)) - 1)
    assert read_numeral(text) == whole + (once + period) / 10 ** len(str(once))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)), (r"\sqrt[3]{-27}", -3), ("8^{2/3}", 4), ("(-8)^{1/3}", -2),
        ("2^{-3}", Fraction(1, 8)), ("|-5|", 5), (r"\lfloor -1.5 \rfloor", -2), (r"\lceil 1.5 \rceil", 2), ("5!", 120),
        (r"\binom{5}{2}", 10), ("1/2/2", Fraction(1, 4)), ("0.1+0.2", Fraction(3, 10)),
    ],
)  # fmt: skip
def test_a_rational_value_is_exact(text, value):
    assert evaluate(parse_expression(write_plainly(text))) == value


@pytest.mark.parametrize("text", [r"\sqrt2", r"\pi", "x", "2^{1/2}", r"(-4)^{1/2}", "e", "i", r"\sin 0"])
def test_what_is_not_rational_has_no_exact_value_here(text):
    assert evaluate(parse_expression(write_plainly(text))) is None


@pytest.mark.parametrize("text", ["1/0", "0^{-1}", "0^0", r"\frac{1}{1-1}", "(-1)!", "(1/2)!"])
def test_a_step_without_a_value_is_unreadable(text):
    with pytest.raises(Unreadable):
        evaluate(parse_expression(text))


def test_infinity_has_a_sign_and_nothing_else():
    assert evaluate(parse_expression(r"-\infty")) == Infinite(-1)
    assert evaluate(parse_expression(r"\infty+1")) is None


@pytest.mark.parametrize("text", ["1e3", "36/2", "x", "1,000", "", "--1", "0x10", "1_000", "1 0"])
def test_only_digits_are_a_whole_number(text):
    with pytest.raises(Unreadable):
        read_integer(text)


@pytest.mark.parametrize("text", ["2^3", "1+1", "1/0", "1_0", r"2\frac{3}{2}", "nan", "inf", "1/2/2", "", "1e9999"])
def test_a_computation_is_no_numeral(text):
    with pytest.raises(Unreadable):
        read_numeral(text)


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("$5", "5", "$"), ("-$5", "-5", "$"), ('5 "cm"^2', "5", "cm^2"), ("5 km/h", "5", "km/h"), ("5%", "5", "%"),
        ("5 percent", "5", "%"), ("90°", "90", "degree"), ('5 "square feet"', "5", "ft^2"),
        ("5 apples", "5 apples", ""), ("5m", "5m", ""), ("5 m", "5", "m"), ("x", "x", ""),
        ('5 "dozen"', '5 "dozen"', ""), ("5 million", "5 million", ""),
    ],
)  # fmt: skip
def test_a_known_unit_is_taken_off_by_name_and_any_other_word_stays(text, number, unit):
    assert split_unit(text) == (number, unit)


def test_a_declared_word_is_a_unit_in_singular_and_plural():
    assert split_unit("5 apples", also="apple") == ("5", "apple")
    assert split_unit('5 "apple"', also="apples") == ("5", "apple")
    assert name_unit("pears", also="apples") is None
    assert name_unit("square centimeters") == name_unit("cm^2") == "cm^2"
