"""A step of a reward model does not depend on how its rows are cut, laid out or shared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from posttrain.kernels.layouts import Layout
from posttrain.models.heads import find_backbone
from posttrain.models.reward_models import make_head
from posttrain.objectives.reward_model import (
    PairwiseObjective,
    RegressionObjective,
    RewardObjective,
    StepObjective,
)
from posttrain.stages.reward_rows import build_step_batch, weigh
from posttrain.training.distributed import Ranks
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer
from posttrain.training.reward_policy import RewardRow, ScoredRewardModel
from posttrain.training.step import Updater
from tests.models.reward_models import draw_ids, read
from tests.models.tiny_models import make_tiny


def make_pairs() -> list[RewardRow]:
    """Eight pairs of unequal lengths with margins."""
    rows = []
    for number in range(8):
        reading = read(
            draw_ids(3 + number, number), draw_ids(2 + number % 3, 50 + number), draw_ids(1 + 2 * (number % 4), 90)
        )
        margin = np.full(2, number % 2, np.float32)
        rows.append(RewardRow(reading, np.ones(2, np.float32), {"margin": margin}, str(number)))
    return rows


def make_ratings() -> list[RewardRow]:
    rows = []
    for number in range(8):
        given = np.array([[1.0, number % 2]], np.float32)
        target = np.array([[number / 4 - 1, 0.5]], np.float32) * given
        reading = read(draw_ids(3 + number, number), draw_ids(2 + number % 3, 50 + number))
        rows.append(RewardRow(reading, np.ones(1, np.float32), {"target": target, "is_given": given}, str(number)))
    return rows


def make_steps() -> list[RewardRow]:
    rows = []
    for number in range(8):
        size = 3 + number % 4
        reading = read(draw_ids(3 + number, number), draw_ids(size, 50 + number))
        reading = type(reading)(reading.prompt, reading.completions, (np.array([0, size - 1]),))
        label = np.array([1, number % 2], np.float32)
        rows.append(RewardRow(reading, np.ones(2, np.float32), {"label": label}, str(number)))
    return rows


CASES: dict[str, tuple[list[RewardRow], RewardObjective, int]] = {
    "pairs": (make_pairs(), PairwiseObjective(0.05), 1),
    "ratings": (make_ratings(), RegressionObjective(), 2),
    "steps": (make_steps(), StepObjective(), 1),
}


def run(
    case: str,
    rows: Sequence[RewardRow],
    tokens: int,
    *,
    layout: Layout = "packed",
    is_sharing: bool = True,
    ranks: int = 1,
) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a step; of several ranks one after the other, summed."""
    _, objective, num_outputs = CASES[case]
    model = make_tiny("llama", 5)
    policy = ScoredRewardModel(model, find_backbone(model), make_head(32, num_outputs, 1), layout)
    updater = Updater(
        policy, MasterOptimizer(policy.named_parameters(), AdamWSettings()), Ranks(), objective, max_grad_norm=None
    )
    loss = 0.0
    for rank in range(ranks):
        batch, _ = build_step_batch(rows, tokens, Ranks(rank, ranks), layout, is_sharing=is_sharing)
        loss += float(updater.accumulate(batch, "dropout")[0])
    gradients = [slot.weight.grad.flatten() for slot in updater.optimizer.slots if slot.weight.grad is not None]
    return loss, torch.cat(gradients)


@pytest.mark.parametrize("case", CASES)
def test_a_step_in_parts_on_ranks_in_any_order_and_layout_is_the_step_at_once(case: str) -> None:
    rows = CASES[case][0]
    loss, gradient = run(case, rows, 10_000)
    assert float(gradient.abs().max()) > 1e-3
    others = [
        run(case, rows, 40),
        run(case, rows, 1),
        run(case, rows[::-1], 60),
        run(case, rows, 40, ranks=2),
        run(case, rows, 1, ranks=4),
        run(case, rows, 60, is_sharing=False),
        run(case, rows, 60, layout="padded"),
        run(case, rows, 60, layout="single"),
    ]
    for number, (other, other_gradient) in enumerate(others):
        assert other == pytest.approx(loss, abs=2e-6), number
        assert torch.allclose(other_gradient, gradient, atol=1e-5), number


def test_the_loss_is_the_mean_over_pairs_ratings_and_steps() -> None:
    assert [sum(map(weigh, CASES[case][0])) for case in CASES] == [8.0, 12.0, 16.0]


def test_the_gradient_raises_the_chosen_score_and_lowers_the_rejected_one() -> None:
    model = make_tiny("llama", 5)
    policy = ScoredRewardModel(model, find_backbone(model), make_head(32, 1, 1), "packed")
    optimizer = MasterOptimizer(policy.named_parameters(), AdamWSettings())
    updater = Updater(policy, optimizer, Ranks(), PairwiseObjective(), max_grad_norm=None)
    row = [RewardRow(row.reading, row.weights) for row in make_pairs()[:1]]
    batch, _ = build_step_batch(row, 1000, Ranks(), "packed", is_sharing=True)
    weights = torch.full((2,), 0.5)

    def margin() -> float:
        with torch.no_grad():
            scores = policy(batch.micro_batches[0], PairwiseObjective(), weights).logprobs_N[:, 0]
        return float(scores[0] - scores[1])

    before = margin()
    updater.update(batch, 1e-3, "dropout")
    assert margin() > before
