"""Self-training's fixed points, against iterating rounds and against listing every sample that a round can draw."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from tests.oracles.closed_forms import compute_conditioned
from tests.oracles.enumeration import compute_entropy
from tests.oracles.self_training import (
    compute_after_rounds,
    compute_expected_diversity,
    compute_fixed_point,
    compute_gini_diversity,
    run_round,
)

INITIAL_Y = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
FRESH_Y = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
NOISY_Y = torch.tensor([0.9, 0.7, 0.9, 0.2], dtype=torch.float64)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def test_with_an_exact_verifier_one_round_reaches_the_accepted_part_of_the_start_and_stays() -> None:
    verdicts_Y = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    first_Y = run_round(INITIAL_Y, verdicts_Y)
    conditioned_Y = compute_conditioned(INITIAL_Y.log()[None], verdicts_Y.bool()[None]).exp()[0]
    assert differ(first_Y, conditioned_Y) < 1e-15
    assert differ(run_round(first_Y, verdicts_Y), first_Y) < 1e-15
    assert first_Y.tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])


def test_its_entropy_may_rise() -> None:
    """Where most of the mass is one wrong answer: 0.9, 0.05, 0.05 has 0.394 nats, its accepted half and half ln 2."""
    initial_Y = torch.tensor([0.9, 0.05, 0.05], dtype=torch.float64)
    after_Y = run_round(initial_Y, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    entropies = compute_entropy(torch.stack([initial_Y, after_Y]).log()).tolist()
    assert entropies == pytest.approx([0.3943977, math.log(2)], abs=1e-6)


def test_a_noisy_verifier_multiplies_by_its_acceptance_every_round() -> None:
    policy_Y = INITIAL_Y
    for rounds in range(1, 31):
        policy_Y = run_round(policy_Y, NOISY_Y)
        assert differ(policy_Y, compute_after_rounds(INITIAL_Y, NOISY_Y, rounds)) < 1e-13
    # What is accepted most often is left, in the ratio of the start.
    assert compute_after_rounds(INITIAL_Y, NOISY_Y, 200).tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0], abs=1e-12)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("start", [INITIAL_Y, torch.tensor([0.001, 0.001, 0.001, 0.997], dtype=torch.float64)])
def test_with_a_share_of_fresh_data_rounds_converge_to_one_policy_from_anywhere(
    share: float, start: torch.Tensor
) -> None:
    fixed_Y = compute_fixed_point(NOISY_Y, FRESH_Y, share)
    assert float(fixed_Y.sum()) == pytest.approx(1.0, abs=1e-12)
    assert differ(run_round(fixed_Y, NOISY_Y, fresh_share=share, fresh_Y=FRESH_Y), fixed_Y) < 1e-12
    policy_Y = start
    for _ in range(3000):
        policy_Y = run_round(policy_Y, NOISY_Y, fresh_share=share, fresh_Y=FRESH_Y)
    assert differ(policy_Y, fixed_Y) < 1e-10
    # It is the leading eigenvector of M = (1 - s) diag(a) + s p a^T, its eigenvalue the mean acceptance.
    matrix = (1 - share) * np.diag(NOISY_Y.numpy()) + share * np.outer(FRESH_Y.numpy(), NOISY_Y.numpy())
    values, vectors = np.linalg.eig(matrix)
    leading = vectors[:, values.real.argmax()].real
    assert differ(torch.from_numpy(leading / leading.sum()), fixed_Y) < 1e-10
    assert values.real.max() == pytest.approx(float((fixed_Y * NOISY_Y).sum()), abs=1e-12)


def test_without_a_verifier_the_way_to_fresh_data_is_halved_by_a_share_of_one_half() -> None:
    all_Y = torch.ones(4, dtype=torch.float64)
    policy_Y = run_round(INITIAL_Y, all_Y, fresh_share=0.5, fresh_Y=FRESH_Y)
    assert differ(policy_Y, (INITIAL_Y + FRESH_Y) / 2) < 1e-15
    assert differ(compute_fixed_point(all_Y, FRESH_Y, 0.5), FRESH_Y) < 1e-12


def list_counts(num_kinds: int, num_samples: int) -> list[tuple[int, ...]]:
    """Every way in which N samples can fall on Y completions."""
    all_draws = combinations_with_replacement(range(num_kinds), num_samples)
    return [tuple(draws.count(y) for y in range(num_kinds)) for draws in all_draws]


def compute_multinomial(counts: tuple[int, ...], probabilities: torch.Tensor) -> float:
    ways = math.factorial(sum(counts)) // math.prod(math.factorial(count) for count in counts)
    return ways * math.prod(float(p) ** count for p, count in zip(probabilities, counts, strict=True))


@pytest.mark.parametrize("num_samples", [2, 3, 5])
def test_with_n_samples_a_round_diversity_shrinks_by_one_less_one_nth_in_expectation(num_samples: int) -> None:
    """The Markov chain over all counts, round by round; every sample is kept, the next policy their frequencies."""
    initial_Y = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    states = list_counts(3, num_samples)
    policies = [torch.tensor(counts, dtype=torch.float64) / num_samples for counts in states]
    moves = np.array([[compute_multinomial(counts, policy) for counts in states] for policy in policies])
    assert moves.sum(1).tolist() == pytest.approx([1.0] * len(states))
    distribution = np.array([compute_multinomial(counts, initial_Y) for counts in states])
    for rounds in range(1, 13):
        found = sum(p * compute_gini_diversity(policy) for p, policy in zip(distribution, policies, strict=True))
        assert found == pytest.approx(compute_expected_diversity(initial_Y, num_samples, rounds), abs=1e-12)
        distribution = distribution @ moves
    # Nobody is favoured: each completion is the last one left as often as it was likely at the start.
    last = np.linalg.matrix_power(moves, 400)
    ends = np.array([compute_multinomial(counts, initial_Y) for counts in states]) @ last
    survivors = [ends[states.index(tuple(num_samples * int(y == z) for z in range(3)))] for y in range(3)]
    assert survivors == pytest.approx(initial_Y.tolist(), abs=1e-9)
