"""Forms: what each reads, what it refuses, and which form a gold answer suggests."""

import pytest

from posttrain.scorers.math_forms import Conventions, Hedged, is_restated, read, read_choice, suggest_form
from posttrain.scorers.math_gates import Unreadable


@pytest.mark.parametrize(
    ("gold", "form"),
    [
        ("42", "value"), (r"3\sqrt{13}", "value"), ("x=5", "value"), (r"90^\circ", "value"), ("6-5i", "value"),
        (r"9\text{ values}", "value"), ("52_8", "value"), ("2k+2", "expression"), (r"\cot x", "expression"),
        ("y = 2x + 3", "equation"), (r"s^2 \le 8r^2", "equation"), ("1,-2", "set"), (r"1 \pm \sqrt{19}", "set"),
        (r"\{1\pm\sqrt{5},-2\}", "set"), (r"12\text{ and }13", "set"), ("(3,4]", "interval"),
        (r"x \in [-2,7]", "interval"), (r"(0,9) \cup (9,36)", "interval"), ("(2,4)", "tuple"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "tuple"), (r"\text{(C)}", "choice"), (r"\text{Evelyn}", "text"),
        ("3:5", "text"),
    ],
)  # fmt: skip
def test_a_gold_answer_suggests_the_form_that_it_has(gold, form):
    assert suggest_form(gold) == form
    read(gold, form, Conventions(), is_gold=True)


@pytest.mark.parametrize("text", ["5 or 7", r"\pm 5", "5, 7", "either 5", r"5 \text{ and } 7", "5; 7"])
@pytest.mark.parametrize("form", ["value", "number", "integer"])
def test_alternatives_are_a_hedge_where_one_number_is_asked(text, form):
    with pytest.raises(Hedged):
        read(text, form, Conventions())


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("value", "x+1"), ("value", r"\{5\}"), ("number", "2^3"), ("integer", "1e3"), ("expression", "x+1=2"),
        ("expression", "x<1"), ("equation", "x"), ("equation", "x=1=1"), ("set", "(1"), ("interval", "5"),
        ("interval", "(1,2,3)"), ("interval", "1<x>2"), ("interval", "x<y"), ("tuple", "5"), ("choice", "AB"),
        ("choice", "5"), ("value", "="), ("value", "5="), ("set", ","),
    ],
)  # fmt: skip
def test_what_is_not_of_the_form_is_unreadable(form, text):
    with pytest.raises(Unreadable):
        read(text, form, Conventions())


def test_an_option_is_named_by_its_letter_its_text_or_both_together():
    choices = ("3 cm", "4 cm")
    assert [read_choice(said, choices) for said in ("b", "(B)", "4 cm", "B. 4 cm")] == ["B"] * 4
    with pytest.raises(Hedged):
        read_choice("B. 3 cm", choices)
    with pytest.raises(Unreadable):
        read_choice("5 cm", choices)


@pytest.mark.parametrize(
    ("plain", "question", "is_so"),
    [
        ("123 * 457", r"Compute $123\cdot 457$.", True),
        ("123 * 457", "Compute 123×457", True),
        ("123 * 457", "Compute 9123*457", False),
        ("123 * 457", "Compute 123*457+1", False),
        ("x^2-1", "Factor $x^2 - 1$.", True),
        ("12", "There are 12 cats.", False),
        ("-3", "Is it -3?", False),
        (r"\frac{1}{3}", r"Is $\frac13$ more?", False),
        (r"\frac{2}{6}", r"Simplify $\frac26$.", True),
        ("3/6", "Reduce 3/6.", True),
    ],
)
def test_a_computation_that_stands_in_the_question_is_restated_and_a_plain_number_never_is(plain, question, is_so):
    assert is_restated(plain, "value", question) is is_so
    assert not is_restated(plain, "text", question)
