"""Compiled kernels of logits: scores and gradients of the same rows in torch, whatever the sizes and the threads."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.kernels.token_logprobs import Head, compute_row_logprobs
from tests.kernels.layer_checks import DTYPES, compare, make
from tests.kernels.native import load_native_scores
from tests.kernels.score_checks import score_rows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [7, 16, 1000, 5001])
@pytest.mark.parametrize(("scale", "with_entropy"), [(1.0, False), (0.5, True)])
def test_scores_and_gradients_are_those_of_torch(
    dtype: torch.dtype, vocabulary: int, scale: float, with_entropy: bool
) -> None:
    native = load_native_scores(dtype)
    compare(
        *(score_rows(dtype, vocabulary, scale, with_entropy=with_entropy, kernels=k) for k in (native, None)), dtype
    )


def test_a_row_is_the_one_worked_out_by_hand() -> None:
    """Logits 0, ln 2, ln 5: probabilities 1/8, 1/4, 5/8; the target is the second; the slope is 4."""
    native = load_native_scores(torch.float32)
    logits, targets = torch.tensor([[0.0, math.log(2), math.log(5)]]), torch.tensor([1])
    figures = torch.empty(3, 1)
    totals = native.read_chunk(logits, targets, figures, 1.0, with_entropy=True)
    entropy = math.log(8) / 8 + math.log(4) / 4 + math.log(8 / 5) * 5 / 8
    assert figures[:, 0].tolist() == pytest.approx([math.log(1 / 4), 0.0, entropy], abs=1e-6)
    native.write_gradient(logits, targets, torch.tensor([4.0]), totals, 1.0)
    assert logits[0].tolist() == pytest.approx([-0.5, 3.0, -2.5], abs=1e-6)


def test_logits_of_minus_infinity_have_no_share() -> None:
    native = load_native_scores(torch.float32)
    logits, targets = torch.full((1, 40), -torch.inf), torch.tensor([3])
    logits[0, 3], logits[0, 39] = 0.0, 0.0
    figures = torch.empty(3, 1)
    totals = native.read_chunk(logits, targets, figures, 1.0, with_entropy=True)
    assert figures[:, 0].tolist() == pytest.approx([math.log(1 / 2), 1.0, math.log(2)], abs=1e-6)
    native.write_gradient(logits, targets, torch.tensor([1.0]), totals, 1.0)
    assert logits[0].nonzero()[:, 0].tolist() == [3, 39]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    native, threads, results = load_native_scores(dtype), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(score_rows(dtype, 3000, 1.0, with_entropy=True, kernels=native)[1:3])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_logits_that_the_kernels_cannot_read_go_through_torch() -> None:
    native = load_native_scores(torch.float32)
    logits = torch.zeros(4, 6)
    assert native.takes(logits)
    assert not native.takes(logits.T)
    assert not native.takes(logits.double())
    assert not native.takes(logits.to("meta"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_rows_are_those_of_torch(dtype: torch.dtype, temperature: float) -> None:
    hidden, weight = (make(*shape, dtype=dtype, seed=seed).detach() for seed, shape in ((1, (70, 24)), (2, (900, 24))))
    targets = torch.arange(70) * 7
    found, expected = (
        compute_row_logprobs(hidden, Head(weight, scale=0.5, kernels=kernels), targets, temperature=temperature)
        for kernels in (load_native_scores(dtype), None)
    )
    compare([found.logprobs_N], [expected.logprobs_N], dtype)
