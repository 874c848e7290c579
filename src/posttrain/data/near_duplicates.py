"""Near duplicates among rows: MinHash with locality-sensitive hashing proposes pairs, exact Jaccard decides.

    J(a, b) = |a and b| / |a or b|     over the sets of runs of `shingle_words` words of two texts

MinHash and LSH (Broder 1997; Indyk and Motwani 1998) as datasketch has them. The bands are chosen for recall, since a
pair that is proposed in vain costs one comparison and is never dropped; a pair of the threshold itself may be missed.
What is kept in memory of a row is the hashes of its runs, not its text.

A run that more than `SHARED_FRACTION` of the rows hold, and more than `SHARED_ROWS`, is a template's and no row's own:
pairs are proposed by own runs, and are near only where both all runs and own runs reach the threshold. So rows that
share a preamble are not near by it, nor compared because of it. Rows without a run of their own are near where they
have the same runs. The price: of more near copies of one text than that, those that are not the same are kept.

Rows are compared only with rows of the same `aside` (labels, tools), and a pair's rejected answers must be near too.

Which row of a group is kept: rows are taken by quality, best first, of equals the earlier; a row is a duplicate of the
first kept one whose Jaccard reaches the threshold. So every dropped row has a kept one that it is near to, and no chain
of small changes drops a row that is near to none that is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from posttrain.data.curated_text import split_words

PERMUTATIONS = 64
_SEED = 1
_RECALL_WEIGHTS = (0.1, 0.9)
"""What datasketch weighs false positives and false negatives by where it chooses bands."""


SHARED_FRACTION = 0.01
SHARED_ROWS = 20
"""What so few rows share is never a template's, however few rows there are."""

_SLICES = 16
"""Runs are counted in so many slices of their hashes, so that a slice of all rows is held at once and not the whole."""

Shingles = npt.NDArray[np.uint64]
_NONE: Shingles = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Signature:
    """A row as near duplicates compare it: sorted 64-bit hashes of its text's runs, and of its rejected answer's.

    `aside` is what must be equal: rows that differ in it are never near.
    """

    shingles_S: Shingles
    rejected_S: Shingles = field(default_factory=lambda: _NONE)
    aside: bytes = b""


def sign_text(text: str, shingle_words: int, *, rejected: str | None = None, aside: bytes = b"") -> Signature:
    """Return the signature of a row.

    Args:
        text: What is compared.
        shingle_words: Words of a run, at least 1; a text of fewer is one run.
        rejected: The answer that a preference is against.
        aside: What must be equal in rows that are near.
    """
    rejected_S = _NONE if rejected is None else _hash_runs(rejected, shingle_words)
    return Signature(_hash_runs(text, shingle_words), rejected_S, aside)


def _hash_runs(text: str, shingle_words: int) -> Shingles:
    words = split_words(text)
    size = min(shingle_words, max(1, len(words)))
    runs = {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
    hashes = np.fromiter(map(_hash, runs), np.uint64, len(runs))
    hashes.sort()
    return hashes


def compute_jaccard(a_S: Shingles, b_S: Shingles) -> float:
    """Return Jaccard's index of two texts' runs, in [0, 1]; of two without any it is 1."""
    shared = len(np.intersect1d(a_S, b_S, assume_unique=True))
    total = len(a_S) + len(b_S) - shared
    return shared / total if total else 1.0


def find_shared_runs(signatures: Sequence[Signature]) -> Shingles:
    """Return the sorted hashes of the runs that are templates': those of too many rows."""
    limit = max(SHARED_ROWS, SHARED_FRACTION * len(signatures))
    if len(signatures) <= limit:
        return _NONE
    bounds = np.array([place << 60 for place in range(1, _SLICES)], np.uint64)
    edges = np.zeros((len(signatures), _SLICES + 1), np.int32)
    for row, one in enumerate(signatures):
        edges[row, 1:-1] = np.searchsorted(one.shingles_S, bounds)
        edges[row, -1] = len(one.shingles_S)
    shared = []
    for place in range(_SLICES):
        parts = [one.shingles_S[edge[place] : edge[place + 1]] for one, edge in zip(signatures, edges, strict=True)]
        runs, counts = np.unique(np.concatenate(parts), return_counts=True)
        shared.append(runs[counts > limit])
    return np.concatenate(shared)


def find_near_duplicates(
    signatures: Sequence[Signature], order: Iterable[int], threshold: float
) -> dict[int, tuple[int, float]]:
    """Return for each near duplicate the kept row that it is near to, with Jaccard's index.

    Args:
        signatures: One a row.
        order: The rows, best first: of two that are near, the earlier in this order is kept.
        threshold: Least index of a duplicate, in (0, 1].
    """
    shared = find_shared_runs(signatures)
    groups: dict[bytes, _Group] = {}
    found: dict[int, tuple[int, float]] = {}
    for row in order:
        group = groups.setdefault(signatures[row].aside, _Group(signatures, shared, threshold))
        near = group.find(row)
        if near is not None:
            found[row] = near
    return found


class _Group:
    """The kept rows of one `aside`: finds what a row is near to, and keeps it where that is nothing."""

    def __init__(self, signatures: Sequence[Signature], shared: Shingles, threshold: float) -> None:
        self._signatures, self._shared, self._threshold = signatures, shared, threshold
        self._index: Any = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=_RECALL_WEIGHTS)
        self._ranks: dict[int, int] = {}
        self._own: dict[int, Shingles] = {}
        self._without_own: dict[bytes, list[int]] = {}

    def find(self, row: int) -> tuple[int, float] | None:
        """Return the kept row that a row is near to, with the index; None where it is kept itself."""
        shingles_S = self._signatures[row].shingles_S
        own_S = shingles_S
        if len(self._shared):
            own_S = np.setdiff1d(shingles_S, self._shared, assume_unique=True)
        if not len(own_S):
            kept = self._without_own.setdefault(shingles_S.tobytes(), [])
            near = next((found for other in kept if (found := self._compare(row, own_S, other)) is not None), None)
            if near is None:
                self._own[row] = own_S
                kept.append(row)
            return near
        minhash = MinHash(PERMUTATIONS, seed=_SEED, hashfunc=_truncate)
        minhash.update_batch([int(value) for value in own_S])
        for other in sorted(self._index.query(minhash), key=self._ranks.__getitem__):
            near = self._compare(row, own_S, other)
            if near is not None:
                return near
        self._index.insert(row, minhash)
        self._ranks[row] = len(self._ranks)
        self._own[row] = own_S
        return None

    def _compare(self, row: int, own_S: Shingles, kept: int) -> tuple[int, float] | None:
        one, other = self._signatures[row], self._signatures[kept]
        similarity = compute_jaccard(own_S, self._own[kept])
        if len(own_S) < len(one.shingles_S) or len(self._own[kept]) < len(other.shingles_S):
            similarity = min(similarity, compute_jaccard(one.shingles_S, other.shingles_S))
        if similarity >= self._threshold and (len(one.rejected_S) or len(other.rejected_S)):
            similarity = min(similarity, compute_jaccard(one.rejected_S, other.rejected_S))
        return (kept, similarity) if similarity >= self._threshold else None


def _hash(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode("utf-8", errors="replace"), digest_size=8).digest(), "little")


def _truncate(value: int) -> int:
    """Return what of a run's hash datasketch permutes: 32 bits."""
    return (value >> 32) ^ (value & 0xFFFFFFFF)
