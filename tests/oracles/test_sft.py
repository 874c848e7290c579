"""SFT fits the distribution of its data: what its loss is, where its minimum lies, and what the token mean moves.

With B rows a batch, drawn independently, and lengths |y| counted in trained tokens, the expectation of the token mean

    E[sum over the batch of -log pi / sum over the batch of |y|] = sum_y p(y) w_B(|y|) (-log pi(y))
    w_B(l) = E[B / (l + lengths of B - 1 other rows)]

is least at q(y|x) proportional to p(y|x) w_B(|y|). As w_B falls with l, long completions come out too rarely: at B = 1
by 1 / |y|; as B grows, w_B becomes the same for all. Over all data as one batch there is no difference: the mean is the
sum over a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.records import RenderedSample
from posttrain.objectives.reduction import normalise_weights
from posttrain.objectives.sft import compute_sft_loss
from posttrain.training.batches import MicroBatch, build_micro_batch
from posttrain.training.distributed import Ranks
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer, compute_learning_rate
from posttrain.training.step import StepBatch, Updater
from tests.oracles.divergences import compute_sequence_forward_kl
from tests.oracles.enumeration import (
    CompletionSpace,
    TabularPolicy,
    compute_entropy,
    compute_expected_loss,
    compute_total_variation,
    weigh_prompts_evenly,
)
from tests.oracles.llama_policy import (
    LlamaPolicy,
    build_batch,
    build_samples,
    build_scored_policy,
    make_llama,
    make_space,
)
from tests.oracles.minimising import minimise

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=3)
DATA_XY = TabularPolicy.draw(SPACE, seed=11).compute_logprobs_XY().detach()


def compute_cross_entropy(data_XY: torch.Tensor, policy_XY: torch.Tensor) -> float:
    """H(p_data) + KL(p_data || pi), averaged over prompts."""
    return (compute_entropy(data_XY) + compute_sequence_forward_kl(policy_XY, data_XY)).mean().item()


def build_updater(model: Any) -> Updater:
    optimizer = MasterOptimizer(model.named_parameters(), AdamWSettings(betas=(0.9, 0.99)))
    return Updater(build_scored_policy(model), optimizer, Ranks(), compute_sft_loss, max_grad_norm=None)


def build_step(batches: Sequence[MicroBatch], total_weight: float) -> StepBatch:
    trained = sum(len(batch.scored_N) for batch in batches)
    return StepBatch(batches, total_weight, sum(len(batch.ids_T) for batch in batches), trained)


def weigh_rows(space: CompletionSpace, batch: MicroBatch, data_XY: torch.Tensor) -> MicroBatch:
    """Every possible row, each token of it weighted by how probable the row is in the data."""
    return replace(batch, weights_N=space.repeat_to_tokens(weigh_prompts_evenly(data_XY)).float())


def test_the_sum_over_a_sequence_averaged_over_data_is_the_entropy_plus_the_forward_kl() -> None:
    policy = TabularPolicy.draw(SPACE, seed=12)
    loss = compute_expected_loss(policy, compute_sft_loss, weigh_prompts_evenly(DATA_XY)).item()
    kl = compute_sequence_forward_kl(policy.compute_logprobs_XY(), DATA_XY).mean().item()
    assert loss == pytest.approx(compute_entropy(DATA_XY).mean().item() + kl, abs=1e-6)
    assert kl > 0.1


def test_so_it_is_through_packed_training_of_a_llama() -> None:
    """All 120 rows in one packed micro-batch, weighted by the probability that data has them."""
    space, model = make_space(), make_llama()
    data_XY = TabularPolicy.draw(space, seed=13).compute_logprobs_XY().detach()
    batch = weigh_rows(space, build_batch(space), data_XY)
    loss, _ = build_updater(model).accumulate(build_step([batch], total_weight=1.0)).tolist()
    exact = compute_cross_entropy(data_XY, LlamaPolicy(space, model).compute_logprobs_XY().detach())
    assert loss == pytest.approx(exact, abs=1e-6)


def test_so_it_is_of_a_data_set_of_rows_that_come_up_more_than_once_in_unequal_micro_batches() -> None:
    """60 rows; divided by rows, the loss is the entropy and KL of their frequencies, in 1 or in 3 micro-batches.

    Divided by trained tokens (the mean that is trained on) it is the same number times rows per token.
    """
    space, model = make_space(), make_llama()
    rows = np.random.default_rng(5).choice(120, size=60, p=weigh_prompts_evenly(
        TabularPolicy.draw(space, seed=13).compute_logprobs_XY().detach()).numpy())  # fmt: skip
    frequencies_XY = torch.bincount(torch.from_numpy(rows), minlength=120).double().view(space.shape_XY)
    shares_X = frequencies_XY.sum(-1) / 60
    data_XY = (frequencies_XY / frequencies_XY.sum(-1, keepdim=True)).log()
    kl_X = compute_sequence_forward_kl(LlamaPolicy(space, model).compute_logprobs_XY().detach(), data_XY)
    exact = (shares_X * (compute_entropy(data_XY) + kl_X)).sum().item()
    samples = [build_samples(space)[row] for row in rows]
    num_tokens = int(space.lengths_S[rows].sum())
    for bounds in ((0, 60), (0, 7, 30, 60)):
        batches = [pack(samples[start:end]) for start, end in pairwise(bounds)]
        loss, _ = build_updater(model).accumulate(build_step(batches, total_weight=60.0)).tolist()
        assert loss == pytest.approx(exact, abs=1e-6)
        mean, _ = build_updater(model).accumulate(build_step(batches, total_weight=float(num_tokens))).tolist()
        assert mean == pytest.approx(exact * 60 / num_tokens, abs=1e-6)


def pack(samples: Sequence[RenderedSample]) -> MicroBatch:
    return build_micro_batch(samples, [f"row-{index}" for index in range(len(samples))])


def test_minimising_the_loss_reaches_the_data() -> None:
    policy = TabularPolicy.draw(SPACE, seed=12)
    probabilities_S = weigh_prompts_evenly(DATA_XY)
    found = minimise(lambda policy: compute_expected_loss(policy, compute_sft_loss, probabilities_S), policy)
    assert compute_total_variation(policy.compute_logprobs_XY(), DATA_XY).max().item() < 1e-3
    assert found.value == pytest.approx(compute_entropy(DATA_XY).mean().item(), abs=1e-6)


def test_training_a_llama_reaches_the_data() -> None:
    """500 steps of the project's own update in fp32, packed; 13 completions of each of three prompts."""
    space, model = make_space(max_tokens=2), make_llama(seed=3)
    data_XY = TabularPolicy.draw(space, seed=11).compute_logprobs_XY().detach()
    step = build_step([weigh_rows(space, build_batch(space), data_XY)], total_weight=1.0)
    updater = build_updater(model)
    for number in range(500):
        rate = compute_learning_rate(
            number, peak=0.006, num_steps=500, warmup_steps=10, schedule="cosine", final_fraction=0.0
        )
        updater.update(step, rate, 0)
    found_XY = LlamaPolicy(space, model).compute_logprobs_XY().detach()
    assert compute_total_variation(found_XY, data_XY).max().item() < 1e-3


def weigh_by_batches(space: CompletionSpace, probabilities_S: torch.Tensor, batch_size: int) -> torch.Tensor:
    """E of each sequence's weight in the token mean, [S], by listing all batches; the reduction is the project's."""
    weights_S = torch.zeros(len(probabilities_S), dtype=torch.float64)
    for rows in product(range(len(probabilities_S)), repeat=batch_size):
        num_tokens = int(space.lengths_S[list(rows)].sum())
        weight = normalise_weights(torch.ones(num_tokens), float(num_tokens))[0].item()
        probability = float(probabilities_S[list(rows)].prod())
        for row in rows:
            weights_S[row] += probability * weight
    return weights_S


def derive_minimiser(data_XY: torch.Tensor, batch_size: int) -> torch.Tensor:
    """p(y|x) w_B(|y|), normalised: lengths of the other rows by convolution of the distribution of one's length."""
    one = torch.bincount(SPACE.lengths_S, weights=weigh_prompts_evenly(data_XY)).numpy()
    others = np.array([1.0])
    for _ in range(batch_size - 1):
        others = np.convolve(others, one)
    weight_of = [sum(p * batch_size / (length + rest) for rest, p in enumerate(others)) for length in (1, 2, 3)]
    weights_Y = torch.tensor(weight_of)[SPACE.lengths_Y - 1]
    return (data_XY + weights_Y.log()).log_softmax(-1)


def test_the_token_mean_of_a_short_and_a_long_row_weights_them_as_worked_out_by_hand() -> None:
    """Two rows of 1 and 3 tokens, each drawn half the time, weights of one row's every token.

    B = 1: 1/2 * 1 and 1/2 * 1/3: 3 to 1, so the minimiser says the short one with 3/4, where data has 1/2.
    B = 2: short in SS 1/4 * 2 * 1/2 and in SL and LS 1/2 * 1/4, together 3/8; long 1/8 and in LL 1/4 * 2 * 1/6,
    together 5/24: 9 to 5, so the minimiser says it with 9/14.
    """
    space = CompletionSpace(num_prompts=1, num_tokens=2, max_tokens=3)
    short, long = space.completions.index((0,)), space.completions.index((1, 1, 1))
    probabilities_S = torch.zeros(4, dtype=torch.float64)
    probabilities_S[[short, long]] = 0.5
    for batch_size, expected in ((1, (1 / 2, 1 / 6)), (2, (3 / 8, 5 / 24))):
        weights_S = weigh_by_batches(space, probabilities_S, batch_size)
        assert weights_S[[short, long]].tolist() == pytest.approx(expected, rel=1e-6)
    # The sum over a sequence, averaged over rows, weights both the same.
    per_sequence_N = space.repeat_to_tokens(probabilities_S)
    assert per_sequence_N[space.sequence_N == short].tolist() == [0.5]
    assert per_sequence_N[space.sequence_N == long].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_minimising_the_token_mean_reaches_the_data_reweighted_towards_short_completions(batch_size: int) -> None:
    policy = TabularPolicy.draw(SPACE, seed=12)
    weights_S = weigh_by_batches(SPACE, weigh_prompts_evenly(DATA_XY), batch_size)
    minimise(lambda policy: compute_expected_loss(policy, compute_sft_loss, weights_S), policy)
    found_XY = policy.compute_logprobs_XY().detach()
    assert compute_total_variation(found_XY, derive_minimiser(DATA_XY, batch_size)).max().item() < 1e-3
    assert compute_total_variation(found_XY, DATA_XY).min().item() > (0.1 if batch_size == 1 else 0.04)
    lengths_Y = SPACE.lengths_Y.double()
    assert bool(((found_XY.exp() @ lengths_Y) < (DATA_XY.exp() @ lengths_Y)).all())


def test_the_reweighting_fades_as_batches_grow() -> None:
    distances = {B: compute_total_variation(derive_minimiser(DATA_XY, B), DATA_XY).max().item() for B in (1, 2, 8, 64)}
    assert distances[1] > 2 * distances[2] > 4 * distances[8] > 20 * distances[64] > 0
    assert distances[64] < 0.005
