"""Curates rows as a person names them: sources in, one file of rows out, and an account of every other row."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.core.durable import write_lines
from posttrain.core.errors import DataError
from posttrain.core.protocols import Progress
from posttrain.core.records import Example
from posttrain.data.contamination_index import ContaminationIndex
from posttrain.data.curated_text import read_curated_text, split_words
from posttrain.data.curation import CONTAMINATED, Curation, Dropped, Judged, Values
from posttrain.data.evaluation_items import read_item
from posttrain.data.json_values import to_json_value
from posttrain.data.ledger import DropKind, Ledger
from posttrain.data.row_filters import build_row_filters
from posttrain.data.rows import BadRow, RawRow, RowError
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource, fingerprint, open_rows
from posttrain.data.unanswered import Unanswered
from posttrain.lab.source import lab_rows
from posttrain.models.loading import load_tokenizer
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.pipeline.contamination import iterate_rows
from posttrain.pipeline.curation_request import CurationRequest, check_request, list_sources
from posttrain.pipeline.curation_values import build_scorer_values, open_perplexity
from posttrain.pipeline.talking import find_model
from posttrain.scorers.language import detect_languages
from posttrain.scorers.repetition import compute_repeated_fraction

ANNOTATION = "curation"
"""The column that `annotate` adds."""
NUM_EXAMPLES = 2
"""Rows of each reason that are shown with their texts."""
_ROWS_AT_ONCE = 64
_EXCERPT = 240
_NOT_UNDERSTOOD = ("unknown columns", "missing column", "wrong type")
"""Reasons whose rows can be read, and mean something once their columns are named."""


@dataclass(frozen=True, slots=True)
class DroppedExample:
    """A row that was dropped, as a person looks at it: its number among all rows, and the beginnings of its texts."""

    number: int
    row_id: str
    detail: str
    prompt: str = ""
    answer: str = ""


@dataclass(slots=True)
class Curated:
    """What a curation did; printed by `posttrain data curate`, shown by its page.

    In the ledger a row that is kept counts as trained on. `lengths_in` and `lengths_kept` count rows by the words of
    prompt and answer together; `examples` are the first rows of each reason; `unwritable` counts by column the rows
    with numbers that JSON has none of.
    """

    request: CurationRequest
    ledger: Ledger = field(default_factory=Ledger)
    lengths_in: Counter[int] = field(default_factory=Counter)
    lengths_kept: Counter[int] = field(default_factory=Counter)
    examples: dict[str, list[DroppedExample]] = field(default_factory=dict)
    mean_quality: dict[str, float] = field(default_factory=dict)
    unanswered: Unanswered = field(default_factory=Unanswered)
    unwritable: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> list[str]:
        """What a person should know beside the counts, a sentence each."""
        told = [self.unanswered.describe()] if self.unanswered.columns else []
        if self.unwritable:
            columns = ", ".join(f"{name} ({count:,})" for name, count in sorted(self.unwritable.items()))
            told.append(f"numbers that JSON has none of (NaN, infinite) are written as null, in: {columns}")
        return told

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        against = list(self.request.against.references) if self.request.against else []
        return {
            "sources": list(self.request.sources.references),
            "against": against,
            "model": self.request.model,
            "scorer": self.request.scorer,
            "settings": self.request.settings.model_dump(mode="json"),
            "rows_in": self.ledger.rows_in,
            "rows_kept": self.ledger.rows_trained,
            "ledger": self.ledger.to_json(),
            "notes": self.notes,
            "mean_quality": self.mean_quality,
            "words_in": _summarise(self.lengths_in),
            "words_kept": _summarise(self.lengths_kept),
            "examples": {reason: [asdict(row) for row in rows] for reason, rows in self.examples.items()},
        }

    def describe(self) -> str:
        """Return the balance as one line."""
        ledger = self.ledger
        return f"{ledger.rows_in:,} rows in = {ledger.rows_trained:,} kept + {ledger.rows_dropped:,} dropped"

    def tabulate(self) -> list[tuple[str, str, str]]:
        """Return for each reason how many rows it struck, and what share of all; most first."""
        entries = sorted(self.ledger.dropped.items(), key=lambda pair: (-pair[1].rows, pair[0]))
        whole = max(1, self.ledger.rows_in)
        return [(reason, f"{entry.rows:,}", f"{entry.rows / whole:.1%}") for reason, entry in entries]


def curate(
    request: CurationRequest,
    out: Path,
    progress: Progress,
    *,
    annotate: bool = False,
    accounts: Mapping[str, Path | None] | None = None,
) -> Curated:
    """Write the rows that are kept, one JSON line each with all their columns, and return the account of all.

    Args:
        request: What to curate, and how.
        out: The file to write; it appears whole or not at all.
        progress: Shows how far it has come.
        annotate: Whether each row gets a column `curation` with its id, quality and value.
        accounts: What else will be written, by the option that names it: none of them may be what is read.

    Raises:
        DataError: A source cannot be read, has more bad rows than it may, changes meanwhile, or no row is kept.
        RecipeError: An output is an input, or what is asked for needs something that is not named (`check_request`).
        ModelError: The model cannot be loaded.
    """
    check_request(request, {"--out": out, **(accounts or {})})
    curated = Curated(request)
    before = [fingerprint(source, root=Path.cwd(), row_source=lab_rows) for source in list_sources(request)]
    with ExitStack() as stack:
        curation = _build_curation(request, stack)
        kept = _judge_rows(curation, curated, progress)
    _account(curated, curation.dropped, kept)
    if not kept:
        reasons = "; ".join(f"{reason}: {count}" for reason, count, _ in curated.tabulate())
        raise DataError(
            f"no row is kept ({reasons})", expected="at least one", cure=_find_cure(curated), place="data curate"
        )
    write_lines(out, _write_kept(curated, kept, annotate, progress))
    after = [fingerprint(source, root=Path.cwd(), row_source=lab_rows) for source in list_sources(request)]
    if after != before:
        out.unlink()
        raise DataError("a source changed while it was read", cure="start again when it is whole", place=str(out))
    return curated


def _find_cure(curated: Curated) -> str:
    """Return what to do where no row is kept: what drops most is a filter, or the rows were not understood."""
    reason, _, _ = curated.tabulate()[0]
    if curated.ledger.dropped[reason].kind == "bad":
        return (
            "map columns with --column prompt=<yours> --column completion=<yours>; posttrain data check FILE says why"
        )
    return f"'{reason}' drops most: loosen it with --config"


def _build_curation(request: CurationRequest, stack: ExitStack) -> Curation:
    values: Values | None = None
    count_tokens: Callable[[str], int] | None = None
    if request.model is not None:
        tokenizer = HuggingFaceTextTokenizer(load_tokenizer(find_model(request.model)))

        def count(text: str) -> int:
            return len(tokenizer.encode_with_offsets(text, specials_as_text=True)[0])

        count_tokens = count
        values = stack.enter_context(open_perplexity(request.model))
    elif request.scorer is not None:
        values = build_scorer_values(request.scorer)
    filters = build_row_filters(
        request.settings,
        measure_repetition=compute_repeated_fraction,
        detect_languages=detect_languages,
        count_tokens=count_tokens,
    )
    index = None
    if request.against is not None and request.settings.contamination is not None:
        items = map(read_item, iterate_rows(request.against, Ledger()))
        index = ContaminationIndex(items, request.settings.contamination)
    return Curation(request.settings, filters, index, values)


def _judge_rows(curation: Curation, curated: Curated, progress: Progress) -> list[Judged]:
    """Return the rows that are kept, having counted the unreadable ones."""
    progress.start("judge rows", 0, unit="row")
    try:
        readable = _iterate_examples(curated.request, curated)
        for batch in iter(lambda: list(itertools.islice(readable, _ROWS_AT_ONCE)), []):
            curation.judge(batch)
            progress.advance(len(batch))
        progress.note(f"comparing {len(curation.judged):,} rows")
        return curation.compare()
    finally:
        progress.finish()


def _iterate_examples(request: CurationRequest, curated: Curated) -> Iterator[tuple[int, Example]]:
    ledger = curated.ledger
    for number, source, row in _iterate_raw(request):
        ledger.rows_in += 1
        found: Example | BadRow = row if isinstance(row, BadRow) else _read(row, source)
        if isinstance(found, BadRow):
            ledger.drop(found.row_id, found.reason, kind=found.kind, detail=found.detail)
        else:
            text = read_curated_text(found)
            curated.lengths_in[len(split_words(text.joined))] += 1
            if not text.has_answer:
                curated.unanswered.count(found)
            yield number, found
    limit = request.sources.max_bad_fraction
    if ledger.rows_bad > limit * ledger.rows_in:
        raise DataError(
            f"{ledger.rows_bad:,} of {ledger.rows_in:,} rows cannot be read",
            expected=f"at most {limit:.1%} (--max-bad-fraction)",
            cure="posttrain data check FILE says why; map columns with --column prompt=<yours>",
            place=", ".join(request.sources.references),
        )


def _read(row: RawRow, source: DataSource) -> Example | BadRow:
    try:
        return read_example(row.values, source, row.row_id)
    except RowError as error:
        return error.describe(row)


def _iterate_raw(request: CurationRequest) -> Iterator[tuple[int, DataSource, RawRow | BadRow]]:
    """Yield the rows of all sources as they stand there, numbered through."""
    number = itertools.count()
    for source in list_sources(request):
        for row in open_rows(source, root=Path.cwd(), row_source=lab_rows):
            yield next(number), source, row


def _account(curated: Curated, dropped: Sequence[Dropped], kept: Sequence[Judged]) -> None:
    for row in dropped:
        kind: DropKind = "contaminated" if row.reason == CONTAMINATED else "curated"
        curated.ledger.drop(row.row_id, row.reason, kind=kind, detail=row.detail)
        rows = curated.examples.setdefault(row.reason, [])
        if len(rows) < NUM_EXAMPLES:
            rows.append(DroppedExample(row.number, row.row_id, row.detail))
    for judged in kept:
        curated.ledger.train(samples=1, tokens=0, tokens_trained=0)
        curated.lengths_kept[judged.words] += 1
    curated.ledger.check_balance()
    if kept:
        parts = kept[0].quality.parts
        means = {name: sum(row.quality.parts[name] for row in kept) / len(kept) for name in parts}
        curated.mean_quality = {"score": sum(row.quality.score for row in kept) / len(kept), **means}


def _write_kept(curated: Curated, kept: Sequence[Judged], annotate: bool, progress: Progress) -> Iterator[str]:
    """Yield the kept rows as JSON lines, filling in the texts of the examples on the way."""
    by_number = {row.number: row for row in kept}
    shown = {row.number: (rows, place) for rows in curated.examples.values() for place, row in enumerate(rows)}
    progress.start("write rows", curated.ledger.rows_in, unit="row")
    try:
        for number, source, row in _iterate_raw(curated.request):
            progress.advance(1)
            if isinstance(row, BadRow):
                continue
            if number in shown:
                rows, place = shown[number]
                rows[place] = _show(rows[place], _read(row, source))
            if number in by_number:
                yield _write_row(row, by_number[number], annotate, curated.unwritable)
    finally:
        progress.finish()


def _write_row(row: RawRow, judged: Judged, annotate: bool, unwritable: Counter[str]) -> str:
    values = {}
    for name, value in row.values.items():
        values[name], is_whole = to_json_value(value)
        if not is_whole:
            unwritable[name] += 1
    if annotate:
        if ANNOTATION in values:
            raise DataError(
                f"the row has a column '{ANNOTATION}' already",
                expected="rows without it, to which --annotate adds it",
                cure="leave --annotate out, or rename the column",
                place=row.place,
            )
        rated = {"row_id": judged.row_id, "quality": round(judged.quality.score, 6)}
        values = {**values, ANNOTATION: rated if judged.value is None else {**rated, "value": judged.value}}
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _show(example: DroppedExample, row: Example | BadRow) -> DroppedExample:
    if isinstance(row, BadRow):
        return example
    text = read_curated_text(row)
    return replace(example, prompt=text.prompt[:_EXCERPT], answer=text.answer[:_EXCERPT])


def _summarise(lengths: Counter[int]) -> dict[str, float]:
    """Return rows, mean, and the 5th, 50th and 95th percentile of lengths that are counted."""
    total = sum(lengths.values())
    if not total:
        return {"rows": 0}
    ordered = list(itertools.accumulate(count for _, count in sorted(lengths.items())))
    names = sorted(lengths)

    def find(share: float) -> int:
        return names[next(place for place, count in enumerate(ordered) if count >= share * total)]

    mean = sum(length * count for length, count in lengths.items()) / total
    return {"rows": total, "mean": mean, "p5": find(0.05), "median": find(0.5), "p95": find(0.95)}
