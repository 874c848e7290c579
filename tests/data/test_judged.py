"""Rows of ratings and of steps: what is kept of them, and why others are dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.data.judged import JudgedSettings, load_judged
from posttrain.data.pairs import PairData
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import DataPlace
from tests.data.small_renderer import SmallRenderer, read_text


def load(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> PairData:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DataSource(source="rows.jsonl", max_bad_fraction=1.0)
    return load_judged(
        [source],
        SmallRenderer(),
        read_text,
        JudgedSettings(renderer_hash="r", tokenizer_hash="t", **settings),
        DataPlace(folder, folder / "cache"),
    )


def test_a_step_is_read_at_the_token_that_ends_it(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1?", "completions": ["one", "and one "], "labels": [True, False]}]
    data = load(tmp_path, rows, separator="\n")
    [row] = data.sources[0]
    ids = row.chosen.ids_T.tolist()
    assert read_text(ids[:-1]) == "one\nand one"
    first, last = row.columns["places"]
    assert read_text(ids[: first + 1]) == "one" and last == len(ids) - 1
    assert row.columns["labels"] == [1, 0]
    assert load(tmp_path, rows, separator="\n").num_tokenized == 0


def test_ratings_are_kept_as_numbers_or_none(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a?", "completion": "b", "help": 3, "harm": "much"},
        {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b c"}], "harm": 0.5},
        {"prompt": "a?", "completion": "b", "help": True},
        {"prompt": "a?", "completion": "b"},
        {"prompt": "a?", "completion": " ", "help": 2},
        {"prompt": "a?", "chosen": "b", "rejected": "c"},
    ]
    data = load(tmp_path, rows, attributes=("help", "harm"))
    assert [dict(row.columns) for row in data.sources[0]] == [
        {"help": 3.0, "harm": None},
        {"help": None, "harm": 0.5},
    ]
    dropped = {reason: entry.rows for reason, entry in data.ledger.dropped.items()}
    assert dropped["no rating"] == 2 and dropped["nothing to judge"] == 1
    data.ledger.check_balance()


def test_rows_that_are_too_long_are_held_against_truncation(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "completion": "b " * size, "help": size} for size in (1, 2, 60)]
    with pytest.raises(DataError, match="more than 40 tokens"):
        load(tmp_path, rows, attributes=("help",), max_length=40)
    kept = load(tmp_path, rows, attributes=("help",), max_length=40, truncation="drop")
    assert kept.num_rows == 2
