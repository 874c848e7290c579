"""Checks that no evaluation item occurs in training data: sources as a person names them, and what is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.errors import DataError
from posttrain.core.protocols import Progress
from posttrain.core.records import Example
from posttrain.data.contamination_index import KINDS, ContaminationIndex, ContaminationSettings
from posttrain.data.decontamination import ContaminationReport, find_contamination
from posttrain.data.evaluation_items import TrainingText, read_item, read_training_text
from posttrain.data.examples import check_bad_fraction, iterate_examples
from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource
from posttrain.lab.source import lab_rows

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class RowsChoice:
    """Some sources of one side, training or evaluation, read alike: made by the command line, read here.

    Each reference is a path from the current folder, a Hub id or `lab:<set>`; `columns` maps our names to theirs.
    """

    references: Sequence[str]
    split: str = "train"
    columns: dict[str, str] | None = None
    max_bad_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class ContaminationCheck:
    """What `check_contamination` found; printed by `posttrain data contamination`.

    `rows_bad` are training rows that cannot be read: they were not searched, and no stage can train on them either.
    """

    report: ContaminationReport
    rows_bad: int

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON-like values."""
        return {**self.report.to_json(), "rows_bad": self.rows_bad}

    def describe(self) -> list[str]:
        """Return the verdict, and what was not looked for, as plain lines."""
        report = self.report
        verdict = (
            "clean"
            if report.clean
            else f"{len(report.items):,} of them occur in {report.num_rows_contaminating:,} rows"
        )
        lines = [
            f"{report.num_items:,} evaluation items against {report.num_rows:,} training rows "
            f"({report.num_words:,} words): {verdict}"
        ]
        if report.too_short:
            rest = ", ..." if len(report.too_short) > 3 else ""
            names = ", ".join(report.too_short[:3])
            lines.append(
                f"{len(report.too_short):,} items are too short to tell and were not looked for: {names}{rest}"
            )
        if self.rows_bad:
            lines.append(f"{self.rows_bad:,} training rows cannot be read and were not searched")
        return lines

    def tabulate_kinds(self) -> list[tuple[str, str, str]]:
        """Return for each kind of match how many items it can find and how many it found."""
        searched, counts = self.report.searched, self.report.counts
        return [(kind, f"{searched[kind]:,}", f"{counts[kind]:,}") for kind in KINDS]

    def tabulate_items(self, count: int) -> list[tuple[str, str, str, str, str]]:
        """Return the first contaminated items: id, kinds, share of words, rows, and the passage of the first kind."""
        rows = []
        for item in self.report.items[:count]:
            match = next(iter(item.matches.values()))
            kinds = ", ".join(item.matches)
            more = f" and {match.rows - 1:,} more" if match.rows > 1 else ""
            share = f"{item.covered:.0%}" if item.covered else ""
            rows.append((item.item_id, kinds, share, match.row_ids[0] + more, match.passage))
        return rows


def check_contamination(
    train: RowsChoice, against: RowsChoice, settings: dict[str, Any], progress: Progress
) -> ContaminationCheck:
    """Return which evaluation items occur in training rows.

    Args:
        train: Where training rows come from; they are streamed once.
        against: Where the evaluation items come from.
        settings: Fields of `ContaminationSettings`.
        progress: Shows how far it has come.

    Raises:
        DataError: A source cannot be read, has more bad rows than it may, or has none to search.
        RecipeError: A setting is out of range.
    """
    parsed: ContaminationSettings = parse_config(ContaminationSettings, settings, place="data contamination")
    index = ContaminationIndex(map(read_item, iterate_rows(against, Ledger())), parsed)
    ledger = Ledger()
    progress.start("search training rows", 0, unit="row")
    try:
        report = find_contamination(index, _iterate_texts(train, ledger, progress))
    finally:
        progress.finish()
    if report.num_rows == 0:
        raise DataError(
            f"none of {ledger.rows_in:,} training rows can be read",
            expected="at least one row to search",
            cure="posttrain data check FILE says why; map columns with --column prompt=<yours>",
            place=", ".join(train.references),
        )
    return ContaminationCheck(report, ledger.rows_bad)


def _iterate_texts(choice: RowsChoice, ledger: Ledger, progress: Progress) -> Iterator[TrainingText]:
    waiting = 0
    for example in iterate_rows(choice, ledger):
        yield read_training_text(example)
        waiting += 1
        if waiting == _ROWS_AT_ONCE:
            progress.advance(waiting)
            waiting = 0
    progress.advance(waiting)


def iterate_rows(choice: RowsChoice, total: Ledger) -> Iterator[Example]:
    """Yield the rows of all sources; where two have one name, row ids say in which folder they lie."""
    names = Counter(Path(reference).name for reference in choice.references)
    for reference in choice.references:
        values = {
            "source": reference,
            "split": choice.split,
            "columns": choice.columns,
            "max_bad_fraction": choice.max_bad_fraction,
        }
        source: DataSource = parse_config(DataSource, values, place="data contamination")
        ledger = Ledger()
        folder = Path(reference).parent if names[Path(reference).name] > 1 else None
        for example in iterate_examples(source, ledger, root=Path.cwd(), row_source=lab_rows):
            if folder is not None:
                example = replace(example, row_id=str(folder / example.row_id))
            yield example
        check_bad_fraction(source, ledger)
        total.merge(ledger)
