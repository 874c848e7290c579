"""Micro-batches: rows laid end to end, with the rows that are scored and their weights.

A token at position t of a row is scored from the hidden state at t - 1; a row's first token has no
predecessor and is never scored. Shape letters: T tokens of the micro-batch, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from posttrain.core.records import RenderedSample
from posttrain.kernels.layouts import round_up_tokens


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass's worth of rows.

    Made by `build_micro_batch`, read by `training.policy.ScoredPolicy`.

    Example: rows `[5, 6, 7]` and `[8, 9]` with the last token of each trainable give `ids_T = [5, 6, 7,
    8, 9]`, `lengths = (3, 2)`, `scored_N = [1, 3]`, `targets_N = [7, 9]`, `weights_N = [1, 1]`.
    """

    ids_T: torch.Tensor
    lengths: tuple[int, ...]
    scored_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    row_ids: tuple[str, ...]

    def to(self, device: torch.device | str) -> MicroBatch:
        """Return the batch with its tensors on a device."""
        if str(device) == "cpu":
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("ids_T", "scored_N", "targets_N", "weights_N")
        }
        return replace(self, **moved)


def count_scored(sample: RenderedSample) -> int:
    """Return how many tokens of a row are trained on (its first token never is)."""
    return int(sample.is_trainable_T[1:].sum())


def build_micro_batch(
    samples: Sequence[RenderedSample], row_ids: Sequence[str], *, has_filler: bool = True
) -> MicroBatch:
    """Lay rows end to end; every trained token has weight 1.

    A filler row, isolated like any other and never scored, rounds the token count up: matrix-product
    kernels are compiled and kept for every distinct shape, so that free lengths would cost time and a
    growing amount of memory. Padded rows have no use for one (`has_filler=False`).
    """
    lengths = [len(sample.ids_T) for sample in samples]
    ids = np.concatenate([sample.ids_T for sample in samples]).astype(np.int64)
    trainable = np.concatenate([sample.is_trainable_T for sample in samples])
    starts = np.cumsum((0, *lengths[:-1]))
    trainable[starts] = False
    targets = np.flatnonzero(trainable)
    filler = round_up_tokens(len(ids)) - len(ids) if has_filler else 0
    if filler:
        ids = np.concatenate([ids, np.zeros(filler, np.int64)])
        lengths.append(filler)
    return MicroBatch(
        ids_T=torch.from_numpy(ids),
        lengths=tuple(lengths),
        scored_N=torch.from_numpy(targets - 1),
        targets_N=torch.from_numpy(ids[targets]),
        weights_N=torch.ones(len(targets)),
        row_ids=tuple(row_ids),
    )


def build_empty_micro_batch() -> MicroBatch:
    """Return a batch that costs next to nothing and has no weight.

    A rank that has run out of rows passes it on, so that all ranks take part in every collective.
    """
    none = torch.empty(0, dtype=torch.int64)
    return MicroBatch(torch.zeros(1, dtype=torch.int64), (1,), none, none, torch.empty(0), ())
