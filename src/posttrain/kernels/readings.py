"""Prompts with completions behind them, laid end to end, and the tokens whose hidden states are read.

A head of scores is read at the last token of a completion or at the ends of its steps. Shape letters: T tokens of a
pass, R tokens that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.kernels.layouts import Layout, round_up_tokens
from posttrain.kernels.shared_prefix import Family, lay_out_families

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt and the completions behind it, and of each the tokens that are read, counted from its first one.

    Made by whoever has completions judged, read by `lay_out_readings`. A completion has at least one token and one
    place; a prompt may be empty.

    Example: the prompt `[5, 6]` with the completions `[7, 8, 2]` and `[9, 2]`, each read at its last token:
    `Reading([5, 6], ([7, 8, 2], [9, 2]), ([2], [1]))`.
    """

    prompt: Ids
    completions: tuple[Ids, ...]
    places: tuple[Places, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt, once, and of all completions."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def num_reads(self) -> int:
        """Tokens that are read, of all completions."""
        return sum(map(len, self.places))

    def split(self) -> list[Reading]:
        """Return each completion with a prompt of its own."""
        pairs = zip(self.completions, self.places, strict=True)
        return [Reading(self.prompt, (ids,), (places,)) for ids, places in pairs]


@dataclass(frozen=True, slots=True)
class LaidOut:
    """Tokens of a pass, end to end, its rows' lengths, where prompts are shared, and what is read, in order."""

    ids_T: npt.NDArray[np.int64]
    lengths: tuple[int, ...]
    families: tuple[Family, ...] | None
    reads_R: Places


def lay_out_readings(readings: Sequence[Reading], *, is_shared: bool, has_filler: bool) -> LaidOut:
    """Return the pass that reads all of these.

    Args:
        readings: At least one.
        is_shared: Whether a prompt stands once before all its completions (`models.heads.is_sharing_exact`), or before
            each of them.
        has_filler: Whether a row that nothing is read from rounds up the number of tokens (packed rows).
    """
    rows = readings if is_shared else [one for reading in readings for one in reading.split()]
    ids: list[npt.NDArray[np.int32]] = []
    sizes: list[list[int]] = []
    reads: list[Places] = []
    start = 0
    for row in rows:
        parts = [row.prompt, *row.completions] if is_shared else [np.concatenate([row.prompt, *row.completions])]
        ids += parts
        sizes.append([len(part) for part in parts if len(part)])
        start += len(row.prompt)
        for completion, places in zip(row.completions, row.places, strict=True):
            reads.append(places + start)
            start += len(completion)
    filler = round_up_tokens(start) - start if has_filler else 0
    if filler:
        ids.append(np.zeros(filler, np.int32))
        sizes.append([filler])
    return LaidOut(
        np.concatenate(ids).astype(np.int64),
        tuple(map(sum, sizes)),
        lay_out_families(sizes) if is_shared else None,
        np.concatenate(reads),
    )


def count_tokens(reading: Reading, layout: Layout, *, is_shared: bool) -> int:
    """Return the tokens that a reading costs in a pass: its prompt once or before each completion, padding included."""
    if layout == "packed":
        return reading.num_tokens + (0 if is_shared else len(reading.prompt) * (len(reading.completions) - 1))
    return len(reading.completions) * (len(reading.prompt) + max(map(len, reading.completions)))


def group_readings(
    readings: Sequence[Reading], most_tokens: int, layout: Layout, *, is_shared: bool
) -> list[list[int]]:
    """Return which readings share a pass, by their index, longest first: a reading is never parted.

    Args:
        readings: What is to be read.
        most_tokens: Tokens of a pass, padding included; a longer reading is alone.
        layout: How rows lie; of `single` each reading is alone.
        is_shared: Whether a prompt counts once, or before each of its completions.
    """
    sizes = [count_tokens(one, layout, is_shared=is_shared) for one in readings]
    most_tokens = 0 if layout == "single" else most_tokens
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        if not groups or sizes[index] > room:
            groups.append([])
            room = most_tokens
        groups[-1].append(index)
        room -= sizes[index] if layout == "packed" else sizes[groups[-1][0]]
    return groups
