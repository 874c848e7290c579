"""Rows of the lab are made once in a process: the same rows come back, as copies, where they were kept whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.data import kept_rows
from posttrain.data.kept_rows import KeptRows, RowKeeper
from posttrain.data.rows import RawRow
from posttrain.data.sources import DataSource, fingerprint, open_rows


def test_a_set_that_was_hashed_is_not_made_again_and_its_rows_are_copies() -> None:
    made = []

    def rows(name: str, split: str) -> Iterator[dict[str, Any]]:
        for number in range(100):
            made.append(number)
            yield {"text": f"{name} {split} {number}", "numbers": [number]}

    source = DataSource(source="lab:things", skip=90, rows=5)
    unread = list(open_rows(source, root=Path(), row_source=rows))
    fingerprint(source, root=Path(), row_source=rows)
    made.clear()
    for _ in range(2):
        again = list(open_rows(source, root=Path(), row_source=rows))
        assert again == unread and again[0].row_id == "lab:things:91"  # type: ignore[union-attr]
        again[0].values["numbers"].append(7)  # type: ignore[union-attr]
    assert made == []


def test_what_is_too_large_or_would_come_back_changed_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = RowKeeper()
    pair = KeptRows()
    pair.add(RawRow("a", "a", {"pair": (1, 2)}))  # JSON would make it a list
    keeper.keep("pair", pair)
    assert keeper.find("pair") is None
    monkeypatch.setattr(kept_rows, "MAX_KEPT_BYTES", 40)
    for name in ("one", "two"):
        rows = KeptRows()
        rows.add(RawRow("a", "a", {"text": "x" * 20}))
        keeper.keep(name, rows)
    assert keeper.find("one") is not None and keeper.find("two") is None
