"""The lab's sets with few rows each, for tests that need all of them and the content of none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from posttrain.lab.source import ROW_SETS


def shorten_sets(monkeypatch: pytest.MonkeyPatch, most: int = 40) -> None:
    """Let every split of every set have at most so many rows."""
    for name, row_set in list(ROW_SETS.items()):
        few = {split: min(count, most) for split, count in row_set.num_rows.items()}
        monkeypatch.setitem(ROW_SETS, name, replace(row_set, num_rows=few))
