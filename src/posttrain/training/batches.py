"""Micro-batches: rows laid end to end, with the rows that are scored and their weights.

A token at position t of a row is scored from the hidden state at t - 1; a row's first token has no
predecessor and is never scored. Shape letters: T tokens of the micro-batch, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.records import RenderedSample
from posttrain.kernels.layouts import round_up_tokens
from posttrain.kernels.shared_prefix import Family, lay_out_families


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
    families: tuple[Family, ...] | None = None
    constants: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> MicroBatch:
        """Return the batch with its tensors on a device."""
        if str(device) == "cpu":
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("ids_T", "scored_N", "targets_N", "weights_N")
        }
        constants = {name: values.to(device, non_blocking=True) for name, values in self.constants.items()}
        return replace(self, **moved, constants=constants)


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


@dataclass(frozen=True, slots=True)
class ScoredCompletion:
    """A completion as it is trained on: its tokens, which of them are scored and with what weight and constants.

    Args:
        ids: Token ids, as the sampler drew or saw them, at least one.
        is_scored: bool, one a token: false for observations.
        weights: fp32, one a token; read where it is scored.
        constants: By name, one number a token.
        row_id: What an error names it by.
    """

    ids: npt.NDArray[np.int32]
    is_scored: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    constants: Mapping[str, npt.NDArray[np.float32]]
    row_id: str


@dataclass(frozen=True, slots=True)
class PromptFamily:
    """A prompt's tokens, at least one, and the completions that are trained on behind it."""

    prompt_ids: npt.NDArray[np.int32]
    completions: Sequence[ScoredCompletion]


def build_family_batch(families: Sequence[PromptFamily], *, is_shared: bool, has_filler: bool = True) -> MicroBatch:
    """Lay prompts and their completions end to end.

    Args:
        families: What is trained on.
        is_shared: Whether a prompt stands once before all its completions (`models.heads.is_sharing_exact`), or before
            each of them.
        has_filler: As of `build_micro_batch`.
    """
    rows = list(families)
    if not is_shared:
        rows = [PromptFamily(family.prompt_ids, [one]) for family in families for one in family.completions]
    ids: list[npt.NDArray[np.int32]] = []
    sizes: list[list[int]] = []
    scored, parts = [], []
    start = 0
    for row in rows:
        ids.append(row.prompt_ids)
        sizes.append([len(row.prompt_ids)])
        last = start + len(row.prompt_ids) - 1
        start = last + 1
        for completion in row.completions:
            before = np.arange(start - 1, start - 1 + len(completion.ids))
            before[0] = last  # what precedes every completion is the prompt's end
            scored.append(before[completion.is_scored])
            ids.append(completion.ids)
            sizes[-1].append(len(completion.ids))
            parts.append(completion)
            start += len(completion.ids)
    filler = round_up_tokens(start) - start if has_filler else 0
    if filler:
        ids.append(np.zeros(filler, np.int32))
        sizes.append([filler])

    def gather(values: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        chosen = [value[part.is_scored] for value, part in zip(values, parts, strict=True)]
        return torch.from_numpy(np.concatenate(chosen))

    return MicroBatch(
        ids_T=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        lengths=tuple(map(sum, sizes)),
        scored_N=torch.from_numpy(np.concatenate(scored)),
        targets_N=gather([part.ids.astype(np.int64) for part in parts]),
        weights_N=gather([part.weights for part in parts]),
        row_ids=tuple(part.row_id for part in parts),
        families=lay_out_families(sizes) if is_shared else None,
        constants={name: gather([part.constants[name] for part in parts]) for name in parts[0].constants},
    )


def build_empty_micro_batch() -> MicroBatch:
    """Return a batch that costs next to nothing and has no weight.

    A rank that has run out of rows passes it on, so that all ranks take part in every collective.
    """
    none = torch.empty(0, dtype=torch.int64)
    return MicroBatch(torch.zeros(1, dtype=torch.int64), (1,), none, none, torch.empty(0), ())
