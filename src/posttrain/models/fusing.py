"""Putting the house's layer kernels into a model, layer by layer, wherever a probe shows that they agree.

A layer is recognised by its parts, not by its class, and is replaced only if it gives the same output on
random input; whatever is not recognised or does not agree is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from posttrain.core.seeds import build_torch_generator
from posttrain.kernels.layers import LayerKernels, gated_silu, rms_norm

_PROBE_ROWS = 4
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def fuse_layers(model: nn.Module, native: LayerKernels | None = None) -> int:
    """Replace RMSNorms and gated SiLU units in place, by compiled kernels if given; return how many were replaced."""
    return sum(_fuse_norm(module, native) or _fuse_gated_unit(module, native) for module in list(model.modules()))


def _fuse_norm(module: nn.Module, native: LayerKernels | None) -> bool:
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not (isinstance(weight, nn.Parameter) and weight.ndim == 1 and isinstance(epsilon, float)):
        return False
    if not type(module).__name__.endswith("RMSNorm") or len(list(module.parameters())) != 1:
        return False
    probe = _draw(_PROBE_ROWS, weight.shape[0], weight)
    for is_unit_offset in (False, True):
        # The weight is read at each call: training and loading replace its values.
        candidate = partial(_normalise, module, epsilon, is_unit_offset, native)
        if _agree(module, candidate, probe):
            module.forward = candidate
            return True
    return False


def _normalise(
    module: Any, epsilon: float, is_unit_offset: bool, native: LayerKernels | None, hidden: torch.Tensor
) -> torch.Tensor:
    return rms_norm(hidden, module.weight, epsilon, is_unit_offset=is_unit_offset, native=native)


def _fuse_gated_unit(module: nn.Module, native: LayerKernels | None) -> bool:
    parts = ("gate_proj", "up_proj", "down_proj")
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in parts):
        return False
    own = [part for name, part in module.named_modules() if "lora_" not in name]
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in own):
        return False
    down: Any = module.down_proj
    weight = next(module.parameters())
    inputs = getattr(module.gate_proj, "in_features", None)
    if not isinstance(inputs, int) or not callable(getattr(module, "act_fn", None)) or not hasattr(down, "in_features"):
        return False
    candidate = partial(_run_gated_unit, module, native)
    if not _agree(module, candidate, _draw(_PROBE_ROWS, inputs, weight)):
        return False
    module.forward = candidate
    return True


def _run_gated_unit(module: Any, native: LayerKernels | None, hidden: torch.Tensor) -> torch.Tensor:
    return module.down_proj(gated_silu(module.gate_proj(hidden), module.up_proj(hidden), native=native))


def _draw(rows: int, size: int, like: torch.Tensor) -> torch.Tensor:
    if like.device.type == "meta":
        return torch.empty(rows, size, device="meta", dtype=like.dtype)
    drawn = torch.randn(rows, size, generator=build_torch_generator("fusing probe", size))
    return drawn.to(device=like.device, dtype=like.dtype)


@torch.no_grad()
def _agree(module: nn.Module, candidate: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor) -> bool:
    was_training = module.training
    module.eval()  # an adapter's dropout would make two calls differ
    try:
        expected, found = module(probe), candidate(probe)
    except (TypeError, RuntimeError):
        return False
    finally:
        module.train(was_training)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if probe.device.type == "meta":
        return True  # nothing to compare: the estimate of memory takes the layer's shape for its word
    difference = float((expected.float() - found.float()).abs().max())
    return difference <= _TOLERANCE.get(probe.dtype, 1e-5) * float(expected.float().abs().max())
