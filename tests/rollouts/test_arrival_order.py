"""Dynamic sampling takes the same groups whatever ends first: neither arrival nor length has a say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.records import Completion, Outcome, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.rollouts.dynamic import Gathered, gather_groups
from posttrain.rollouts.groups import Drawing
from posttrain.rollouts.journal import RolloutJournal
from posttrain.rollouts.waves import WaveDrawer
from tests.rollouts.made_up import SETTINGS, make_completion, make_problems

Place = tuple[int, Completion]
ORDERS: dict[str, Callable[[Place], Any]] = {
    "shortest first": lambda drawn: len(drawn[1].ids),
    "longest first": lambda drawn: -len(drawn[1].ids),
    "last problem first": lambda drawn: (-drawn[0], drawn[1].sample_index),
    "one sample of each problem first": lambda drawn: (drawn[1].sample_index, drawn[0]),
}


class OrderedSampler:
    """Draws everything and gives it out in an order."""

    policy_hash = "policy"

    def __init__(self, order: Callable[[Place], Any]) -> None:
        self.order = order

    def sample(self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]) -> Any:
        drawn = [
            (place, make_completion(problem.problem_id, sample, seeds[place]))
            for place, problem in enumerate(problems)
            for sample in range(settings.num_samples)
        ]
        yield from sorted(drawn, key=self.order)


class LongIsRight:
    """1 from six tokens on, so that long completions are those that solve something."""

    name = "long"

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        return [Outcome("scored", float(len(completion.ids) >= 6)) for _, completion in items]


def gather(folder: Path, order: Callable[[Place], Any]) -> Gathered:
    problems = make_problems(40)
    drawing = Drawing(OrderedSampler(order), LongIsRight(), SETTINGS)  # type: ignore[arg-type]  # what waves call of it
    drawer = WaveDrawer(lambda wave: problems[10 * wave : 10 * wave + 10], drawing, RolloutJournal(folder), "scorer", 5)
    return gather_groups(lambda wave: drawer.draw(wave, "policy"), num_wanted=12, max_waves=4)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_what_ends_first_decides_nothing(tmp_path: Path, order: str) -> None:
    expected = gather(tmp_path / "expected", lambda drawn: (drawn[0], drawn[1].sample_index))
    assert len(expected.waves) > 1 and expected.num_left_out and expected.num_drawn > expected.num_informative
    found = gather(tmp_path / "found", ORDERS[order])
    assert [group.problem.problem_id for group in found.groups] == [
        group.problem.problem_id for group in expected.groups
    ]
    for one, other in zip(found.groups, expected.groups, strict=True):
        assert one.rewards == other.rewards
        assert [rollout.last.ids.tolist() for rollout in one.rollouts] == [
            rollout.last.ids.tolist() for rollout in other.rollouts
        ]


def test_groups_taken_are_no_shorter_or_longer_than_those_left_out_for_having_come_late(tmp_path: Path) -> None:
    """What is kept are the first informative groups by their problems, so that those left out are the last ones."""
    found = gather(tmp_path, ORDERS["shortest first"])
    informative = [group.problem.problem_id for group in found.drawn if group.is_informative]
    assert [group.problem.problem_id for group in found.groups] == informative[:12]
