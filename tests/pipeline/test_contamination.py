"""The check of sources against sources: what is read, named, counted and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.progress import SilentProgress
from posttrain.pipeline.contamination import ContaminationCheck, RowsChoice, check_contamination
from tests.data.files import chat, write_lines

SUM = "What is 47 + 38?"


class Counting(SilentProgress):
    """Counts rows."""

    rows = 0

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        self.rows += amount


def check(
    train: RowsChoice, *against: Path, progress: SilentProgress | None = None, **settings: object
) -> ContaminationCheck:
    return check_contamination(
        train, RowsChoice([str(path) for path in against]), settings, progress or SilentProgress()
    )


def test_rows_of_files_and_of_the_lab_are_searched(tmp_path: Path) -> None:
    train = write_lines(
        tmp_path / "train.jsonl.gz", [chat(f"Number {number}?", "Yes.") for number in range(600)] + [chat(SUM, "85")]
    )
    test = write_lines(tmp_path / "test.jsonl", [{"prompt": SUM, "answer": 85}, {"prompt": "What is 40 + 30?"}])
    progress = Counting()
    found = check(RowsChoice([str(train), "lab:words"], max_bad_fraction=0.0), test, progress=progress)
    assert (found.report.num_items, found.report.num_rows, progress.rows) == (2, 20_601, 20_601)
    assert [item.item_id for item in found.report.items] == ["test.jsonl:1"]
    assert list(found.report.items[0].matches) == ["whole", "answered"]
    assert found.describe()[0].endswith("1 of them occur in 1 rows")
    assert found.tabulate_items(5) == [
        ("test.jsonl:1", "whole, answered", "", "train.jsonl.gz:601", "[what is 47 + 38] 85")
    ]
    assert found.tabulate_kinds()[0] == ("whole", "2", "1")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(write_lines(tmp_path / name / "rows.jsonl", [chat(SUM, "85")]))
    found = check(RowsChoice([str(path) for path in paths]), *paths)
    assert [item.item_id for item in found.report.items] == [f"{path}:1" for path in paths]
    assert found.report.items[0].matches["whole"].row_ids == (f"{paths[0]}:1", f"{paths[1]}:1")


def test_columns_are_mapped_on_each_side(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"question": SUM, "answer": "85"}])
    columns = {"prompt": "question", "completion": "answer"}
    train = RowsChoice([str(path)], columns=columns)
    found = check_contamination(train, RowsChoice([str(path)], columns={"prompt": "question"}), {}, SilentProgress())
    assert list(found.report.items[0].matches) == ["whole", "answered"]


def test_rows_that_cannot_be_read_stop_the_check_unless_they_are_allowed(tmp_path: Path) -> None:
    test = write_lines(tmp_path / "test.jsonl", [{"prompt": SUM}, {"prompt": "Hi"}])
    train = write_lines(tmp_path / "train.jsonl", [chat(SUM, "85"), "not JSON", {"other": 1}])
    with pytest.raises(DataError, match=r"train\.jsonl:2"):
        check(RowsChoice([str(train)]), test)
    found = check(RowsChoice([str(train)], max_bad_fraction=0.7), test)
    assert found.rows_bad == 2 == found.to_json()["rows_bad"]
    assert found.describe()[1:] == [
        "1 items are too short to tell and were not looked for: test.jsonl:2",
        "2 training rows cannot be read and were not searched",
    ]
    with pytest.raises(DataError, match="2 of 3 rows"):
        check(RowsChoice([str(train)], max_bad_fraction=0.5), test)
    nothing = write_lines(tmp_path / "nothing.jsonl", [{"other": 1}])
    with pytest.raises(DataError, match="none of 1 training rows"):
        check(RowsChoice([str(nothing)], max_bad_fraction=1.0), test)
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        check(RowsChoice([str(train)], max_bad_fraction=1.0), nothing)


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    test = write_lines(tmp_path / "test.jsonl", [{"prompt": SUM}])
    with pytest.raises(RecipeError, match="ngram"):
        check(RowsChoice([str(test)]), test, ngram=0)
