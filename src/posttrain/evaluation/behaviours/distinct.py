"""Rows that say nothing that another row does not say: the same words, or nearly all the same.

Two texts are near where the estimated Jaccard similarity of their runs of three words reaches the threshold (MinHash,
Broder 1997, "On the resemblance and containment of documents"). Of two near rows the first stays, so that what is kept
of the first rows does not depend on what comes after.
"""

from __future__ import annotations

import re

from datasketch import MinHash, MinHashLSH

NUM_PERMUTATIONS = 128
NEAR_SIMILARITY = 0.7
WORDS_OF_A_RUN = 3
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
_WORD = re.compile(r"\w+")


class DistinctTexts:
    """Texts that were seen, of which later ones may be repeats."""

    def __init__(self, similarity: float = NEAR_SIMILARITY) -> None:
        self._seen: set[str] = set()
        self._index = MinHashLSH(threshold=similarity, num_perm=NUM_PERMUTATIONS)
        self._similarity = similarity
        self._hashes: dict[str, MinHash] = {}

    def add(self, text: str) -> str:
        """Take note of a text and return nothing, or say what it is of one seen before and forget it."""
        words = _WORD.findall(text.casefold())
        joined = " ".join(words)
        if joined in self._seen:
            return DUPLICATE
        runs = {" ".join(words[start : start + WORDS_OF_A_RUN]) for start in range(max(1, len(words) - 2))}
        minhash = MinHash(num_perm=NUM_PERMUTATIONS)
        minhash.update_batch([run.encode(errors="replace") for run in sorted(runs)])
        # The index finds candidates by bands; the estimate decides.
        if any(self._hashes[key].jaccard(minhash) >= self._similarity for key in self._index.query(minhash)):
            return NEAR_DUPLICATE
        key = str(len(self._hashes))
        self._seen.add(joined)
        self._hashes[key] = minhash
        self._index.insert(key, minhash)
        return ""
