"""AdamW on fp32 masters, whatever the precision that the model computes in; schedules; EMA.

With bf16 weights an update of relative size 1e-4 is below a weight's rounding step, so it is applied to
an fp32 master and the weight is that master rounded. Gradients of one micro-batch stay in bf16 until
they are used; of several they are summed in fp32 as they appear. The update runs bucket by bucket, so
that fp32 gradients of the whole model never exist at once with one micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

_BUCKET_ELEMENTS = 1 << 22
_GPU_BUCKET_ELEMENTS = 1 << 28  # 1 GiB of fp32: starting a kernel costs more than a small bucket's work


@dataclass(frozen=True, slots=True)
class AdamWSettings:
    """AdamW (arXiv 1711.05101); weight decay applies to matrices only, not to norms and biases."""

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0


Schedule = Literal["constant", "linear", "cosine"]


def compute_learning_rate(
    step: int, *, peak: float, num_steps: int, warmup_steps: int, schedule: Schedule, final_fraction: float
) -> float:
    """Return the learning rate of a step, a pure function of its number.

    Warm-up rises linearly, its step s having peak * (s + 1) / warmup_steps; then the schedule falls from
    `peak` at the first step after warm-up towards `peak * final_fraction`, which the step after the last
    would have: every step that is taken changes something.

    Args:
        step: The step about to be taken, counted from 0.
        peak: Highest learning rate.
        num_steps: Steps in all.
        warmup_steps: Steps of warm-up, < num_steps.
        schedule: `constant`, `linear` or `cosine` after warm-up.
        final_fraction: Share of the peak at the end, in [0, 1]; not used by `constant`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    done = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    share = 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return peak * (final_fraction + (1 - final_fraction) * share)


@dataclass(slots=True)
class _Slot:
    """One trainable parameter: the weight the model computes with and the fp32 master that is updated."""

    name: str
    weight: nn.Parameter
    master: torch.Tensor
    has_master: bool


class MasterOptimizer:
    """Sums gradients, clips their norm, updates fp32 masters, and copies them into the weights.

    Args:
        named_parameters: The model's parameters; those without `requires_grad` are left alone.
        settings: AdamW's constants.
        ema_decay: Decay per step of an exponential moving average of the masters, or None for none.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        settings: AdamWSettings,
        *,
        ema_decay: float | None = None,
    ) -> None:
        self.slots = []
        for name, weight in named_parameters:
            if weight.requires_grad:
                has_master = weight.dtype != torch.float32
                master = weight.detach().to(torch.float32, copy=True) if has_master else weight
                self.slots.append(_Slot(name, weight, master, has_master))
        groups = [
            {"params": [s.master for s in self.slots if s.weight.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [s.master for s in self.slots if s.weight.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=settings.betas,
            eps=settings.epsilon,
            fused=True,
        )
        self.ema_decay = ema_decay
        self.ema = [slot.master.detach().clone() for slot in self.slots] if ema_decay is not None else []

    def collect_gradients(self) -> None:
        """Move bf16 gradients of one micro-batch into fp32 sums on the masters (fp32 weights sum by themselves)."""
        sums, parts = [], []
        for slot in self.slots:
            if slot.has_master and slot.weight.grad is not None:
                if slot.master.grad is None:
                    slot.master.grad = slot.weight.grad.float()
                else:
                    sums.append(slot.master.grad)
                    parts.append(slot.weight.grad)
                slot.weight.grad = None
        if sums:
            torch._foreach_add_(sums, parts)

    def compute_norm(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the norm of all gradients and the norm of each parameter's, fp32, in the slots' order."""
        gradients = [grad for _, grad in self._gradients()]
        if not gradients:
            return torch.zeros(()), torch.zeros(0)
        norms = [_full(norm) for norm in torch._foreach_norm(gradients, 2, dtype=torch.float32)]
        stacked = torch.stack(norms)
        return torch.linalg.vector_norm(stacked), stacked

    def names_with_gradient(self) -> list[str]:
        """Return the names of parameters that hold a gradient, in the order of `compute_norm`."""
        return [slot.name for slot, _ in self._gradients()]

    def apply(self, learning_rate: float, scale: float) -> None:
        """Update masters with `scale` times the gradients, then the weights; gradients are consumed."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        # Taken off first: AdamW passes over parameters without a gradient, so only a bucket's are updated.
        waiting = self._gradients()[::-1]
        most = _GPU_BUCKET_ELEMENTS if waiting and waiting[0][1].device.type == "cuda" else _BUCKET_ELEMENTS
        self.drop_gradients()
        bucket: list[_Slot] = []
        size = 0
        while waiting:
            slot, grad = waiting.pop()
            slot.master.grad = grad.float()
            del grad  # a bf16 gradient is freed here
            bucket.append(slot)
            size += slot.master.numel()
            if size >= most or not waiting:
                self._apply_bucket(bucket, scale)
                bucket, size = [], 0
        for average, slot in zip(self.ema, self.slots, strict=False):
            average.lerp_(slot.master.detach(), 1 - (self.ema_decay or 0.0))

    def drop_gradients(self) -> None:
        """Forget all gradients (a step that is not taken)."""
        for slot in self.slots:
            slot.weight.grad = None
            slot.master.grad = None

    def masters(self) -> dict[str, torch.Tensor]:
        """Return the fp32 masters by parameter name."""
        return {slot.name: slot.master.detach() for slot in self.slots}

    def averages(self) -> dict[str, torch.Tensor]:
        """Return the moving averages by parameter name; empty if there are none."""
        return {slot.name: average for slot, average in zip(self.slots, self.ema, strict=False)}

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Let the model compute with the moving averages for a while; the weights come back bit for bit."""
        if not self.ema:
            yield
            return
        live = [slot.weight.detach().clone() for slot in self.slots]
        with torch.no_grad():
            for slot, average in zip(self.slots, self.ema, strict=True):
                slot.weight.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for slot, weight in zip(self.slots, live, strict=True):
                    slot.weight.copy_(weight)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return everything a checkpoint needs, by name: masters, moments, steps, averages."""
        tensors = {f"master/{name}": tensor for name, tensor in self.masters().items()}
        tensors |= {f"ema/{name}": tensor for name, tensor in self.averages().items()}
        for slot in self.slots:
            state = self.adamw.state.get(slot.master, {})
            tensors |= {f"{key}/{slot.name}": value for key, value in state.items()}
        return tensors

    @torch.no_grad()
    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `state_tensors` gave, bit for bit."""
        for index, slot in enumerate(self.slots):
            slot.master.copy_(_shard_like(tensors[f"master/{slot.name}"], slot.master))
            if slot.has_master:
                slot.weight.copy_(slot.master)
            if self.ema:
                self.ema[index].copy_(_shard_like(tensors[f"ema/{slot.name}"], self.ema[index]))
            if f"step/{slot.name}" in tensors:
                self.adamw.state[slot.master] = {
                    "step": tensors[f"step/{slot.name}"].clone().to(slot.master.device),
                    "exp_avg": _shard_like(tensors[f"exp_avg/{slot.name}"], slot.master).clone(),
                    "exp_avg_sq": _shard_like(tensors[f"exp_avg_sq/{slot.name}"], slot.master).clone(),
                }

    def _gradients(self) -> list[tuple[_Slot, torch.Tensor]]:
        pairs = [(s, s.master.grad if s.master.grad is not None else s.weight.grad) for s in self.slots]
        return [(slot, grad) for slot, grad in pairs if grad is not None]

    @torch.no_grad()
    def _apply_bucket(self, bucket: list[_Slot], scale: float) -> None:
        if scale != 1.0:
            torch._foreach_mul_([slot.master.grad for slot in bucket if slot.master.grad is not None], scale)
        self.adamw.step()
        for slot in bucket:
            slot.master.grad = None
        rounded = [slot for slot in bucket if slot.has_master]
        if rounded:
            torch._foreach_copy_([slot.weight for slot in rounded], [slot.master for slot in rounded])


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor that may be sharded over ranks."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if callable(gather) else tensor


def _shard_like(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return `whole` laid out as `like` is: on its device, and sharded over the same ranks."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None:
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), mesh, like.placements)  # type: ignore[attr-defined]  # a DTensor
