"""The listing is whole: probabilities sum to one, log-probs are those of a model run by hand and by the project."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from posttrain.kernels.layouts import Layout
from posttrain.models.logprobs import compute_logprobs
from posttrain.objectives.sft import compute_sft_loss
from tests.oracles.enumeration import (
    CompletionSpace,
    EnumerablePolicy,
    TabularPolicy,
    compute_entropy,
    compute_expectation,
    compute_expected_loss,
    compute_total_variation,
    draw_values,
    weigh_prompts_evenly,
)
from tests.oracles.llama_policy import (
    PROMPTS,
    LlamaPolicy,
    build_batch,
    build_scored_policy,
    find_gradient_error,
    make_llama,
    make_space,
)
from tests.oracles.minimising import compute_finite_differences, compute_gradient

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=3)


def make_table() -> EnumerablePolicy:
    return TabularPolicy.draw(SPACE, seed=1)


def make_llama_policy() -> EnumerablePolicy:
    return LlamaPolicy(make_space(), make_llama())


POLICIES = pytest.mark.parametrize("make", [make_table, make_llama_policy])


def test_completions_are_all_token_sequences_that_end_or_are_full() -> None:
    space = CompletionSpace(num_prompts=1, num_tokens=2, max_tokens=2)
    assert space.prefixes == [(), (1,)]
    assert space.completions == [(0,), (1, 0), (1, 1)]
    assert space.offsets.tolist() == [0, 1, 3, 5]
    # 1 + 2 + 4 that end, after each of the prefixes, and 2^3 full ones.
    assert len(SPACE.completions) == len(set(SPACE.completions)) == 7 + 8


def test_a_table_of_two_tokens_gives_the_probabilities_worked_out_by_hand() -> None:
    """End first with 1/4, else then end with 1/3: 1/4, 3/4 1/3 = 1/4 and 3/4 2/3 = 1/2; entropy 3/2 ln 2."""
    space = CompletionSpace(num_prompts=1, num_tokens=2, max_tokens=2)
    policy = TabularPolicy(space, torch.tensor([[[1.0, 3.0], [1.0, 2.0]]], dtype=torch.float64).log())
    assert policy.compute_logprobs_XY().exp()[0].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2], rel=1e-12)
    assert policy.compute_logprobs_N().exp().tolist() == pytest.approx([1 / 4, 3 / 4, 1 / 3, 3 / 4, 2 / 3], rel=1e-12)
    assert compute_entropy(policy.compute_logprobs_XY()).item() == pytest.approx(1.5 * math.log(2), rel=1e-12)
    lengths = space.lengths_Y.double()[None]
    assert compute_expectation(policy.compute_logprobs_XY(), lengths).item() == pytest.approx(1 / 4 + 2 * 3 / 4)
    assert space.compute_reach(policy.compute_next_logprobs())[0].tolist() == pytest.approx([1, 3 / 4])


@POLICIES
def test_probabilities_of_all_completions_sum_to_one(make: Callable[[], EnumerablePolicy]) -> None:
    logprobs_XY = make().compute_logprobs_XY()
    assert logprobs_XY.exp().sum(-1).tolist() == pytest.approx([1.0] * len(logprobs_XY), abs=1e-12)
    assert logprobs_XY.exp().max().item() < 0.9 and logprobs_XY.exp().min().item() > 1e-7


@POLICIES
def test_tokens_between_offsets_sum_to_the_log_prob_of_their_sequence(make: Callable[[], EnumerablePolicy]) -> None:
    policy = make()
    logprobs_N, logprobs_S = policy.compute_logprobs_N(), policy.compute_logprobs_XY().flatten()
    offsets = policy.space.offsets.tolist()
    sums = [logprobs_N[start:end].sum().item() for start, end in pairwise(offsets)]
    assert sums == pytest.approx(logprobs_S.tolist(), abs=1e-12) and len(logprobs_N) == offsets[-1]


@POLICIES
def test_expectations_are_differentiable_by_every_parameter(make: Callable[[], EnumerablePolicy]) -> None:
    """The gradient of a random reward's expectation, by automatic differentiation and by differences."""
    policy = make()
    if isinstance(policy, LlamaPolicy):  # fewer rows for as many parameters
        policy = LlamaPolicy(make_space(PROMPTS[:1], max_tokens=2), make_llama(), PROMPTS[:1])
    rewards_XY = draw_values(policy.space, seed=3)

    def compute() -> torch.Tensor:
        return compute_expectation(policy.compute_logprobs_XY(), rewards_XY).sum()

    for parameter in (policy.get_parameters()[0], policy.get_parameters()[-1]):
        found = compute_gradient(compute, parameter)
        assert (found - compute_finite_differences(compute, parameter)).abs().max().item() < 1e-9
        assert found.abs().max().item() > 1e-3


def test_a_distribution_of_completions_becomes_the_table_that_gives_it() -> None:
    policy = TabularPolicy.draw(SPACE, seed=2, scale=2.0)
    again = TabularPolicy.from_logprobs(SPACE, policy.compute_logprobs_XY().detach())
    assert (again.compute_next_logprobs() - policy.compute_next_logprobs()).abs().max().item() < 1e-12
    assert compute_total_variation(again.compute_logprobs_XY(), policy.compute_logprobs_XY()).max().item() < 1e-14


def test_total_variation_is_the_largest_difference_of_any_events_probability() -> None:
    """(1/2, 1/2, 0) against (1/4, 1/4, 1/2): the event that gains most is the third, by 1/2."""
    ours, theirs = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert compute_total_variation(ours, theirs).tolist() == pytest.approx([0.5])
    assert compute_entropy(ours).tolist() == pytest.approx([math.log(2)])


def test_an_expected_loss_is_the_sum_over_sequences_of_probability_times_their_weighted_losses() -> None:
    policy = TabularPolicy.draw(SPACE, seed=4)
    probabilities_S = weigh_prompts_evenly(TabularPolicy.draw(SPACE, seed=5).compute_logprobs_XY().detach())
    constants = {"advantages": SPACE.repeat_to_tokens(draw_values(SPACE, seed=6).flatten())}
    lengths_N = SPACE.repeat_to_tokens(SPACE.lengths_S)

    def objective(logprobs_N: torch.Tensor, values: dict[str, torch.Tensor]) -> torch.Tensor:
        return -values["advantages"] * logprobs_N

    found = compute_expected_loss(policy, objective, probabilities_S, constants, token_weights_N=1 / lengths_N)  # type: ignore[arg-type]
    expected, logprobs_N, offsets = 0.0, policy.compute_logprobs_N().tolist(), SPACE.offsets.tolist()
    for s, probability in enumerate(probabilities_S.tolist()):
        tokens = range(offsets[s], offsets[s + 1])
        sums = sum(-float(constants["advantages"][n]) * logprobs_N[n] for n in tokens)
        expected += probability * sums / len(tokens)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_forward_pass_written_here_is_that_of_transformers() -> None:
    model = make_llama()
    model.set_attn_implementation("eager")
    ids = torch.tensor([[1, 2, 3, 0, 3, 1, 2], [3, 3, 1, 2, 0, 0, 1]])
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False).logits
    ours = LlamaPolicy(make_space(), model).compute_logits(ids)
    assert (ours - theirs).abs().max().item() < 1e-5 and theirs.std().item() > 0.3


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_projects_log_probs_of_given_completions_are_the_exact_ones(layout: Layout) -> None:
    model, space = make_llama(), make_space()
    exact = LlamaPolicy(space, model).compute_logprobs_N().detach().numpy()
    prompts = [prompt for prompt in PROMPTS for _ in space.completions]
    found = compute_logprobs(model, prompts, space.completions * len(PROMPTS), layout=layout, micro_batch_tokens=100)
    assert np.abs(np.concatenate([result.logprobs_T for result in found]) - exact).max() < 1e-5


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_log_probs_and_gradients_of_training_are_the_exact_ones(layout: Layout) -> None:
    """A random objective, linear in log-probs, through the trainer's forward and backward; gradients by every weight.

    The rows are all there are: each of the three prompts with all of its 40 completions.
    """
    model, space = make_llama(), make_space()
    exact = LlamaPolicy(space, model)
    batch = build_batch(space)
    weights_N = space.repeat_to_tokens(draw_values(space, seed=7).flatten().abs()).float()
    scores = build_scored_policy(model, layout)(batch, compute_sft_loss, weights_N)
    scores.loss.backward()
    assert (scores.logprobs_N - exact.compute_logprobs_N()).abs().max().item() < 1e-5
    loss = -(exact.compute_logprobs_N() * weights_N).sum()
    error, name = find_gradient_error(model, exact, loss)
    assert error < 1e-5, name
