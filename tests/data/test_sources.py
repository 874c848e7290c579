"""Every kind of source gives its rows, with their places, and a fingerprint of what would be read."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.core.errors import DataError
from posttrain.data import columnar_rows, json_rows
from posttrain.data.rows import BadRow, RawRow
from posttrain.data.sources import DataSource, fingerprint, open_rows
from tests.data.files import write_lines

ROWS = [{"prompt": f"{number}+1?", "completion": str(number + 1)} for number in range(300)]


def read(source: DataSource | str, root: Path, **arguments: Any) -> list[RawRow]:
    source = DataSource(source=source) if isinstance(source, str) else source
    rows = list(open_rows(source, root=root, **arguments))
    assert not any(isinstance(row, BadRow) for row in rows)
    return [row for row in rows if isinstance(row, RawRow)]


def write(path: Path) -> Path:
    """Write ROWS in the format that a file's name asks for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = path.name.partition(".")[2]
    as_lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = pa.Table.from_pylist(ROWS)
    if kind.startswith("jsonl"):
        content = as_lines
    elif kind.startswith("json"):
        content = json.dumps(ROWS, indent=1).encode()
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=100)
        return path
    else:
        make = pa.ipc.new_file if path.stem.endswith("file") else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=299)
        return path
    compress = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(compress(content))
    return path


FILES = ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.json", "a.json.gz", "a.parquet", "stream.arrow", "file.arrow"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    rows = read(name, tmp_path)
    assert [row.values for row in rows] == ROWS
    assert rows[2].row_id == f"{name}:3"
    assert str(tmp_path / name) in rows[2].place
    assert len({row.row_id for row in rows}) == len(ROWS)


def test_a_json_file_may_hold_objects_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\n".join(json.dumps(row, indent=2) for row in ROWS[:3]))
    rows = read("a.json", tmp_path)
    assert [row.values for row in rows] == ROWS[:3]
    assert rows[1].place.endswith("a.json:5 (row 2)")


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_a_json_array_is_read_the_same_in_pieces_of_any_size(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [{"text": 'a "quoted" \\ \u00e9 \U0001f600 {[,]}'}, {"n": [1, 2.5, -3e4, True, None, 123456789]}]
    (tmp_path / "a.json").write_text(json.dumps(values) + " \n")
    monkeypatch.setattr(json_rows, "_CHUNK_CHARACTERS", chunk)
    assert [row.values for row in read("a.json", tmp_path)] == values


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon\na time\n")
    rows = read("a.txt", tmp_path)
    assert [row.values for row in rows] == [{"text": "Once upon\na time\n"}]


def test_blank_lines_are_no_rows_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ["", ROWS[0], " ", ROWS[1]])
    assert [row.row_id for row in read("a.jsonl", tmp_path)] == ["a.jsonl:2", "a.jsonl:4"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_skip_and_rows_choose_a_range(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    rows = read(DataSource(source=name, skip=290, rows=5), tmp_path)
    assert [row.values for row in rows] == ROWS[290:295]
    assert rows[0].row_id == f"{name}:291"
    assert len(read(DataSource(source=name, skip=290, rows=50), tmp_path)) == 10
    with pytest.raises(DataError, match="no rows after the first 300"):
        read(DataSource(source=name, skip=300), tmp_path)


def test_nulls_inside_parquet_rows_are_absent_keys(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    calls = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "name": "b"}]
    pq.write_table(pa.Table.from_pylist([{"messages": calls, "score": None}]), tmp_path / "a.parquet")
    values = read("a.parquet", tmp_path)[0].values
    assert values == {"messages": [calls[0], {"role": "assistant", "name": "b"}], "score": None}


def test_a_folder_that_datasets_saved_gives_its_rows(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert [row.values for row in read("saved", tmp_path)] == ROWS
    with pytest.raises(DataError, match="no split 'test'"):
        read(DataSource(source="saved", split="test"), tmp_path)


def test_a_saved_dict_of_data_sets_gives_the_rows_of_a_split(tmp_path: Path) -> None:
    import datasets

    parts = {"train": datasets.Dataset.from_list(ROWS[:9]), "test": datasets.Dataset.from_list(ROWS[9:12])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    rows = read(DataSource(source="saved", split="test"), tmp_path)
    assert [row.values for row in rows] == ROWS[9:12]
    assert rows[0].row_id == "saved:1"
    with pytest.raises(DataError, match="no split 'tset'") as caught:
        read(DataSource(source="saved", split="tset"), tmp_path)
    assert caught.value.cure == "did you mean 'test'?"


def test_a_damaged_file_of_a_saved_data_set_is_refused(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-5000])
    with pytest.raises(DataError, match="no whole Arrow file"):
        read("saved", tmp_path)


@pytest.mark.parametrize("source", ["hub:nobody/nothing-here", "nobody/nothing-here", "nobody/nothing-here:main"])
def test_a_hub_data_set_without_a_network_is_refused_with_the_cure(source: str, tmp_path: Path) -> None:
    for read_it in (lambda: read(source, tmp_path), lambda: fingerprint(DataSource(source=source), root=tmp_path)):
        with pytest.raises(DataError, match="could not be loaded") as caught:
            read_it()
        assert "nobody/nothing-here" in caught.value.place
        assert "save_to_disk" in caught.value.cure


def test_a_hub_data_set_is_loaded_with_its_subset_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load(name: str, subset: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, subset, split, streaming))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read(DataSource(source="openai/gsm8k:main", split="test[:300]"), tmp_path)
    assert asked == [("openai/gsm8k", "main", "test[:300]", False)]
    assert [row.values for row in rows] == ROWS
    assert rows[0].row_id == "openai/gsm8k:main:1"


def test_a_path_wins_over_a_hub_id_of_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    import datasets

    datasets.Dataset.from_list(ROWS[:2]).save_to_disk(str(tmp_path / "owner" / "name"))
    assert len(read("owner/name", tmp_path)) == 2


def test_a_missing_file_is_met_with_the_nearest_name_and_is_no_hub_id(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "train.jsonl", ROWS[:1])
    with pytest.raises(DataError, match="no such file") as caught:
        read("data/trian.jsonl", tmp_path)
    assert caught.value.cure == "did you mean 'train.jsonl'?"


def test_links_are_followed(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[:3])
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert [row.row_id for row in read("b.jsonl", tmp_path)] == ["b.jsonl:1", "b.jsonl:2", "b.jsonl:3"]


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[:3])
    with pytest.raises(DataError, match="has no splits"):
        read(DataSource(source="a.jsonl", split="test"), tmp_path)


def lab_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    yield from ({"prompt": f"{name} {split} {number}", "completion": "4"} for number in range(10))


def test_lab_rows_come_from_the_row_source(tmp_path: Path) -> None:
    rows = read(DataSource(source="lab:sums", split="held_out", rows=2), tmp_path, row_source=lab_rows)
    assert [row.values["prompt"] for row in rows] == ["sums held_out 0", "sums held_out 1"]
    assert rows[1].row_id == "lab:sums:2"
    with pytest.raises(DataError, match="no lab"):
        read("lab:sums", tmp_path)


def test_a_fingerprint_follows_the_content_and_not_the_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "a.jsonl", ROWS[:3])
    one = fingerprint(DataSource(source="one/a.jsonl"), root=tmp_path)
    assert one == fingerprint(DataSource(source=str(tmp_path / "two" / "a.jsonl")), root=Path("/nowhere"))
    write_lines(tmp_path / "two" / "a.jsonl", ROWS[:4])
    assert one != fingerprint(DataSource(source="two/a.jsonl"), root=tmp_path)


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        ({"skip": 1}, True),
        ({"rows": 2}, True),
        ({"format": "trl"}, True),
        ({"columns": {"prompt": "completion"}}, True),
        ({"split": "held_out"}, True),
        ({"proportion": 0.5}, False),
        ({"max_bad_fraction": 0.5}, False),
    ],
)
@pytest.mark.parametrize("source", ["a.jsonl", "lab:sums"])
def test_a_fingerprint_follows_what_chooses_or_changes_rows(
    source: str, change: dict[str, Any], is_other: bool, tmp_path: Path
) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[:3])
    before = fingerprint(DataSource(source=source), root=tmp_path, row_source=lab_rows)
    after = fingerprint(DataSource(source=source, **change), root=tmp_path, row_source=lab_rows)
    assert (before != after) is is_other


def test_a_saved_data_set_has_a_fingerprint_of_its_files(tmp_path: Path) -> None:
    import datasets

    prints = []
    for number, rows in enumerate((ROWS[:2], ROWS[:3])):
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / str(number) / "saved"))
        prints.append(fingerprint(DataSource(source=f"{number}/saved"), root=tmp_path))
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    "values",
    [{"source": ""}, {"source": "a\x00b"}, {"source": "a", "rows": 0}, {"source": "a", "skip": -1},
     {"source": "a", "columns": {}}, {"source": "a", "proportion": 0.0}, {"source": "a", "max_bad_fraction": 1.1},
     {"source": "a", "format": "csv"}, {"source": "a", "colums": {}}],
)  # fmt: skip
def test_a_source_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataSource(**values)


def test_arrow_batches_of_any_size_are_read_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar_rows, "BATCH_ROWS", 7)
    write(tmp_path / "file.arrow")
    rows = read("file.arrow", tmp_path)
    assert [row.values for row in rows] == ROWS
    assert rows[-1].row_id == "file.arrow:300"
