"""Triton kernels: values and gradients of the same work in torch. On a GPU, or by Triton's interpreter where asked for.

TRITON_INTERPRET=1 python -m pytest tests/kernels/test_triton.py
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping

import pytest
import torch

from posttrain.kernels import token_logprobs
from posttrain.kernels.token_logprobs import Head, TokenScores, score_tokens
from tests.kernels.layer_checks import (
    DTYPES,
    SHAPES,
    check_gated_unit,
    check_needed_gradients,
    check_norm,
    compare,
    make,
)

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        not IS_INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU, or TRITON_INTERPRET=1"
    ),
]
LAYER_SHAPES = [*SHAPES, (600, 96)]  # more rows than one pass of programs


def load_layers(dtype: torch.dtype):
    from posttrain.kernels.triton_layers import TritonLayers

    return TritonLayers(dtype, device_type=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", LAYER_SHAPES, ids=str)
@pytest.mark.parametrize("is_unit_offset", [False, True])
def test_a_norm_and_its_gradients_are_those_of_torch(
    dtype: torch.dtype, shape: tuple[int, ...], is_unit_offset: bool
) -> None:
    check_norm(load_layers(dtype), dtype, shape, is_unit_offset=is_unit_offset, device=DEVICE)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    check_needed_gradients(load_layers(torch.float32), device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", LAYER_SHAPES, ids=str)
def test_a_gated_unit_and_its_gradients_are_those_of_torch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check_gated_unit(load_layers(dtype), dtype, shape, device=DEVICE)


def clipped(logprobs: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return -torch.minimum((logprobs + 3.0).exp(), torch.full_like(logprobs, 1.2)) * constants["advantages"]


def score(dtype: torch.dtype, vocabulary: int, scale: float, *, with_entropy: bool) -> list[torch.Tensor]:
    N, H = 45, 24
    hidden = make(N, H, dtype=dtype, seed=1, device=DEVICE)
    weight = make(vocabulary, H, dtype=dtype, seed=2, device=DEVICE)
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(vocabulary, (N,), generator=generator).to(DEVICE)
    targets[0] = (hidden[0] @ weight.T).argmax()
    constants = {"advantages": torch.randn(N, generator=generator).to(DEVICE)}
    weights = torch.rand(N, generator=generator).to(DEVICE)
    scores: TokenScores = score_tokens(
        hidden, Head(weight, scale=scale), targets, weights, clipped, constants, with_entropy=with_entropy
    )
    scores.loss.backward()
    figures = [scores.loss, scores.logprobs_N, scores.is_argmax_N.float(), hidden.grad, weight.grad]
    return [*figures, scores.entropies_N] if scores.entropies_N is not None else figures


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [7, 1000, 20_000])
@pytest.mark.parametrize(("scale", "with_entropy"), [(1.0, False), (0.5, True)])
def test_scores_and_gradients_are_those_of_torch(
    dtype: torch.dtype, vocabulary: int, scale: float, with_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score_in_torch(dtype, vocabulary, scale, with_entropy, monkeypatch)
    monkeypatch.setattr(token_logprobs, "_score_chunk", token_logprobs._score_chunk_on_gpu)
    compare(score(dtype, vocabulary, scale, with_entropy=with_entropy), expected, dtype)


def score_in_torch(
    dtype: torch.dtype, vocabulary: int, scale: float, with_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(token_logprobs, "has_triton", lambda: False)
        return score(dtype, vocabulary, scale, with_entropy=with_entropy)
