"""Groups do not depend on the order in which completions end or verdicts come."""

from __future__ import annotations

import pytest

from posttrain.core.errors import RefusedError
from posttrain.core.records import Completion, Outcome
from posttrain.rollouts.groups import Drawing, draw_groups
from tests.rollouts.made_up import SETTINGS, LengthScorer, MixedSampler, make_completion, make_problems

PROBLEMS, SEEDS = make_problems(20), list(range(20))


@pytest.mark.parametrize("is_overlapped", [True, False])
def test_groups_stand_in_the_order_of_problems_and_samples(is_overlapped: bool) -> None:
    scorer = LengthScorer()
    groups = draw_groups(PROBLEMS, SEEDS, Drawing(MixedSampler(), scorer, SETTINGS, is_overlapped))
    assert [group.problem for group in groups] == PROBLEMS
    for seed, group in enumerate(groups):
        assert [rollout.sample_index for rollout in group.rollouts] == [0, 1, 2]
        expected = [make_completion(group.problem.problem_id, sample, seed) for sample in range(3)]
        assert [rollout.last.ids.tolist() for rollout in group.rollouts] == [one.ids.tolist() for one in expected]
        assert group.rewards == [float(len(one.ids)) for one in expected]
    assert (scorer.calls > 1) == is_overlapped


def test_a_known_verdict_is_not_asked_for_again() -> None:
    scorer = LengthScorer()

    def find_known(completion: Completion) -> Outcome | None:
        return Outcome("scored", -1.0) if completion.problem_id == "p3" else None

    groups = draw_groups(PROBLEMS, SEEDS, Drawing(MixedSampler(), scorer, SETTINGS), find_known=find_known)
    assert groups[3].rewards == [-1.0, -1.0, -1.0] and "p3" not in scorer.asked
    assert len(scorer.asked) == 57


def test_what_the_harness_failed_on_once_is_tried_again_and_a_harness_that_keeps_failing_stops() -> None:
    once = LengthScorer(fails=lambda call: call == 1)
    groups = draw_groups(PROBLEMS, SEEDS, Drawing(MixedSampler(), once, SETTINGS))
    assert all(reward is not None for group in groups for reward in group.rewards)
    with pytest.raises(RefusedError, match="failed on 60 of 60 completions: no worker"):
        draw_groups(PROBLEMS, SEEDS, Drawing(MixedSampler(), LengthScorer(fails=lambda call: True), SETTINGS))
