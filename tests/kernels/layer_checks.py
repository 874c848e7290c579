"""What compiled layer kernels are held to, whoever compiled them: values and gradients of the layers in torch."""

from __future__ import annotations

import torch

from posttrain.kernels.layers import LayerKernels, gated_silu, rms_norm

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 16), (3, 5), (130, 48), (2, 70, 33)]


def make(*shape: int, dtype: torch.dtype, seed: int, device: str = "cpu") -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device, dtype).requires_grad_()


def compare(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        size = float(other.detach().float().abs().max())
        tolerance = (3e-6 if dtype == torch.float32 else 1.6e-2) * max(1.0, size)
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def check_norm(
    compiled: LayerKernels, dtype: torch.dtype, shape: tuple[int, ...], *, is_unit_offset: bool, device: str = "cpu"
) -> None:
    results = []
    for kernels in (compiled, None):
        hidden = make(*shape, dtype=dtype, seed=1, device=device)
        gain = make(shape[-1], dtype=dtype, seed=2, device=device)
        output = rms_norm(hidden, gain, 1e-5, is_unit_offset=is_unit_offset, native=kernels)
        output.backward(make(*shape, dtype=dtype, seed=3, device=device).detach())
        results.append([output, hidden.grad, gain.grad])
    compare(*results, dtype)


def check_needed_gradients(compiled: LayerKernels, *, device: str = "cpu") -> None:
    for needs_hidden, needs_gain in ((True, False), (False, True)):
        hidden = make(7, 20, dtype=torch.float32, seed=1, device=device).detach().requires_grad_(needs_hidden)
        gain = make(20, dtype=torch.float32, seed=2, device=device).detach().requires_grad_(needs_gain)
        rms_norm(hidden, gain, 1e-5, native=compiled).sum().backward()
        assert (hidden.grad is not None, gain.grad is not None) == (needs_hidden, needs_gain)


def check_gated_unit(
    compiled: LayerKernels, dtype: torch.dtype, shape: tuple[int, ...], *, device: str = "cpu"
) -> None:
    results = []
    for kernels in (compiled, None):
        gate = make(*shape, dtype=dtype, seed=1, device=device)
        with torch.no_grad():
            gate.mul_(5)
        up = make(*shape, dtype=dtype, seed=2, device=device)
        output = gated_silu(gate, up, native=kernels)
        output.backward(make(*shape, dtype=dtype, seed=3, device=device).detach())
        results.append([output, gate.grad, up.grad])
    compare(*results, dtype)
