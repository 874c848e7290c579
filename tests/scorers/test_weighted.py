"""Weighted scorers: the formula worked by hand, and whose failure a failure is."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.core.errors import RecipeError
from posttrain.core.records import Outcome
from posttrain.scorers.weighted import Component, WeightedScorer
from tests.scorers.making import Told, make_item, told

UNPARSED = Outcome("unparsed", 0.0, why="no number", fault="policy")
BROKEN = Outcome("errored", 0.0, why="the sandbox died", fault="harness")
LEFT_OUT = Outcome("not_applicable", 0.0)


def score_one(*components: Component) -> Outcome:
    (outcome,) = WeightedScorer(components).score([make_item("x")])
    return outcome


def test_terms_are_averaged_by_weight_gates_multiply_and_shaping_adds() -> None:
    outcome = score_one(
        Component("right", told(1.0), weight=3.0),
        Component("style", told(0.5), weight=1.0),
        Component("format", told(0.8), role="gate"),
        Component("length", told(-0.4), weight=0.25, role="shaping"),
    )
    assert outcome.value == pytest.approx(0.8 * (3 * 1 + 0.5) / 4 - 0.1)
    assert outcome.parts == {"right": 1.0, "style": 0.5, "format": 0.8, "length": -0.4}
    assert outcome.status == "scored"
    assert "style 0.5" in outcome.why


def test_values_are_mapped_from_their_declared_range_and_clipped() -> None:
    for raw, mapped in ((5.0, 0.5), (-3.0, 0.0), (12.0, 1.0)):
        outcome = score_one(Component("reward", told(raw), value_range=(0.0, 10.0)))
        assert (outcome.value, outcome.parts) == (mapped, {"reward": mapped})


def test_a_gate_with_a_threshold_is_open_or_shut() -> None:
    for value, expected in ((0.49, 0.0), (0.5, 1.0)):
        assert score_one(Component("a", told(1.0)), Component("g", told(value), role="gate", threshold=0.5)).value == (
            expected
        )


def test_the_parts_of_components_stay_apart() -> None:
    inner = Told([Outcome("scored", 0.25, parts={"precision": 0.5, "coverage": 0.5})])
    outcome = score_one(Component("facts", inner), Component("right", told(1.0)))
    assert outcome.parts == {"facts": 0.25, "facts.precision": 0.5, "facts.coverage": 0.5, "right": 1.0}


def test_what_does_not_apply_is_left_out_and_others_make_up_for_it() -> None:
    outcome = score_one(
        Component("a", told(0.5), weight=1.0),
        Component("b", Told([LEFT_OUT]), weight=9.0),
        Component("g", Told([LEFT_OUT]), role="gate"),
    )
    assert outcome.value == 0.5
    assert "b" not in outcome.parts
    assert score_one(Component("a", Told([LEFT_OUT])), Component("g", told(1.0), role="gate")).status == (
        "not_applicable"
    )


def test_a_policys_failure_counts_with_its_declared_value() -> None:
    outcome = score_one(Component("math", Told([UNPARSED])), Component("style", told(1.0)))
    assert (outcome.status, outcome.value, outcome.fault) == ("scored", 0.5, None)
    outcome = score_one(Component("math", Told([UNPARSED])), Component("length", told(0.5), role="shaping"))
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.5, "policy")


def test_a_harness_failure_in_any_component_is_one_of_the_whole() -> None:
    for role in ("term", "gate", "shaping"):
        outcome = score_one(Component("a", told(1.0)), Component("b", Told([BROKEN]), role=role))
        assert (outcome.status, outcome.fault) == ("errored", "harness")
        assert outcome.why == "b: the sandbox died"


def test_items_keep_their_order() -> None:
    scorer = WeightedScorer([Component("a", told(0.0, 1.0, 0.25))])
    assert [x.value for x in scorer.score([make_item("x")] * 3)] == [0.0, 1.0, 0.25]


@pytest.mark.parametrize(
    "settings",
    [
        {"weight": 0.0},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"role": "gate", "weight": 2.0},
        {"threshold": 0.5},
        {"value_range": (1.0, 1.0)},
        {"value_range": (0.0, float("inf"))},
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Component("a", told(1.0), **settings)


def test_a_whole_needs_a_term_and_names_of_their_own() -> None:
    with pytest.raises(RecipeError, match="no component with the role 'term'"):
        WeightedScorer([Component("g", told(1.0), role="gate")])
    with pytest.raises(RecipeError, match="two components named 'a'"):
        WeightedScorer([Component("a", told(1.0)), Component("a", told(1.0))])
