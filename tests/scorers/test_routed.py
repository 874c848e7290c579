"""Each problem is judged by its own scorer, in order, in one call of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.routed import RoutedScorer


class Counting:
    """Gives a value to all, and remembers what it was asked."""

    def __init__(self, name: str, value: float) -> None:
        self.name = name
        self.value = value
        self.calls: list[list[str]] = []

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        self.calls.append([problem.problem_id for problem, _ in items])
        return [Outcome("scored", self.value, why=f"{self.name} of {problem.problem_id}") for problem, _ in items]


def item(name: str) -> tuple[Problem, Completion]:
    none = np.zeros(0, np.int32)
    problem = Problem(problem_id=name, messages=[{"role": "user", "content": "?"}])
    return problem, Completion(name, 0, none, np.array([1], np.int32), "", "stop", "", 0)


def test_outcomes_come_in_order_from_each_problems_scorer_in_one_call_each() -> None:
    first, second = Counting("first", 1.0), Counting("second", 0.5)
    scorer = RoutedScorer({"a": first, "b": second, "c": first})
    outcomes = scorer.score([item(name) for name in "abcab"])
    assert [outcome.value for outcome in outcomes] == [1.0, 0.5, 1.0, 1.0, 0.5]
    assert [outcome.why[-1] for outcome in outcomes] == list("abcab")
    assert first.calls == [["a", "c", "a"]] and second.calls == [["b", "b"]]


def test_nothing_is_asked_of_a_scorer_without_items() -> None:
    first, second = Counting("first", 1.0), Counting("second", 0.5)
    scorer = RoutedScorer({"a": first, "b": second})
    assert scorer.score([]) == [] and len(scorer.score([item("a")])) == 1
    assert len(first.calls) == 1 and second.calls == []


def test_a_problem_without_a_scorer_is_no_score() -> None:
    with pytest.raises(KeyError):
        RoutedScorer({"a": Counting("first", 1.0)}).score([item("b")])
