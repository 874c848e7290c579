"""Uniform numbers are even, depend on seed and step alone, and equal those of whole-number arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from posttrain.core.sampling import derive_sample_seed
from posttrain.kernels.drawing import compute_uniforms

MASK = (1 << 64) - 1
LARGE = [0, 1, -1, 2**63 - 1, -(2**63), 123456789, derive_sample_seed(17, 3)]


def mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def whole_number_uniform(seed: int, step: int) -> float:
    mixed = mix((seed + 0x9E3779B97F4A7C15) & MASK)
    return (mix((mixed + (step + 1) * 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53


def test_they_equal_those_of_arithmetic_on_whole_numbers() -> None:
    steps = [0, 1, 2, 1000, 2**40]
    found = compute_uniforms(torch.tensor(LARGE)[:, None], torch.tensor(steps)[None])
    assert found.dtype == torch.float64
    assert found.tolist() == [[whole_number_uniform(seed, step) for step in steps] for seed in LARGE]


def test_the_finaliser_is_that_of_splitmix64() -> None:
    """The first output of splitmix64 from seed 0 is e220a8397b1dcdaf (the reference implementation's)."""
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(
    ("seeds", "steps"),
    [
        (torch.zeros(50_000, dtype=torch.int64), torch.arange(50_000)),
        (torch.arange(50_000), torch.zeros(50_000, dtype=torch.int64)),
        (torch.arange(50_000) % 64, torch.arange(50_000) // 64),
        (torch.tensor([derive_sample_seed(5, index) for index in range(5000)]), torch.full((5000,), 7)),
    ],
    ids=["steps of one seed", "consecutive seeds", "a batch", "derived seeds"],
)
def test_they_are_even_by_steps_and_by_seeds(seeds: torch.Tensor, steps: torch.Tensor) -> None:
    uniforms = compute_uniforms(seeds, steps).numpy()
    assert uniforms.min() >= 0 and uniforms.max() < 1
    assert stats.kstest(uniforms, "uniform").pvalue > 0.001
    assert len(np.unique(uniforms)) == len(uniforms)


def test_neighbouring_steps_and_seeds_are_independent() -> None:
    """Chi square of pairs on a 20 x 20 board, and correlations within 4 standard errors, at several distances."""
    board = compute_uniforms(torch.arange(300)[:, None], torch.arange(300)[None]).numpy()
    for down, right in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (64, 0), (1, 299)]:
        one = board[: 300 - down, : 300 - right].ravel()
        other = board[down:, right:].ravel()
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(one))
        if len(one) > 10_000:
            counts = np.histogram2d(one, other, bins=20, range=[[0, 1], [0, 1]])[0]
            assert stats.chisquare(counts.ravel()).pvalue > 0.0005


def test_each_bit_of_seed_and_step_changes_half_of_the_bits() -> None:
    words = (compute_uniforms(torch.arange(1000), torch.zeros(1000, dtype=torch.int64)) * 2**53).long()
    for bit in range(63):
        for seeds, steps in [(torch.arange(1000) ^ (1 << bit), 0), (torch.arange(1000), 1 << bit)]:
            changed = words ^ (compute_uniforms(seeds, torch.full((1000,), steps)) * 2**53).long()
            share = np.unpackbits(changed.numpy().view(np.uint8)).mean() * 64 / 53
            assert 0.48 < share < 0.52


def test_a_number_does_not_depend_on_its_batch() -> None:
    seeds, steps = torch.tensor(LARGE), torch.arange(len(LARGE))
    together = compute_uniforms(seeds, steps)
    for row in range(len(LARGE)):
        assert torch.equal(compute_uniforms(seeds[row : row + 1], steps[row : row + 1]), together[row : row + 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_gives_the_same_numbers() -> None:
    seeds, steps = torch.tensor(LARGE)[:, None], torch.arange(100)[None]
    assert torch.equal(compute_uniforms(seeds.cuda(), steps.cuda()).cpu(), compute_uniforms(seeds, steps))
