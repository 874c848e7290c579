"""Completions in a file, judged: rows of several shapes, what is there already, and what is no row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.pipeline import verification
from posttrain.pipeline.scorers import ScorerContext
from posttrain.pipeline.verification import Verified, verify_file
from posttrain.scorers.exact_match import ExactMatch


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(path: Path, value: Any = "exact_match", **options: Any) -> Verified:
    return verify_file(path, value, ScorerContext(), SilentProgress(), **options)


def test_rows_of_every_shape_are_read(tmp_path: Path) -> None:
    rows = [
        {"completion": "4", "answer": "4", "prompt": "2+2?"},
        {"response": "4", "answer": "4", "messages": [{"role": "user", "content": "2+2?"}]},
        {"completion": [{"role": "assistant", "content": "4"}], "answer": "4"},
        {"text": "4", "columns": {"answer": "4"}, "ids": [1, 2], "sample_index": 3, "finish_reason": "length"},
        {"output": "5", "answer": "4"},
    ]
    found = run(write(tmp_path / "rows.jsonl", rows))
    assert [item.outcome.status for item in found.items] == ["scored", "scored", "scored", "truncated", "scored"]
    assert [item.outcome.value for item in found.items] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert found.items[3].sample_index == 3
    assert (found.metrics["value"], found.metrics["n"], found.metrics["method"]) == (0.6, 5, "wilson")


def test_lines_that_are_no_rows_are_counted_and_named(tmp_path: Path) -> None:
    found = run(write(tmp_path / "rows.jsonl", [{"completion": "4", "answer": "4"}, "{", "[1]"]))
    assert found.metrics["n"] == 1
    assert [row.row_id for row in found.bad] == ["rows.jsonl:2", "rows.jsonl:3"]


def test_rows_that_were_judged_are_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    class Noting(ExactMatch):
        def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
            judged.extend(completion.text for _, completion in items)
            return super().score(items)

    monkeypatch.setattr(verification, "build_scorer", lambda value, context: Noting())
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows = [{"completion": str(number), "answer": "1"} for number in range(3)]
    first = run(write(path, rows), out=out)
    assert judged == ["0", "1", "2"]
    judged.clear()
    rows[1]["completion"] = "changed"
    second = run(write(path, [*rows, {"completion": "new", "answer": "new"}]), out=out)
    assert judged == ["changed", "new"]
    assert [item.outcome.value for item in second.items] == [0.0, 0.0, 0.0, 1.0]
    assert len(out.read_text().splitlines()) == 4 and first.metrics["value"] == pytest.approx(1 / 3)
    judged.clear()
    run(path, {"type": "length", "high": 5, "unit": "words"}, out=out)
    assert judged == ["0", "changed", "2", "new"]  # another scorer


@pytest.mark.parametrize(
    ("rows", "column", "found"),
    [
        ([], None, "empty"),
        (["{"], None, "no row that can be read"),
        ([{"answer": "4"}], None, "no completion"),
        ([{"completion": "4", "answer": "4"}], "reply", "no column 'reply'"),
        ([{"completion": 4, "answer": "4"}], None, "'completion' is a int"),
        ([{"completion": "4"}], None, "no column 'answer'"),
        ([{"completion": "4", "answer": "4", "finish_reason": "tired"}], None, "finish_reason"),
    ],
)
def test_files_that_cannot_be_judged_are_refused(
    tmp_path: Path, rows: list[Any], column: str | None, found: str
) -> None:
    with pytest.raises(DataError) as caught:
        run(write(tmp_path / "rows.jsonl", rows), column=column)
    assert found in caught.value.found


def test_a_column_may_be_named(tmp_path: Path) -> None:
    rows = [{"completion": "wrong", "reply": "4", "answer": "4"}]
    assert run(write(tmp_path / "rows.jsonl", rows), column="reply").metrics["value"] == 1.0
