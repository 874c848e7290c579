"""Rows without an answer: prompts alone, or rows whose answer stands in a column that nobody named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from posttrain.core.records import Example

MAX_COLUMNS = 1000
"""Names of columns that are counted; of more, the first."""
_SHOWN = 5


@dataclass(slots=True)
class Unanswered:
    """How many rows have no answer, and in how many of them each other column holds a text."""

    rows: int = 0
    columns: Counter[str] = field(default_factory=Counter)

    def count(self, example: Example) -> None:
        """Count a row that has no answer."""
        self.rows += 1
        for name, value in example.columns.items():
            if isinstance(value, str) and value.strip() and (name in self.columns or len(self.columns) < MAX_COLUMNS):
                self.columns[name] += 1

    def describe(self) -> str:
        """Return the count, the columns that most rows have, and how one becomes the answer."""
        names = [name for name, _ in self.columns.most_common(_SHOWN)]
        rest = ", ..." if len(self.columns) > _SHOWN else ""
        mapped = f"--column completion={names[0] if len(self.columns) == 1 else '<yours>'}"
        return (
            f"{self.rows:,} rows have no answer; other columns: {', '.join(names)}{rest}; "
            f"if one is the answer, map it with {mapped}"
        )
