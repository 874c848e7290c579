"""Curation: which rows of some sources to train on, every other dropped with a reason.

Two passes over the rows. The first judges each by itself and keeps of those that pass a few numbers (hashes, a
signature, a score), never a text; then rows are compared with one another; the second pass writes. The order:

1. unreadable rows, by their own reasons;
2. `formats`, `lengths`, `languages`, `refusals`, `max_repetition`: what a row is by itself (`row_filters.py`);
3. `contaminated`: it holds an evaluation item;
4. `duplicate`: the texts, labels and tools of an earlier row, case and spacing aside;
5. `near duplicate`: of a better row (`near_duplicates.py`);
6. `quality`: below `min_quality` (`quality_rules.py`);
7. `value band`: outside of what is kept of a model's or scorer's values;
8. `not chosen`: there were more rows than `keep` (`diversity_selection.py`).

A row is counted under the first reason that strikes it. The same rows and settings give the same rows, byte for byte.

Sources: LIMA (Zhou et al. 2023): a thousand rows of good form and much variety are enough to teach the form; Deita (Liu
et al. 2023): by score, then diversity; AlpaGasus (Chen et al. 2023): drop what scores low. What a curation can NOT do
is tell whether an answer is right: that needs a scorer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from posttrain.core.records import Example
from posttrain.data.contamination_index import ContaminationIndex
from posttrain.data.curated_text import CuratedText, read_curated_text, split_words
from posttrain.data.curation_settings import CurationSettings
from posttrain.data.diversity_selection import TermCounts, build_vectors, choose_diverse, count_terms
from posttrain.data.evaluation_items import read_training_text
from posttrain.data.near_duplicates import Signature, find_near_duplicates, sign_text
from posttrain.data.quality_rules import Quality, judge_quality
from posttrain.data.row_filters import RowFilter

DUPLICATE, NEAR, CONTAMINATED = "duplicate", "near duplicate", "contaminated"
QUALITY, BAND, NOT_CHOSEN = "quality", "value band", "not chosen"

Values = Callable[[Sequence[CuratedText]], list[float | None]]
"""Gives some rows' values, of a model or a scorer; None where a row has none."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is kept in memory of a row that passed by itself: no text.

    `number` counts the rows of all sources from 0; `value` is a model's or scorer's, None where none was asked.
    """

    number: int
    row_id: str
    content: bytes
    quality: Quality
    words: int
    signature: Signature | None = None
    terms: TermCounts | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not kept: its number, id, the reason, and what was found."""

    number: int
    row_id: str
    reason: str
    detail: str


@dataclass(slots=True)
class Curation:
    """Rows under curation: `judge` each, then `compare` them all.

    Made by pipeline/curation.py, which reads and writes. `filters` judge rows by themselves, `index` holds evaluation
    items (None: none are looked for), `values` gives what `band` is about (None: there is none).
    """

    settings: CurationSettings
    filters: Sequence[RowFilter]
    index: ContaminationIndex | None = None
    values: Values | None = None
    judged: list[Judged] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def judge(self, rows: Sequence[tuple[int, Example]]) -> None:
        """Judge some rows by themselves: keep what is needed to compare those that pass, drop the others."""
        passed = []
        for number, example in rows:
            text = read_curated_text(example)
            reason, detail = self._find_fault(text)
            if reason:
                self.dropped.append(Dropped(number, text.row_id, reason, detail))
            else:
                passed.append((number, text))
        values = self.values([text for _, text in passed]) if self.values is not None and passed else None
        for place, (number, text) in enumerate(passed):
            self.judged.append(self._describe(number, text, values[place] if values is not None else None))

    def compare(self) -> list[Judged]:
        """Return the rows that are kept, in their order, having compared those that passed by themselves."""
        rows = self._drop_near(self._drop_copies(self.judged))
        least = self.settings.min_quality
        if least is not None:
            rows = list(self._drop(rows, QUALITY, lambda row: _explain_quality(row, least)))
        rows = self._choose(self._keep_band(rows))
        self.dropped.sort(key=lambda row: row.number)
        return rows

    def _find_fault(self, text: CuratedText) -> tuple[str, str]:
        for reason, find in self.filters:
            detail = find(text)
            if detail:
                return reason, detail
        if self.index is not None and text.example is not None:
            hits = self.index.search(read_training_text(text.example)).hits
            if hits:
                return CONTAMINATED, f"{hits[0].kind}: {self.index.items[hits[0].item].item_id}: {hits[0].passage}"
        return "", ""

    def _describe(self, number: int, text: CuratedText, value: float | None) -> Judged:
        settings = self.settings
        words = split_words(text.joined)
        aside = hash_aside(text.example)
        parts = (_fold(text.prompt), _fold(text.answer), _fold(text.rejected or ""))
        content = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace") + aside)
        return Judged(
            number,
            text.row_id,
            content.digest()[:16],
            judge_quality(text),
            len(words),
            self._sign(text, aside) if settings.near is not None else None,
            count_terms(text.joined) if settings.keep is not None else None,
            value,
        )

    def _sign(self, text: CuratedText, aside: bytes) -> Signature:
        return sign_text(text.joined, self.settings.shingle_words, rejected=text.rejected, aside=aside)

    def _drop(self, rows: Sequence[Judged], reason: str, explain: Callable[[Judged], str]) -> Iterator[Judged]:
        """Yield the rows of which there is nothing to explain; the others are dropped with the explanation."""
        for row in rows:
            detail = explain(row)
            if detail:
                self.dropped.append(Dropped(row.number, row.row_id, reason, detail))
            else:
                yield row

    def _drop_copies(self, rows: list[Judged]) -> list[Judged]:
        if not self.settings.exact:
            return rows
        first: dict[bytes, Judged] = {}
        for row in rows:
            first.setdefault(row.content, row)

        def explain(row: Judged) -> str:
            return "" if first[row.content] is row else f"of {first[row.content].row_id}"

        return list(self._drop(rows, DUPLICATE, explain))

    def _drop_near(self, rows: list[Judged]) -> list[Judged]:
        threshold = self.settings.near
        signatures = [row.signature for row in rows if row.signature is not None]
        if threshold is None or not signatures:
            return rows
        order = sorted(range(len(rows)), key=lambda place: (-rows[place].quality.score, place))
        near = find_near_duplicates(signatures, order, threshold)
        found = {
            rows[place].number: f"of {rows[kept].row_id} ({similarity:.2f})"
            for place, (kept, similarity) in near.items()
        }
        return list(self._drop(rows, NEAR, lambda row: found.get(row.number, "")))

    def _keep_band(self, rows: list[Judged]) -> list[Judged]:
        band = self.settings.band
        values = np.array([row.value for row in rows if row.value is not None], np.float64)
        if not len(values):
            return rows
        low, high = np.quantile(values, [band.low, band.high])

        def explain(row: Judged) -> str:
            if row.value is None:
                return "no value: it cannot be weighed or judged"
            is_low = row.value < low or (band.at_least is not None and row.value < band.at_least)
            return f"{row.value:.4g}" if is_low or row.value > high else ""

        return list(self._drop(rows, BAND, explain))

    def _choose(self, rows: list[Judged]) -> list[Judged]:
        if self.settings.keep is None or len(rows) <= self.settings.keep:
            return rows
        vectors = build_vectors([row.terms for row in rows if row.terms is not None])
        scores = [row.quality.score for row in rows]
        chosen = set(choose_diverse(vectors, scores, self.settings.keep, quality_weight=self.settings.quality_weight))
        places = {row.number: place for place, row in enumerate(rows)}
        left = f"{len(rows):,} rows for {self.settings.keep:,} places"
        return list(self._drop(rows, NOT_CHOSEN, lambda row: "" if places[row.number] in chosen else left))


def hash_aside(example: Example | None) -> bytes:
    """Return a hash of what makes rows of the same texts different rows: labels and tools."""
    if example is None:
        return b""
    values = [example.label, example.labels, example.tools]
    said = json.dumps(values, sort_keys=True, default=str).encode("utf-8", "replace")
    return hashlib.blake2b(said, digest_size=16).digest()


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _explain_quality(row: Judged, least: float) -> str:
    if row.quality.score >= least:
        return ""
    name, part = min(row.quality.parts.items(), key=lambda pair: pair[1])
    return f"{row.quality.score:.2f}, least {name} ({part:.2f})"
