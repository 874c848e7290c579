"""Compiled layer kernels: values and gradients of the layers in torch, whatever the shape and the threads."""

from __future__ import annotations

import pytest
import torch

from posttrain.kernels import native_layers
from posttrain.kernels.layers import gated_silu, rms_norm
from posttrain.kernels.native_layers import NativeLayers
from tests.kernels.native import load_or_skip

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 16), (3, 5), (130, 48), (2, 70, 33)]


def load(dtype: torch.dtype) -> NativeLayers:
    defines = {"BF16": 1} if dtype == torch.bfloat16 else {}
    return NativeLayers(load_or_skip(native_layers.SOURCE, defines, native_layers.HEADERS), dtype)


def make(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


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
    for native in (load(dtype), None):
        hidden, gain = make(*shape, dtype=dtype, seed=1), make(shape[-1], dtype=dtype, seed=2)
        output = rms_norm(hidden, gain, 1e-5, is_unit_offset=is_unit_offset, native=native)
        output.backward(make(*shape, dtype=dtype, seed=3).detach())
        results.append([output, hidden.grad, gain.grad])
    compare(*results, dtype)


def test_only_the_gradients_that_are_needed_are_computed() -> None:
    for needs_hidden, needs_gain in ((True, False), (False, True)):
        hidden = make(7, 20, dtype=torch.float32, seed=1).detach().requires_grad_(needs_hidden)
        gain = make(20, dtype=torch.float32, seed=2).detach().requires_grad_(needs_gain)
        rms_norm(hidden, gain, 1e-5, native=load(torch.float32)).sum().backward()
        assert (hidden.grad is not None, gain.grad is not None) == (needs_hidden, needs_gain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gated_unit_and_its_gradients_are_those_of_torch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    results = []
    for native in (load(dtype), None):
        gate = make(*shape, dtype=dtype, seed=1)
        with torch.no_grad():
            gate.mul_(5)
        up = make(*shape, dtype=dtype, seed=2)
        output = gated_silu(gate, up, native=native)
        output.backward(make(*shape, dtype=dtype, seed=3).detach())
        results.append([output, gate.grad, up.grad])
    compare(*results, dtype)


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
