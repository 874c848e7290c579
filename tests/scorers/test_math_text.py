"""Spelling: what becomes one spelling, and what must not."""

import pytest

from posttrain.scorers.math_text import fold_unicode, group_digits, make_literal, write_plainly


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\tfrac12", r"\frac{1}{2}"),
        (r"\frac1{2}", r"\frac{1}{2}"),
        (r"\frac 59", r"\frac{5}{9}"),
        (r"\frac{\frac12}3", r"\frac{\frac{1}{2}}{3}"),
        (r"\left( 3, \right]", "( 3, ]"),
        (r"1{,}000", "1000"),
        (r"11,\! 111,\! 100", "11111100"),
        (r"1\,000", "1000"),
        ("10\u2009000", "10000"),
        (r"90^\circ", "90°"),
        (r"90^{\circ}", "90°"),
        (r"x \leq 3", "x <= 3"),
        (r"2 \times 3", "2 * 3"),
        (r"5\text{ cm}", '5 "cm"'),
        (r"\text{(b)}", '"(b)"'),
        (r"\mathrm{e}", "e"),
        ("$5$", "5"),
        (r"\(5\)", "5"),
        (r"\$5", "$5"),
        ("$5", "$5"),
        (r"50\%", "50%"),
        ("５×３", "5*3"),
        ("√13", r"\sqrt{13}"),
        ("x₁", "x_1"),
        ("2\u200b5", "25"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_one_spelling_comes_of_many(text, plain):
    assert write_plainly(text) == plain


@pytest.mark.parametrize(
    ("text", "folded"), [("5²", "5^{2}"), ("x⁻¹", "x^{-1}"), ("1½", r"1\frac{1}{2}"), ("3–5", "3–5"), ("⑤", "⑤")]
)
def test_a_raised_digit_and_a_vulgar_fraction_never_join_the_digits_beside_them(text, folded):
    assert fold_unicode(text) == folded


@pytest.mark.parametrize(
    ("text", "joined"),
    [("1,234", "1234"), ("1 234 567", "1234567"), ("12,34", "12,34"), ("0,123", "0,123"), ("1,2345", "1,2345"),
     ("1,234,5", "1,234,5"), ("12 345", "12345"), ("1.5,000", "1.5,000")],
)  # fmt: skip
def test_only_groups_of_three_digits_are_thousands(text, joined):
    assert group_digits(text) == joined


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{14}{3}", "14/3"),
        ("x^{2}", "x^2"),
        ("( 1, 2 )", "(1,2)"),
        (r"2 \sqrt{5}", r"2\sqrt{5}"),
        (r"\text{Evelyn}", "Evelyn"),
    ],
)
def test_answers_that_only_spelling_tells_apart_have_one_literal(one, other):
    assert make_literal(write_plainly(one)) == make_literal(write_plainly(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [(r"2\frac{1}{3}", "21/3"), (r"\frac{1}{2}3", "1/23"), ("1 2", "12"), ("x^{2}3", "x^{23}"), ("a b", "ab"),
     ("X", "x"), (r"2 \frac{1}{3}", "2 1/3"), (r"\frac{2}{3}^2", "2/3^2"), (r"x\frac{1}{2}", "x1/2")],
)  # fmt: skip
def test_answers_that_differ_in_meaning_have_different_literals(one, other):
    assert make_literal(write_plainly(one)) != make_literal(write_plainly(other))
