"""What the golden sets of the form scorers are made of: answers, mutants, agreement."""

import pytest

from benchmarks.bfcl import list_answers, list_mutants, render, write_source
from benchmarks.forms_golden import compute_agreement, invent_call
from posttrain.chat.calls import read_calls
from posttrain.core.records import Problem

FUNCTION = {
    "name": "f",
    "parameters": {
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "boolean"},
            "c": {"type": "dict", "properties": {"d": {"type": "string"}}},
        },
        "required": ["a"],
    },
}
PROBLEM = Problem(
    "row-1",
    [],
    {
        "function": [FUNCTION],
        "ground_truth": [{"f": {"a": [1, 2], "b": [True, False, ""], "c": [{"d": ["x", "y", ""]}, ""]}}],
        "language": "java",
    },
)


def test_kappa_is_what_agreement_exceeds_chance_by():
    """Three of four agree; chance is 1/2 * 1/4 + 1/2 * 3/4 = 1/2, so kappa is (3/4 - 1/2) / (1 - 1/2)."""
    share, kappa = compute_agreement("aabb", "abbb")
    assert (share, kappa) == (pytest.approx(0.75), pytest.approx(0.5))


def test_every_value_and_every_omission_of_a_key_is_an_answer():
    answers = [calls[0][1] for calls in list_answers(PROBLEM)]
    base = {"a": 1, "b": True, "c": {"d": "x"}}
    assert answers == [
        base,
        {**base, "a": 2},
        {**base, "b": False},
        {"a": 1, "c": {"d": "x"}},
        {**base, "c": {"d": "y"}},
        {"a": 1, "b": True},
    ]


def test_a_mutant_that_the_key_lists_is_marked():
    listed = [(kind, what) for kind, what, _, is_listed in list_mutants(PROBLEM) if is_listed]
    assert listed == [("wrong value", "f.a"), ("wrong value", "f.b")]


@pytest.mark.parametrize("syntax", ["python", "json", "openai", "hermes"])
def test_rendered_calls_are_read_back(syntax):
    calls = next(list_answers(PROBLEM))
    assert [(call.name, call.arguments) for call in read_calls(render(calls, syntax), syntax)] == calls


def test_java_source_and_invented_calls_have_the_declared_types():
    ((_, arguments),) = write_source(PROBLEM, next(list_answers(PROBLEM)))
    assert arguments == {"a": "1", "b": "true", "c": 'new HashMap<String, Object>() {{ put("d", "x"); }}'}
    assert invent_call(PROBLEM) == ("f", {"a": 1})
