"""Reads the examples of a source; what cannot be read goes to the ledger, and too much of it stops the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from posttrain.core.errors import DataError
from posttrain.core.protocols import RowSource
from posttrain.core.records import Example
from posttrain.data.ledger import Ledger
from posttrain.data.rows import BadRow, RowError
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource, RawReader, open_rows


def iterate_examples(
    source: DataSource,
    ledger: Ledger,
    *,
    root: Path,
    row_source: RowSource | None = None,
    reader: RawReader | None = None,
) -> Iterator[Example]:
    """Yield the examples of a source in order, counting every row in the ledger.

    A caller counts an example as trained or dropped, and calls `check_bad_fraction` at the end.

    Raises:
        DataError: The source cannot be read, or holds a bad row and `max_bad_fraction` is 0.
    """
    for row in open_rows(source, root=root, row_source=row_source, reader=reader):
        ledger.rows_in += 1
        if not isinstance(row, BadRow):
            try:
                example = read_example(row.values, source, row.row_id)
            except RowError as error:
                row = error.describe(row)
            else:
                yield example
                continue
        drop_bad_row(source, ledger, row)


def drop_bad_row(source: DataSource, ledger: Ledger, row: BadRow) -> None:
    """Count a bad row; where none are allowed, stop at once and show it. A row that its form leaves out is counted.

    Raises:
        DataError: `max_bad_fraction` is 0.
    """
    ledger.drop(row.row_id, row.reason, kind=row.kind, detail=row.detail)
    if row.kind == "bad" and source.max_bad_fraction == 0.0:
        tolerate = "set max_bad_fraction (0.01, say) to drop bad rows and count them"
        raise DataError(
            f"{row.reason}: {row.detail}" if row.reason not in row.detail else row.detail,
            expected="a row of one of TRL's dataset types, or of another project's form ('format')",
            cure=f"{row.cure}; or {tolerate}" if row.cure else f"correct the row, or {tolerate}",
            place=row.place,
        )


def check_bad_fraction(source: DataSource, ledger: Ledger) -> None:
    """Check that the bad rows of a source, once all are counted, are within what the recipe allows.

    Raises:
        DataError: There are more, with the first of them by id and reason.
    """
    if ledger.rows_bad <= source.max_bad_fraction * ledger.rows_in:
        return
    shown = [
        f"{row['row_id']} ({reason}: {row['detail']})"
        for reason, entry in ledger.dropped.items()
        if entry.kind == "bad"
        for row in entry.listed[:3]
    ]
    raise DataError(
        f"{ledger.rows_bad:,} of {ledger.rows_in:,} rows cannot be used: {'; '.join(shown[:6])}",
        expected=f"at most {source.max_bad_fraction:.2%} bad rows (max_bad_fraction)",
        cure="correct them, or raise max_bad_fraction to drop them and count them",
        place=source.source,
    )


def load_examples(
    sources: list[DataSource],
    *,
    root: Path,
    row_source: RowSource | None = None,
    reader: RawReader | None = None,
) -> tuple[list[Example], Ledger]:
    """Return all examples of some sources in order, for stages that sample or compare rather than imitate.

    In the ledger every example counts as trained on; it holds no tokens, because none were made.

    Raises:
        DataError: A source cannot be read, or has more bad rows than it may.
    """
    examples: list[Example] = []
    total = Ledger()
    for source in sources:
        ledger = Ledger()
        for example in iterate_examples(source, ledger, root=root, row_source=row_source, reader=reader):
            examples.append(example)
            ledger.train(samples=1, tokens=0, tokens_trained=0)
        check_bad_fraction(source, ledger)
        ledger.check_balance()
        total.merge(ledger)
    return examples, total
