"""The syntax tree: one reading or none."""

import pytest

from posttrain.scorers.math_gates import TooCostly, Unreadable
from posttrain.scorers.math_syntax import parse_expression
from posttrain.scorers.math_text import write_plainly

ONE, TWO, THREE, X = ["num", "1"], ["num", "2"], ["num", "3"], ["sym", "x"]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1+2-3", ["add", ONE, TWO, ["neg", THREE]]),
        ("2x", ["mul", TWO, X]),
        ("-x^2", ["neg", ["pow", X, TWO]]),
        ("1/2x", ["mul", ONE, ["inv", TWO], X]),
        (r"\frac{1}{2}", ["div", ONE, TWO]),
        (r"\frac12x", ["mul", ["div", ONE, TWO], X]),
        (r"1\frac{2}{3}", ["num", "5/3"]),
        (r"3\sqrt{2}", ["mul", THREE, ["root", TWO, TWO]]),
        (r"\sqrt[3]{2}", ["root", THREE, TWO]),
        ("sqrt(2)", ["root", TWO, TWO]),
        ("x_{12}'", ["sym", "x_12'"]),
        ("e^{-x}", ["pow", ["const", "e"], ["neg", X]]),
        (r"2\pi", ["mul", TWO, ["const", "pi"]]),
        ("2pi", ["mul", TWO, ["const", "pi"]]),
        (r"\sin^2 x", ["pow", ["fn", "sin", X], TWO]),
        (r"\sin^{-1} x", ["fn", "asin", X]),
        (r"\sin 2x", ["fn", "sin", ["mul", TWO, X]]),
        (r"\log_2 3", ["log", TWO, THREE]),
        (r"\log 3", ["log", ["num", "10"], THREE]),
        ("|x|", ["abs", X]),
        (r"2|x|", ["mul", TWO, ["abs", X]]),
        ("3!", ["fact", THREE]),
        (r"\binom{3}{2}", ["binom", THREE, TWO]),
        (r"\lfloor x \rfloor", ["floor", X]),
        ("2(3)", ["mul", TWO, THREE]),
        ("(x)2", ["mul", X, TWO]),
        ("3*-2", ["mul", THREE, ["neg", TWO]]),
        ("1.50", ["num", "3/2"]),
        ("1e3", ["num", "1000"]),
        (r"\theta_1", ["sym", "theta_1"]),
    ],
)
def test_an_expression_has_the_tree_that_its_notation_means(text, tree):
    assert parse_expression(write_plainly(text)) == tree


@pytest.mark.parametrize(
    "text",
    [
        "", "2 3", "x2", r"\sqrt23", r"\frac123", r"2\frac{3}{2}", "1..2", "1.2.3", "(1", "1)", "(1]", "x^2^3", "3!!",
        "2^", "+", "--1", "1+", r"\frac{1}", "word words", r"\sum_{k=1}^3 k", r"\int x", r"\lim x", r"\unknown{2}",
        "0x10", "1,2", "x=1", '5 "apples"', "⑤", "5?",
    ],
)  # fmt: skip
def test_what_has_no_reading_or_two_is_refused(text):
    with pytest.raises(Unreadable):
        parse_expression(write_plainly(text))


@pytest.mark.parametrize("text", ["(" * 45 + "1" + ")" * 45, r"\sqrt" * 300 + "{2}", "sin " * 300 + "x", "1e99999"])
def test_nesting_and_exponents_are_bounded_while_they_are_read(text):
    with pytest.raises(TooCostly):
        parse_expression(text)
