"""CSV by RFC 4180: what a cell is, where a row ends, and that nothing is read as other cells than were written."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path

import pytest

from posttrain.data import rows
from posttrain.data.csv_rows import read_csv, read_tsv
from posttrain.data.rows import BadRow, RawRow
from posttrain.data.sources import DataSource, open_rows

ALPHABET = ["a", "é", "\U0001f600", '"', ",", "\n", "\r\n", " ", "\t", "", "'", "; ", "x" * 50]


def read(content: str | bytes, tmp_path: Path, name: str = "rows.csv") -> list[RawRow | BadRow]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list((read_tsv if name.endswith(".tsv") else read_csv)(path, name))


def values(found: list[RawRow | BadRow]) -> list[dict[str, str]]:
    assert all(isinstance(row, RawRow) for row in found), found
    return [row.values for row in found if isinstance(row, RawRow)]


def test_quoted_cells_hold_separators_line_breaks_and_doubled_quotes(tmp_path: Path) -> None:
    content = 'a,b\r\n"x, y","say ""hi"""\r\n"two\r\nlines",""\r\n"""",plain\r\n'
    assert values(read(content, tmp_path)) == [
        {"a": "x, y", "b": 'say "hi"'},
        {"a": "two\r\nlines", "b": ""},
        {"a": '"', "b": "plain"},
    ]


def test_rows_are_numbered_without_the_header_and_placed_at_the_line_that_they_begin_in(tmp_path: Path) -> None:
    found = read('a,b\n"1\n1",2\n\n3,4\n5\n6,7', tmp_path)
    assert [row.row_id for row in found] == [f"rows.csv:{number}" for number in (1, 2, 3, 4)]
    assert [row.place.removeprefix(str(tmp_path)) for row in found] == [
        "/rows.csv:2 (row 1)", "/rows.csv:5 (row 2)", "/rows.csv:6 (row 3)", "/rows.csv:7 (row 4)",
    ]  # fmt: skip
    assert isinstance(found[2], BadRow) and found[2].reason == "ragged row"
    assert isinstance(found[3], RawRow) and found[3].values == {"a": "6", "b": "7"}


def test_a_quote_that_is_never_closed_costs_every_line_after_it_each_counted(tmp_path: Path) -> None:
    found = read('a,b\n1,2\n"3,4\n5,6\n7,8\n', tmp_path)
    assert isinstance(found[0], RawRow) and found[0].values == {"a": "1", "b": "2"}
    bad = [row for row in found[1:] if isinstance(row, BadRow)]
    assert [(row.row_id, row.reason) for row in bad] == [(f"rows.csv:{n}", "wrong quotes") for n in (2, 3, 4)]
    assert [row.place.partition("rows.csv")[2] for row in bad] == [":3 (row 2)", ":4 (row 3)", ":5 (row 4)"]
    assert "line 3" in bad[2].detail and "line 3" in bad[2].cure
    (last,) = read('a,b\n"1,2', tmp_path)  # torn off in its last line: one row
    assert isinstance(last, BadRow)


def test_a_byte_order_mark_and_crlf_are_no_part_of_a_name_or_cell(tmp_path: Path) -> None:
    assert values(read(b"\xef\xbb\xbfa,b\r\n1,2\r\n", tmp_path)) == [{"a": "1", "b": "2"}]
    assert values(read(b'\xef\xbb\xbf"a","b"\r\n1,2\r\n', tmp_path)) == [{"a": "1", "b": "2"}]


def test_the_index_that_pandas_writes_is_left_out(tmp_path: Path) -> None:
    assert values(read(",a\n0,x\n1,y\n", tmp_path)) == [{"a": "x"}, {"a": "y"}]


def test_tabs_part_the_cells_of_a_tsv_file_and_commas_do_not(tmp_path: Path) -> None:
    content = 'a\tb\nx, y\t"tab\there"\n'
    assert values(read(content, tmp_path, "rows.tsv")) == [{"a": "x, y", "b": "tab\there"}]


def test_compressed_csv_is_read_as_a_source_with_its_range(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"prompt\n" + b"".join(b"%d\n" % n for n in range(9))))
    found = open_rows(DataSource(source="rows.csv.gz", skip=3, rows=2), root=tmp_path)
    assert [(row.row_id, row.values) for row in found if isinstance(row, RawRow)] == [
        ("rows.csv.gz:4", {"prompt": "3"}),
        ("rows.csv.gz:5", {"prompt": "4"}),
    ]


def test_a_cell_beyond_the_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    long = "a, b\n" * 60_000
    assert len(long) > csv.field_size_limit()
    assert values(read(f'a,b\n"{long}",2\n', tmp_path)) == [{"a": long, "b": "2"}]


def test_after_a_row_that_is_too_long_the_next_is_read_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    content = "a,b\n" + "x" * 300 + ",1\n" + '"' + "y\n" * 80 + '",2\n3,4\n'
    found = read(content, tmp_path)
    assert [row.reason if isinstance(row, BadRow) else row.values for row in found] == [
        "row too long", "row too long", {"a": "3", "b": "4"},
    ]  # fmt: skip


def test_whatever_the_csv_module_writes_is_read_back(tmp_path: Path) -> None:
    generator = random.Random(7)
    for trial in range(300):
        separator = generator.choice(",\t")
        table = [
            ["".join(generator.choices(ALPHABET, k=generator.randrange(6))) for _ in range(3)]
            for _ in range(generator.randrange(1, 6))
        ]
        stream = io.StringIO(newline="")
        writer = csv.writer(
            stream,
            quoting=csv.QUOTE_ALL if trial % 2 else csv.QUOTE_MINIMAL,
            delimiter=separator,
            lineterminator=generator.choice(["\n", "\r\n"]),
        )
        writer.writerows([["a", "b", "c"], *table])
        name = "rows.csv" if separator == "," else "rows.tsv"
        assert [list(row.values()) for row in values(read(stream.getvalue(), tmp_path, name))] == table


def test_bytes_at_random_are_rows_or_bad_rows_or_refused_and_never_lose_a_good_row_before_them(tmp_path: Path) -> None:
    generator = random.Random(11)
    for _ in range(500):
        noise = bytes(generator.choices(b'a,"\r\n\x00\xff\xc3\xa9 ', k=generator.randrange(60)))
        found = read(b"a,b\n1,2\n" + noise, tmp_path)
        assert isinstance(found[0], RawRow) and found[0].values == {"a": "1", "b": "2"}
        assert all(isinstance(row, RawRow) or (row.reason and row.detail) for row in found)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "num_rows"),
    [("facts/truthfulqa.csv", 817), ("safety/harmbench_behaviors_text_all.csv", 400),
     ("safety/xstest_prompts.csv", 450), ("safety/strongreject_dataset.csv", 313),
     ("safety/xstest_completions_gpt4.csv.gz", 450),
     ("bias/crows_pairs_anonymized.csv", 1508), ("safety/jailbreak_prompts_2023_05_07.csv.gz", 666)],
)  # fmt: skip
def test_published_csv_files_are_read_as_pythons_csv_module_reads_them(
    name: str, num_rows: int, real_data: Path, tmp_path: Path
) -> None:
    path = real_data / name
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    header, *table = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    found = list(open_rows(DataSource(source=str(path)), root=tmp_path))
    bad = [row for row in found if isinstance(row, BadRow)]
    assert (len(found), bad) == (num_rows, [])
    assert [row.values for row in found if isinstance(row, RawRow)] == [
        {name: cell for name, cell in zip(header, cells, strict=True) if name} for cells in table
    ]
