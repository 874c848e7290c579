"""Near duplicates among rows: MinHash with locality-sensitive hashing proposes pairs, exact Jaccard decides.

    J(a, b) = |a and b| / |a or b|     over the sets of runs of `shingle_words` words of two texts

MinHash and LSH (Broder 1997; Indyk and Motwani 1998) as datasketch has them. The bands are chosen for recall, since a
pair that is proposed in vain costs one comparison and is never dropped; a pair of the threshold itself may be missed.
What is kept in memory of a row is its signature and the hashes of its runs, not its text.

Which row of a group is kept: rows are taken by quality, best first, of equals the earlier; a row is a duplicate of the
first kept one whose Jaccard reaches the threshold. So every dropped row has a kept one that it is near to, and no chain
of small changes drops a row that is near to none that is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import LeanMinHash, MinHash, MinHashLSH

from posttrain.data.curated_text import split_words

PERMUTATIONS = 64
_SEED = 1
_RECALL_WEIGHTS = (0.1, 0.9)
"""What datasketch weighs false positives and false negatives by where it chooses bands."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A text as near duplicates compare it: a MinHash of `PERMUTATIONS` values, and its runs' sorted 64-bit hashes."""

    minhash: Any
    shingles_S: npt.NDArray[np.uint64]


def sign_text(text: str, shingle_words: int) -> Signature:
    """Return a text's signature; one of fewer words than a run is one run."""
    words = split_words(text)
    size = min(shingle_words, max(1, len(words)))
    runs = {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
    hashes = np.fromiter(map(_hash, runs), np.uint64, len(runs))
    hashes.sort()
    minhash = MinHash(PERMUTATIONS, seed=_SEED, hashfunc=_truncate)
    minhash.update_batch([int(value) for value in hashes])
    return Signature(LeanMinHash(minhash), hashes)


def compute_jaccard(a: Signature, b: Signature) -> float:
    """Return Jaccard's index of two texts' runs, in [0, 1]; of two without any it is 1."""
    shared = len(np.intersect1d(a.shingles_S, b.shingles_S, assume_unique=True))
    total = len(a.shingles_S) + len(b.shingles_S) - shared
    return shared / total if total else 1.0


def find_near_duplicates(
    signatures: Sequence[Signature], order: Iterable[int], threshold: float
) -> dict[int, tuple[int, float]]:
    """Return for each near duplicate the kept row that it is near to, with Jaccard's index.

    Args:
        signatures: One a row.
        order: The rows, best first: of two that are near, the earlier in this order is kept.
        threshold: Least index of a duplicate, in (0, 1].
    """
    index: Any = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=_RECALL_WEIGHTS)
    ranks: dict[int, int] = {}
    found: dict[int, tuple[int, float]] = {}
    for rank, row in enumerate(order):
        minhash = signatures[row].minhash
        for kept in sorted(index.query(minhash), key=ranks.__getitem__):
            similarity = compute_jaccard(signatures[kept], signatures[row])
            if similarity >= threshold:
                found[row] = (kept, similarity)
                break
        else:
            index.insert(row, minhash)
            ranks[row] = rank
    return found


def _hash(run: str) -> int:
    return int.from_bytes(hashlib.blake2b(run.encode("utf-8", errors="replace"), digest_size=8).digest(), "little")


def _truncate(value: int) -> int:
    """Return what of a run's hash datasketch permutes: 32 bits."""
    return (value >> 32) ^ (value & 0xFFFFFFFF)
