"""How much memory a training step will need, found without running it.

The model is built on the meta device and one micro-batch goes through it there: autograd saves what it
would save, and the bytes of every saved tensor are counted once a storage. So the figure follows any
architecture, adapter and checkpointing setting. Weights, masters, moments and gradients are counted
from the parameters, the head's chunk from its shape.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posttrain.kernels.token_logprobs import count_chunk_rows
from posttrain.training.batches import MicroBatch
from posttrain.training.policy import ScoredPolicy


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of one rank's training step, by what they are for.

    `process` is the interpreter with its libraries; `runtime` what kernels and the allocator keep beside
    the tensors (see `estimate_runtime`); `copies` are weights kept once more, to be sampled or read from; `drawing` is
    what drawing completions takes between two updates, when nothing is kept of a step.
    """

    process: int
    weights: int
    optimizer: int
    gradients: int
    activations: int
    head: int
    runtime: int = 0
    copies: int = 0
    drawing: int = 0

    def share_among(self, ranks: int) -> MemoryEstimate:
        """Return one rank's part when weights, gradients and optimizer state are sharded over several."""
        parts = {name: getattr(self, name) // ranks for name in ("weights", "optimizer", "gradients")}
        return replace(self, **parts)

    @property
    def total(self) -> int:
        """Peak bytes: activations are freed while gradients appear, so the larger of the two counts."""
        step = max(self.gradients, self.activations + self.head, self.drawing)
        return self.process + self.runtime + self.weights + self.copies + self.optimizer + step


def estimate_step_memory(
    policy: ScoredPolicy, lengths: Sequence[int], scored: int, *, num_micro_batches: int, has_ema: bool
) -> MemoryEstimate:
    """Return the peak memory of a training step on one rank.

    Args:
        policy: A policy on the meta device, its trainable parameters marked.
        lengths: Tokens of each row of the largest micro-batch.
        scored: Trained tokens of that micro-batch.
        num_micro_batches: Micro-batches of a step on this rank; more than one needs fp32 sums of gradients.
        has_ema: Whether a moving average of the weights is kept.
    """
    parameters = list(policy.parameters())
    trained = [p for p in parameters if p.requires_grad]
    count = sum(p.numel() for p in trained)
    shadows = sum(p.numel() for p in trained if p.dtype != torch.float32)
    optimizer = 8 * count + 4 * shadows + (4 * count if has_ema else 0)
    gradient_bytes = sum(p.numel() * (4 if num_micro_batches > 1 else p.element_size()) for p in trained)
    return MemoryEstimate(
        process=measure_resident_bytes(),
        weights=sum(p.numel() * p.element_size() for p in parameters),
        optimizer=optimizer,
        gradients=gradient_bytes,
        activations=_count_saved_bytes(policy, lengths),
        head=_head_bytes(policy, scored),
    )


def estimate_runtime(estimate: MemoryEstimate, *, is_bf16: bool, has_adapter: bool, recomputed: int) -> int:
    """Return the bytes that a CPU's kernels and allocator hold beside the tensors of a step.

    Measured, not derived (`benchmarks/memory_plan.py`: two shapes, full weights and LoRA, both dtypes, with
    and without checkpointing): compiled kernels and packed copies of bf16 operands, the adapter library,
    a third of the activations in blocks that the allocator has not given back, and with checkpointing
    twice what one layer recomputes.
    """
    kernels = 65_000_000 + (85_000_000 if is_bf16 else 0) + (22_000_000 if has_adapter else 0)
    return kernels + int(0.35 * (estimate.activations + estimate.head)) + 2 * recomputed


@functools.cache
def measure_resident_bytes() -> int:
    """Return the resident memory of this process when it was first asked for: libraries and nothing else."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _count_saved_bytes(policy: ScoredPolicy, lengths: Sequence[int]) -> int:
    """Run a micro-batch's backbone on the meta device and return the bytes autograd keeps for the backward pass."""
    seen: dict[int, Any] = {}
    own = {p.untyped_storage()._cdata for p in policy.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage  # kept alive, so that no address is used twice
        return tensor

    ids = torch.zeros(sum(lengths), dtype=torch.int64, device="meta")
    none = ids[:0]
    policy.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.compute_hidden(MicroBatch(ids, tuple(lengths), none, none, torch.empty(0, device="meta"), ()))
    return sum(storage.nbytes() for storage in seen.values())


def _head_bytes(policy: ScoredPolicy, scored: int) -> int:
    head = policy.head()
    V, H = head.weight.shape
    rows = min(count_chunk_rows(V, head.weight.device.type), scored)
    size = head.weight.element_size()
    grad_weight = V * H * (size if scored <= rows else 4 + size) if head.weight.requires_grad else 0
    return rows * V * size + 2 * scored * H * size + grad_weight
