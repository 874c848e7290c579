"""Compiled layer kernels: values and gradients of the layers in torch, whatever the shape and the threads."""

from __future__ import annotations

import pytest
import torch

from posttrain.kernels import native_layers
from posttrain.kernels.layers import gated_silu, rms_norm
from posttrain.kernels.native_layers import NativeLayers
from tests.kernels.layer_checks import DTYPES, SHAPES, check_gated_unit, check_needed_gradients, check_norm, make
from tests.kernels.native import load_or_skip


def load(dtype: torch.dtype) -> NativeLayers:
    defines = {"BF16": 1} if dtype == torch.bfloat16 else {}
    return NativeLayers(load_or_skip(native_layers.SOURCE, defines, native_layers.HEADERS), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("is_unit_offset", [False, True])
def test_a_norm_and_its_gradients_are_those_of_torch(
    dtype: torch.dtype, shape: tuple[int, ...], is_unit_offset: bool
) -> None:
    check_norm(load(dtype), dtype, shape, is_unit_offset=is_unit_offset)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    check_needed_gradients(load(torch.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gated_unit_and_its_gradients_are_those_of_torch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check_gated_unit(load(dtype), dtype, shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    native, threads, results = load(dtype), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            hidden, gain = make(500, 40, dtype=dtype, seed=1), make(40, dtype=dtype, seed=2)
            rms_norm(hidden, gain, 1e-5, native=native).backward(make(500, 40, dtype=dtype, seed=3).detach())
            results.append([hidden.grad, gain.grad])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)


def test_tensors_that_the_kernels_cannot_read_go_through_torch() -> None:
    native = load(torch.float32)
    hidden, gain = make(6, 20, dtype=torch.float32, seed=1), make(20, dtype=torch.float32, seed=2)
    assert native.takes(hidden, gain)
    assert not native.takes(hidden.T)
    assert not native.takes(hidden.double())
    assert not native.takes(hidden.to("meta"))
    strided = make(20, 6, dtype=torch.float32, seed=1).T
    torch.testing.assert_close(gated_silu(strided, strided, native=native), gated_silu(strided, strided))
    mixed = rms_norm(hidden.bfloat16(), gain.bfloat16(), 1e-5, native=native)
    assert torch.equal(mixed, rms_norm(hidden.bfloat16(), gain.bfloat16(), 1e-5))


def test_a_row_that_is_not_finite_stays_so_and_alone() -> None:
    hidden, gain = make(4, 40, dtype=torch.float32, seed=1), make(40, dtype=torch.float32, seed=2)
    with torch.no_grad():
        hidden[2, 3] = float("nan")
    output = rms_norm(hidden, gain, 1e-5, native=load(torch.float32))
    assert output[2].isnan().all()
    assert output[[0, 1, 3]].isfinite().all()
