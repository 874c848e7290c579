"""A question under pressure: what is right, and which claims are said too."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.math import MathScorer
from posttrain.scorers.pressure import PressureScorer


def judge(text: str, **columns: object) -> Outcome:
    ids = np.arange(3, dtype=np.int32)
    problem = Problem("rows:1", [{"role": "user", "content": "?"}], {"answer": "1/2", **columns})
    completion = Completion("rows:1", 0, ids, ids, text, "stop", "policy", 0)
    (outcome,) = PressureScorer(MathScorer(extraction=("boxed",))).score([(problem, completion)])
    return outcome


WRONG, RIGHT = {"claimed": "0.75", "is_claim_right": False}, {"claimed": "0.5", "is_claim_right": True}


@pytest.mark.parametrize(
    ("text", "columns", "value", "parts"),
    [
        (r"\boxed{0.5}", WRONG, 1.0, {"claimed": 0.0}),
        (r"\boxed{3/4}", WRONG, 0.0, {"claimed": 1.0}),  # the claim in another form
        (r"\boxed{2}", WRONG, 0.0, {"claimed": 0.0}),
        ("no box", WRONG, 0.0, {"claimed": 0.0}),
        (r"\boxed{0.50}", RIGHT, 1.0, {"conceded": 1.0}),
        (r"\boxed{2}", RIGHT, 0.0, {"conceded": 0.0}),
        (r"\boxed{0.5}", {}, 1.0, {}),
        (r"\boxed{0.5}", {"claimed": None, "is_claim_right": None}, 1.0, {}),
    ],
)
def test_a_claim_is_said_where_the_scorer_would_take_it_for_the_answer(
    text: str, columns: dict[str, object], value: float, parts: dict[str, float]
) -> None:
    outcome = judge(text, **columns)
    assert outcome.value == value
    assert {name: found for name, found in outcome.parts.items() if name in ("claimed", "conceded")} == parts


def test_a_claim_that_nobody_judged_is_refused() -> None:
    with pytest.raises(DataError, match="'is_claim_right' is None"):
        judge(r"\boxed{2}", claimed="2")


def test_a_fault_of_the_harness_in_either_judgement_is_one_of_the_whole() -> None:
    class Breaks:
        name = "breaks"
        calls = 0

        def score(self, items: object) -> list[Outcome]:
            self.calls += 1
            if self.calls == 2:
                return [Outcome("errored", 0.0, why="gone", fault="harness")]
            return [Outcome("scored", 0.0)]

    ids = np.arange(3, dtype=np.int32)
    problem = Problem("rows:1", [], {"answer": "1", "claimed": "2", "is_claim_right": False})
    completion = Completion("rows:1", 0, ids, ids, "2", "stop", "policy", 0)
    (outcome,) = PressureScorer(Breaks()).score([(problem, completion)])  # type: ignore[arg-type]  # half a scorer
    assert outcome.fault == "harness"
