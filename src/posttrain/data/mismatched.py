"""Unpaired rows with the completions of others, which KTO's reference point is estimated from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_bytes, hash_json
from posttrain.core.records import RenderedSample
from posttrain.data.pairs import PairRows, RenderedPair

_TRIED = 64  # rotations, the one under which the fewest rows get a completion of their own prompt


@dataclass(frozen=True, slots=True)
class MismatchedRows(PairRows):
    """The rows of one source, each with its own prompt and the completion of its partner among all sources.

    Made by `mismatch_rows`. `sources` are all rows, `partners_R` the number of each row's partner, counted through all
    sources. A completion is cut where it would be longer than `max_length` behind a longer prompt; None: nowhere.
    """

    sources: Sequence[PairRows]
    partners_R: npt.NDArray[np.int64]
    max_length: int | None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        first = number * (1 + self.width)
        prompt, limit = self.parts.row(first), int(self.part_lengths_RK[number, 1])
        completion = _find_completion(self.sources, int(self.partners_R[number]))
        return RenderedPair(self.parts.row_ids[first], prompt, (_cut(completion, limit),))

    @property
    def content_hash(self) -> str:
        """The hash of all tokens, and of which of them lie together."""
        hashes = [rows.content_hash for rows in self.sources]
        partners = hash_bytes(np.ascontiguousarray(self.partners_R).tobytes())
        return hash_json([self.parts.content_hash, hashes, partners, self.max_length])

    @property
    def part_lengths_RK(self) -> npt.NDArray[np.int64]:
        """Tokens of each row's prompt and of its partner's completion as far as it is taken, [rows, 2]."""
        lengths_RK = self.parts.lengths_R.reshape(-1, 1 + self.width).copy()
        completions = np.concatenate([rows.part_lengths_RK[:, 1] for rows in self.sources])
        lengths_RK[:, 1] = completions[self.partners_R]
        if self.max_length is not None:
            lengths_RK[:, 1] = np.minimum(lengths_RK[:, 1], np.maximum(1, self.max_length - lengths_RK[:, 0]))
        return lengths_RK


def _find_completion(sources: Sequence[PairRows], number: int) -> RenderedSample:
    for rows in sources:
        if number < len(rows):
            completion: RenderedSample = rows[number].chosen
            return completion
        number -= len(rows)
    raise IndexError(f"{number} rows beyond the last")


def _cut(completion: RenderedSample, limit: int) -> RenderedSample:
    span = slice(0, limit)
    return RenderedSample(completion.ids_T[span], completion.sources_T[span], completion.is_trainable_T[span])


def mismatch_rows(sources: Sequence[PairRows], max_length: int | None = None) -> list[MismatchedRows]:
    """Return the rows of unpaired sources with completions of others (`rotate_completions`).

    Args:
        sources: All rows of a stage, of one completion each.
        max_length: Tokens of a prompt with the other row's completion, beyond which the latter is cut.

    Raises:
        DataError: All completions are the same.
    """
    rows = [row for source in sources for row in source]
    partners = rotate_completions(
        [hash_bytes(row.prompt.ids_T.tobytes()) for row in rows],
        [hash_bytes(row.chosen.ids_T.tobytes()) for row in rows],
    )
    ends = np.cumsum([len(source) for source in sources])
    return [
        MismatchedRows(source.parts, source.columns, source.width, sources, part, max_length)
        for source, part in zip(sources, np.split(partners, ends[:-1]), strict=True)
    ]


def rotate_completions(prompts: Sequence[str], completions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return for each row another row with a different completion: a rotation of the rows where there is one.

    Rows are arranged by completion, equal ones side by side, the largest such group of m rows. A rotation by at least m
    and at most R - m gives every row a completion that is not its own, and each completion to one row. Of those the
    one is taken under which the fewest rows get a completion of their own prompt. Where one completion is that of
    more than half of the rows there is none: its rows then share the others' completions.

    Which row a completion goes to is a function of the rows alone: neither batches nor ranks nor seeds change it.

    Args:
        prompts: What names each row's prompt.
        completions: What names each row's completion.

    Raises:
        DataError: All completions are the same.
    """
    _, prompts_R = np.unique(np.asarray(prompts), return_inverse=True)
    _, completions_R, counts = np.unique(np.asarray(completions), return_inverse=True, return_counts=True)
    num_rows, largest = len(prompts_R), int(counts.max())
    if largest == num_rows:
        raise _all_the_same(num_rows, "data")
    partners_R = np.empty(num_rows, np.int64)
    if 2 * largest > num_rows:
        is_common_R = completions_R == counts.argmax()
        common, others = np.flatnonzero(is_common_R), np.flatnonzero(~is_common_R)
        partners_R[others] = common[: len(others)]
        partners_R[common] = others[np.arange(len(common)) % len(others)]
        return partners_R
    order = np.lexsort((prompts_R, completions_R))
    shifts = np.unique(np.linspace(largest, num_rows - largest, _TRIED).astype(np.int64))
    same = [int((prompts_R[order] == prompts_R[np.roll(order, -shift)]).sum()) for shift in shifts]
    partners_R[order] = np.roll(order, -int(shifts[int(np.argmin(same))]))
    return partners_R


def check_completions(sources: Sequence[PairRows], place: str) -> None:
    """Check that rows have completions to exchange; `place` is the recipe's key that names them.

    Raises:
        DataError: All completions are the same.
    """
    completions = (row.chosen.ids_T.tobytes() for rows in sources for row in rows)
    first = next(completions, None)
    if all(completion == first for completion in completions):
        raise _all_the_same(sum(map(len, sources)), place)


def _all_the_same(num_rows: int, place: str) -> DataError:
    found = f"all {num_rows:,} rows have the same completion" if num_rows > 1 else "one row alone"
    return DataError(
        found,
        expected="another row's completion for every prompt, which KTO's reference point is estimated from",
        cure="add rows, or use loss: bco, which needs none",
        place=place,
    )
