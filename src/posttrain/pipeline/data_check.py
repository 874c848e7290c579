"""Checks a data file before any training: what its rows are, and why those that cannot be used cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError
from posttrain.data.examples import iterate_examples
from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource
from posttrain.lab.source import lab_rows


@dataclass(slots=True)
class DataCheck:
    """What was found in a data source.

    Made by `check_data`, printed by `posttrain data check`. In the ledger a row that can be used counts as
    trained on; it holds no tokens, because no tokenizer is at hand. `kinds` counts rows by data type.

    Example: 9 conversations and one line that is no JSON give `kinds={"messages": 9}`,
    `ledger.rows_in=10`, `ledger.rows_bad=1`.
    """

    source: str
    ledger: Ledger = field(default_factory=Ledger)
    kinds: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON-like values."""
        return {"source": self.source, "kinds": dict(sorted(self.kinds.items())), "ledger": self.ledger.to_json()}

    def describe(self) -> list[str]:
        """Return the findings as plain lines: the kinds of rows, then every reason with its first rows."""
        usable = self.ledger.rows_in - self.ledger.rows_bad
        lines = [f"{self.source}: {self.ledger.rows_in:,} rows, {usable:,} can be used"]
        lines += [f"  {count:,} of the type '{kind}'" for kind, count in sorted(self.kinds.items())]
        for reason, entry in sorted(self.ledger.dropped.items(), key=lambda item: (-item[1].rows, item[0])):
            lines.append(f"  {entry.rows:,} dropped: {reason}")
            lines += [f"    {row['row_id']}: {row['detail']}" for row in entry.listed[:5]]
            lines += [f"    and {entry.rows - 5:,} more"] if entry.rows > 5 else []
        if self.ledger.rows_in == self.ledger.rows_bad:
            lines.append("  columns of other names are mapped with --column prompt=<yours> --column completion=<yours>")
        return lines


def check_data(
    reference: str, *, format: str = "auto", columns: dict[str, str] | None, split: str = "train"
) -> DataCheck:
    """Return what every row of a source is; a row that cannot be used is counted and never stops the check.

    Args:
        reference: A path, from the current folder; a Hub id; or `lab:<set>`.
        format: How the rows are written, `auto` to find out.
        columns: Our column names to theirs.
        split: The split of a data set that has some.

    Raises:
        DataError: The source cannot be read as a whole.
        RecipeError: No such format.
    """
    values = {"source": reference, "format": format, "columns": columns, "split": split, "max_bad_fraction": 1.0}
    source: DataSource = parse_config(DataSource, values, place="data check")
    found = DataCheck(reference)
    for example in iterate_examples(source, found.ledger, root=Path.cwd(), row_source=lab_rows):
        found.kinds[example.kind] += 1
        found.ledger.train(samples=1, tokens=0, tokens_trained=0)
    found.ledger.check_balance()
    return found


def read_columns(pairs: Sequence[str]) -> dict[str, str] | None:
    """Return a mapping of columns from texts such as `prompt=question`; None for none.

    Raises:
        RecipeError: A text without `=`, or a column that is mapped twice.
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, separator, theirs = pair.partition("=")
        if not separator or not ours or not theirs or ours in columns:
            raise RecipeError(
                f"found {pair!r}", expected="OURS=THEIRS, each of ours once: prompt=question", place="--column"
            )
        columns[ours] = theirs
    return columns or None
