"""Triton kernels: values and gradients of the same work in torch. On a GPU, or by Triton's interpreter where asked for.

TRITON_INTERPRET=1 python -m pytest tests/kernels/test_triton.py
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from types import ModuleType

import pytest
import torch

from posttrain.kernels import token_logprobs
from posttrain.kernels.layers import gated_silu, rms_norm
from posttrain.kernels.token_logprobs import Head, TokenScores, score_tokens

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(
        not IS_INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU, or TRITON_INTERPRET=1"
    ),
]
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 16), (3, 5), (130, 48), (2, 70, 33), (600, 96)]


def load_layers(dtype: torch.dtype):
    from posttrain.kernels.triton_layers import TritonLayers

    return TritonLayers(dtype, device_type=DEVICE)


def make(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype).requires_grad_()


def compare(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        size = float(other.detach().float().abs().max())
        tolerance = (3e-6 if dtype == torch.float32 else 1.6e-2) * max(1.0, size)
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("is_unit_offset", [False, True])
def test_a_norm_and_its_gradients_are_those_of_torch(
    dtype: torch.dtype, shape: tuple[int, ...], is_unit_offset: bool
) -> None:
    results = []
    for kernels in (load_layers(dtype), None):
        hidden, gain = make(*shape, dtype=dtype, seed=1), make(shape[-1], dtype=dtype, seed=2)
        output = rms_norm(hidden, gain, 1e-5, is_unit_offset=is_unit_offset, native=kernels)
        output.backward(make(*shape, dtype=dtype, seed=3).detach())
        results.append([output, hidden.grad, gain.grad])
    compare(*results, dtype)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    for needs_hidden, needs_gain in ((True, False), (False, True)):
        hidden = make(7, 20, dtype=torch.float32, seed=1).detach().requires_grad_(needs_hidden)
        gain = make(20, dtype=torch.float32, seed=2).detach().requires_grad_(needs_gain)
        rms_norm(hidden, gain, 1e-5, native=load_layers(torch.float32)).sum().backward()
        assert (hidden.grad is not None, gain.grad is not None) == (needs_hidden, needs_gain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gated_unit_and_its_gradients_are_those_of_torch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    results = []
    for kernels in (load_layers(dtype), None):
        gate, up = make(*shape, dtype=dtype, seed=1), make(*shape, dtype=dtype, seed=2)
        output = gated_silu(gate, up, native=kernels)
        output.backward(make(*shape, dtype=dtype, seed=3).detach())
        results.append([output, gate.grad, up.grad])
    compare(*results, dtype)


def clipped(logprobs: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return -torch.minimum((logprobs + 3.0).exp(), torch.full_like(logprobs, 1.2)) * constants["advantages"]


def score(dtype: torch.dtype, vocabulary: int, scale: float, *, with_entropy: bool) -> list[torch.Tensor]:
    N, H = 45, 24
    hidden = make(N, H, dtype=dtype, seed=1)
    weight = make(vocabulary, H, dtype=dtype, seed=2)
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
    monkeypatch.setattr(token_logprobs, "_score_chunk", _score_by_kernels(token_logprobs))
    compare(score(dtype, vocabulary, scale, with_entropy=with_entropy), expected, dtype)


def score_in_torch(
    dtype: torch.dtype, vocabulary: int, scale: float, with_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(token_logprobs, "has_triton", lambda: False)
        return score(dtype, vocabulary, scale, with_entropy=with_entropy)


def _score_by_kernels(module: ModuleType):
    return module._score_chunk_on_gpu
