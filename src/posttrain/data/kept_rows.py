"""Rows that a program made, kept so that they are made once in a process.

A run reads the rows of a lab set several times: for their hash, to search them for evaluation items, to tokenize them.
The last rows of a long set take as long to make as all before them. What is kept is bounded in bytes over all sets, and
each reader gets copies of its own.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator

from posttrain.data.rows import RawRow

MAX_KEPT_BYTES = 64 << 20
"""Of all sets together; a set that would exceed it is made again each time."""


class KeptRows:
    """Rows of one set, as many as are worth keeping."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.are_whole = True
        self._rows: list[tuple[str, str, str]] = []

    def add(self, row: RawRow) -> None:
        """Keep a row, unless there is too much already; `are_whole` says whether all rows are kept as they are."""
        if self.are_whole:
            text = json.dumps(row.values)
            self.num_bytes += len(text)
            self.are_whole = self.num_bytes <= MAX_KEPT_BYTES and json.loads(text) == row.values
            self._rows.append((row.row_id, row.place, text))

    def __iter__(self) -> Iterator[RawRow]:
        for row_id, place, text in self._rows:
            yield RawRow(row_id, place, json.loads(text))


class RowKeeper:
    """The sets that are kept, by what was asked for."""

    def __init__(self) -> None:
        self._sets: dict[Hashable, KeptRows] = {}

    def keep(self, question: Hashable, rows: KeptRows) -> None:
        """Keep a set if it is whole and there is room for it."""
        num_bytes = rows.num_bytes + sum(kept.num_bytes for kept in self._sets.values())
        if rows.are_whole and num_bytes <= MAX_KEPT_BYTES:
            self._sets[question] = rows

    def find(self, question: Hashable) -> KeptRows | None:
        """Return a set that was kept, or None."""
        return self._sets.get(question)
