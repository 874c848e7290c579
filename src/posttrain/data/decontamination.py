"""Contamination: which evaluation items occur in training texts, how, in which rows, and with which passage.

Five kinds of match, each reported apart, over normalised words with their figures folded (`word_tokens.py`):

| kind | an item is contaminated where |
| --- | --- |
| `whole` | its question stands in a training text, word for word: the match for items too short for n-grams |
| `ngrams` | n-grams of one training row cover at least `threshold` of the question's own words |
| `answered` | its question, or the end of it, stands there with its answer right behind |
| `near` | none of these, but a stretch of a text holds `near` of its own pairs of words and all its figures |
| `key` | one of its `content_keys` stands there |

`near` finds a question that is reworded, told in another order or of other names (`near_questions.py`).

What many questions share is boilerplate (instructions, formats, the frame of a template): its words are no item's own,
n-grams of nothing else do not count, and `whole` looks for what is left once n-grams of it are taken off both ends. A
question that many items share with different answers says nothing alone and is looked for with the answer only. A run
of fewer than `min_words` words says nothing at all; an item of which nothing else is left is counted as too short to
tell.

Published practice, which `ngrams` follows with Tulu 3's numbers:

* GPT-3 (Brown et al. 2020, appendix C): an item is dirty if any of its n-grams, of 8 to 13 words by benchmark, occurs
  in training data; in filtering that data, n-grams of over ten of its documents were left alone as boilerplate.
* Llama 2 (Touvron et al. 2023, appendix A.6): a token is contaminated in a shared n-gram of over ten tokens, with four
  mismatches allowed, and an item by its share of such tokens.
* Tulu 3 (Lambert et al. 2024, on decontaminating prompts; open-instruct, `decontamination/`): 8-grams, and over half of
  the item's tokens covered by one training document.

Differences from Tulu 3: words are normalised; boilerplate is found in the evaluation items and taken out of both
numerator and denominator; an n-gram that a question repeats counts once; exactly the threshold counts. Every message
of a training row is searched, not only prompts. `covered_by_all` is Llama 2's union over all rows, without mismatches.

What it cannot find: a free paraphrase or translation; numbers of several words (`two hundred`); a short item with one
word changed; what stands in images, tools' schemas and columns that are not trained on. Boilerplate
that fewer than three questions share is not known as such. What it finds needn't be a leak: a common phrase of five
words is found `whole` wherever it stands, a short question also in a longer one that begins with it, a long one under
another instruction too, and stories told with other figures share n-grams. The passages tell.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from posttrain.data.contamination_index import KINDS, ContaminationIndex, ContaminationSettings, Hit, Kind
from posttrain.data.evaluation_items import TrainingText

DECONTAMINATION_VERSION = 1
"""Part of what findings are kept under: raised whenever the same rows, items and settings would give others."""

MAX_LISTED = 20
"""Items that are too short to tell are listed by id up to so many."""

MAX_ROWS = 5
"""Training rows that are listed for each item and kind."""

_RowKey = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """How one kind of match found an item.

    `rows` counts training rows, of which `row_ids` lists the first by number; the passage is that of the first, or for
    `ngrams` that of the row that covers most.
    """

    rows: int
    row_ids: tuple[str, ...]
    passage: str


@dataclass(frozen=True, slots=True)
class ContaminatedItem:
    """An evaluation item that occurs in training texts.

    `covered` is the share of its own words, 0 to 1, that the n-grams of one row cover where that reaches the
    threshold, else 0; `covered_by_all` the share that those of all rows together cover.
    """

    item_id: str
    matches: dict[Kind, Match]
    covered: float
    covered_by_all: float


@dataclass(frozen=True, slots=True)
class ContaminationReport:
    """What was found; made by `find_contamination`, read by the command line and by reports.

    `searched` counts the items that each kind of match can find. Only contaminated items are listed, in their order.

    Example: one of 200 items stands word for word in row 7 of `chats.jsonl`: `num_items=200`,
    `counts={"whole": 1, "ngrams": 1, "answered": 0, "near": 0, "key": 0}`,
    `items[0].matches["whole"].row_ids=("chats.jsonl:7",)`.
    """

    settings: ContaminationSettings
    num_items: int
    num_rows: int
    num_words: int
    num_rows_contaminating: int
    searched: dict[Kind, int]
    too_short: tuple[str, ...]
    items: tuple[ContaminatedItem, ...]

    @property
    def clean(self) -> bool:
        """Whether no item was found; items that are too short to tell were not looked for."""
        return not self.items

    @property
    def counts(self) -> dict[Kind, int]:
        """Contaminated items by kind; one item may be of several."""
        return {kind: sum(kind in item.matches for item in self.items) for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-like values."""
        return {
            "clean": self.clean,
            "settings": self.settings.model_dump(),
            "items": self.num_items,
            "items_contaminated": len(self.items),
            "items_too_short": len(self.too_short),
            "too_short": list(self.too_short[:MAX_LISTED]),
            "rows": self.num_rows,
            "rows_contaminating": self.num_rows_contaminating,
            "words": self.num_words,
            "searched": self.searched,
            "counts": self.counts,
            "contaminated": [asdict(item) for item in self.items],
        }


@dataclass(slots=True)
class _Tally:
    """The rows that contaminate one item in one way: a count, the first ids, and the passage of the best."""

    rows: int = 0
    first: list[tuple[_RowKey, str]] = field(default_factory=list)
    best: tuple[float, _RowKey, str] | None = None

    def add(self, key: _RowKey, row_id: str, hit: Hit) -> None:
        self.rows += 1
        insort(self.first, (key, row_id))
        del self.first[MAX_ROWS:]
        mine = (-hit.covered, key, hit.passage)
        self.best = mine if self.best is None else min(self.best, mine)


def find_contamination(index: ContaminationIndex, rows: Iterable[TrainingText]) -> ContaminationReport:
    """Return which items of an index occur in training rows; the order of the rows changes nothing.

    Rows are read once and kept nowhere: memory is that of the index, of one row, and of what was found.
    """
    tallies: dict[int, dict[Kind, _Tally]] = {}
    ngrams: set[str] = set()
    num_rows = num_words = num_contaminating = 0
    for row in rows:
        findings = index.search(row)
        num_rows += 1
        num_words += findings.num_words
        num_contaminating += bool(findings.hits)
        ngrams |= findings.ngrams
        key = _order(row.row_id)
        for hit in findings.hits:
            tallies.setdefault(hit.item, {}).setdefault(hit.kind, _Tally()).add(key, row.row_id, hit)
    searched = index.find_searched()
    told = set().union(*searched.values())
    return ContaminationReport(
        settings=index.settings,
        num_items=len(index.items),
        num_rows=num_rows,
        num_words=num_words,
        num_rows_contaminating=num_contaminating,
        searched={kind: len(items) for kind, items in searched.items()},
        too_short=tuple(item.item_id for number, item in enumerate(index.items) if number not in told),
        items=tuple(_describe_item(index, number, tallies[number], ngrams) for number in sorted(tallies)),
    )


def find_contaminating_rows(
    index: ContaminationIndex, rows: Iterable[TrainingText], counts: Callable[[Hit], bool] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the id of every training row that contaminates an item, with the detail that a ledger records.

    Args:
        index: The evaluation items.
        rows: The training rows, read once.
        counts: Whether a match counts; all do if None.

    Example: `("chats.jsonl:7", "whole: test.jsonl:3: [what is 47 + 38]")` for a row to be dropped as `contaminated`.
    """
    for row in rows:
        hits = [hit for hit in index.search(row).hits if counts is None or counts(hit)]
        if hits:
            yield row.row_id, f"{hits[0].kind}: {index.items[hits[0].item].item_id}: {hits[0].passage}"


def _order(row_id: str) -> _RowKey:
    """Return what ids are sorted by: figures by value, so that row 9 stands before row 10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"([0-9]{1,18})", row_id))


def _describe_item(
    index: ContaminationIndex, number: int, tallies: dict[Kind, _Tally], ngrams: set[str]
) -> ContaminatedItem:
    matches = {}
    covered = 0.0
    for kind in KINDS:
        tally = tallies.get(kind)
        if tally is None or tally.best is None:
            continue
        covered = -tally.best[0] if kind == "ngrams" else covered
        matches[kind] = Match(tally.rows, tuple(row_id for _, row_id in tally.first), tally.best[2])
    return ContaminatedItem(index.items[number].item_id, matches, covered, index.compute_cover(number, ngrams))
