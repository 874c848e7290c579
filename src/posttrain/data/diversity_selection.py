"""Choosing a number of rows that are good and unlike one another.

Greedy: of all rows the one with the largest `quality^w * (1 - largest cosine to a chosen row)` is chosen next, starting
with the best; of equals the earlier. With `w` = 0 this is the farthest-first traversal of the k-centre problem
(Gonzalez 1985: within a factor of 2 of the best radius), with large `w` it is the best rows by quality alone. Deita
(Liu et al. 2023) takes rows by score and skips those near to one taken; SemDeDup (Abbas et al. 2023) prunes by cosine.

Texts are vectors of hashed TF-IDF over words and pairs of words, so that the choice needs no model and is the same on
every machine: unlike in wording, which is not unlike in meaning. Time is rows times chosen rows.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from posttrain.data.curated_text import split_words

DIMENSIONS = 1 << 18
MAX_WORDS = 400
"""What is read of a text."""


@dataclass(frozen=True, slots=True)
class TermCounts:
    """The words and pairs of words of a text, hashed, and how often each occurs."""

    ids_T: npt.NDArray[np.int32]
    counts_T: npt.NDArray[np.float32]


def count_terms(text: str) -> TermCounts:
    """Return the hashed terms of a text."""
    words = split_words(text)[:MAX_WORDS]
    terms = [*words, *(f"{left} {right}" for left, right in itertools.pairwise(words))]
    counts = Counter(zlib.crc32(term.encode("utf-8", errors="replace")) % DIMENSIONS for term in terms)
    ids = sorted(counts)
    return TermCounts(np.array(ids, np.int32), np.array([counts[i] for i in ids], np.float32))


def build_vectors(terms: Sequence[TermCounts]) -> csr_matrix:
    """Return one TF-IDF vector of length 1 a row: (1 + log count) * log((1 + rows) / (1 + rows with the term))."""
    indices = np.concatenate([row.ids_T for row in terms]) if terms else np.zeros(0, np.int32)
    counts = np.concatenate([row.counts_T for row in terms]) if terms else np.zeros(0, np.float32)
    offsets = np.cumsum([0, *(len(row.ids_T) for row in terms)])
    frequency = np.bincount(indices, minlength=DIMENSIONS)
    weights = (1 + np.log(counts)) * np.log((1 + len(terms)) / (1 + frequency[indices])).astype(np.float32)
    owners = np.repeat(np.arange(len(terms)), np.diff(offsets))
    norms = np.sqrt(np.bincount(owners, weights.astype(np.float64) ** 2, minlength=len(terms)))
    weights = weights / np.where(norms > 0, norms, 1.0)[owners]
    return csr_matrix((weights, indices, offsets), shape=(len(terms), DIMENSIONS))


def choose_diverse(
    vectors: csr_matrix, qualities: Sequence[float], num_kept: int, *, quality_weight: float = 1.0
) -> list[int]:
    """Return the rows that are chosen, in the order of the choice.

    Args:
        vectors: One a row, of length 1.
        qualities: In [0, 1], one a row.
        num_kept: How many to choose; all where there are fewer.
        quality_weight: The exponent of quality, at least 0.
    """
    weights = np.power(np.array(qualities, np.float64), quality_weight)
    nearest = np.zeros(len(weights))
    is_chosen = np.zeros(len(weights), bool)
    chosen: list[int] = []
    for _ in range(min(num_kept, len(weights))):
        gains = np.where(is_chosen, -1.0, weights * (1.0 - nearest))
        best = int(np.argmax(gains))
        chosen.append(best)
        is_chosen[best] = True
        cosines = np.asarray((vectors @ vectors[best].T).todense()).ravel()
        nearest = np.maximum(nearest, np.clip(cosines, 0.0, 1.0))
    return chosen
