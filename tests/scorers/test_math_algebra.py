"""Equality at random points, and of objects part by part."""

import random

import pytest

from posttrain.scorers.math_algebra import are_equal, decide
from posttrain.scorers.math_forms import Conventions, read
from posttrain.scorers.math_gates import Unreadable
from posttrain.scorers.math_objects import match, split_top
from posttrain.scorers.math_syntax import parse_expression
from posttrain.scorers.math_text import write_plainly


def are_same(left, right, seed=0):
    return are_equal(*(parse_expression(write_plainly(text)) for text in (left, right)), random.Random(seed))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(x+1)^2", "x^2+2x+1"), (r"\sqrt{8}", r"2\sqrt2"), (r"\sin(x+y)", r"\sin x\cos y+\cos x\sin y"),
        ("e^{2x}", "(e^x)^2"), (r"\log_2 8", "3"), (r"\tan x", r"\frac{\sin x}{\cos x}"), ("(n+1)!/n!", "n+1"),
        (r"\binom{n}{2}", "n(n-1)/2"), (r"\sqrt[3]{x^3}", "x"), (r"\arcsin x + \arccos x", r"\pi/2"),
        (r"\sin 30^\circ", "1/2"), ("i^2", "-1"), ("(1+i)^2", "2i"), ("x^{-1}", "1/x"), (r"\ln(x^2)", r"2\ln|x|"),
    ],
)  # fmt: skip
def test_what_is_equal_as_mathematics_is_equal(left, right):
    assert all(are_same(left, right, seed) and are_same(right, left, seed) for seed in range(5))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x", "y"), ("x^2", "x^3"), (r"\sqrt{x^2}", "x"), ("x", "x+10^{-99}"), ("2^x", "x^2"), (r"\ln x", r"\log x"),
        (r"\sqrt2", "1.4142135623730950488016887242096980785696718753769"), ("i", "-i"), (r"\sin x", "x"),
        ("x", r"x(1-10^{-60})"), (r"\lfloor x \rfloor", "x"), (r"e^{\pi\sqrt{163}}", "262537412640768744"),
    ],
)  # fmt: skip
def test_what_differs_anywhere_differs(left, right):
    assert not any(are_same(left, right, seed) or are_same(right, left, seed) for seed in range(5))


def test_an_expression_without_a_value_at_any_point_is_unreadable_or_unequal():
    with pytest.raises(Unreadable):
        are_same(r"\ln 0", "1")
    assert not are_same("1/(x-x)", "1")


def decide_texts(form, gold, answer, **more):
    objects = [read(text, form, Conventions()).object for text in (gold, answer)]
    return decide({"gold": objects[0], "answer": objects[1], **more})


@pytest.mark.parametrize(
    ("form", "gold", "answer", "is_same"),
    [
        ("equation", "x+y=1", "2-2x=2y", True),
        ("equation", "x+y=1", "x+y=2", False),
        ("equation", "x+y=1", "x=x", False),
        ("equation", "x<1", "2x<2", True),
        ("equation", "x<1", "-x<-1", False),
        ("equation", "x<1", "x<=1", False),
        ("set", r"\sqrt2, \sqrt3", r"\sqrt3, \frac{2}{\sqrt2}", True),
        ("set", r"\sqrt2, \sqrt3", r"\sqrt3, \sqrt3", False),
        ("tuple", r"(\sqrt2, 1)", r"(\frac{2}{\sqrt2}, 1)", True),
        ("tuple", r"(\sqrt2, 1)", r"(1, \sqrt2)", False),
        ("interval", r"[\pi, \infty)", r"[\frac{2\pi}{2}, \infty)", True),
        ("interval", r"[\pi, \infty)", r"[\pi, 9)", False),
    ],
)
def test_objects_are_equal_part_by_part(form, gold, answer, is_same):
    assert decide_texts(form, gold, answer) is is_same


def test_a_tolerance_is_the_largest_difference_that_still_counts():
    assert decide_texts("value", r"\sqrt2", "1.414", tolerance="1/1000")
    assert not decide_texts("value", r"\sqrt2", "1.414", tolerance="1/10000")


def test_the_same_pair_has_the_same_verdict_every_time():
    assert len({decide_texts("equation", "x+y=1", "2-2x=2y") for _ in range(20)}) == 1


def test_a_match_that_a_tree_decides_stays_open_where_trees_cannot_be_compared():
    pair = [read(text, "set", Conventions()).object for text in ("1, 2", "2, 3")]
    assert match(*pair, lambda left, right: None) is None
    assert match(*pair, lambda left, right: left == right) is False
    assert match(pair[0], ["set", []], lambda left, right: None) is False


def test_a_text_is_split_only_outside_of_brackets():
    assert split_top("(1,2), {3,4}, f(x,y)", ",") == ["(1,2)", "{3,4}", "f(x,y)"]
    assert split_top(r"\{1,2\},3", ",") == [r"\{1,2\}", "3"]
