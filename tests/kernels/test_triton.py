"""Triton kernels: values and gradients of the same work in torch. On a GPU, or by Triton's interpreter where asked for.

TRITON_INTERPRET=1 python -m pytest tests/kernels/test_triton.py
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from posttrain.kernels import token_logprobs
from tests.kernels.layer_checks import (
    DTYPES,
    SHAPES,
    check_gated_unit,
    check_needed_gradients,
    check_norm,
    compare,
)
from tests.kernels.score_checks import score_rows

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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [7, 1000, 20_000])
@pytest.mark.parametrize(("scale", "with_entropy"), [(1.0, False), (0.5, True)])
def test_scores_and_gradients_are_those_of_torch(
    dtype: torch.dtype, vocabulary: int, scale: float, with_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.kernels.triton_scores import TritonScores

    def score(kernels: TritonScores | None) -> list[torch.Tensor]:
        monkeypatch.setattr(token_logprobs, "find_score_kernels", lambda *given: kernels)
        return score_rows(dtype, vocabulary, scale, device=DEVICE, with_entropy=with_entropy)

    compare(score(TritonScores()), score(None), dtype)
