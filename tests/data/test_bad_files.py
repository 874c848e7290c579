"""Broken data files: an error that names file, line and cure, or a row in the ledger; never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from posttrain.core.errors import DataError
from posttrain.data import rows
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from tests.data.bad_files import CASES, BadFile
from tests.data.small_renderer import tokenize
from tests.data.test_sources import FILES, write


@pytest.fixture
def limit_row_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 150_000)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_broken_file_is_refused_with_its_place_and_a_cure(
    case: BadFile, tmp_path: Path, limit_row_bytes: None
) -> None:
    case.write(tmp_path / case.name)
    with pytest.raises(DataError) as caught:
        tokenize([DataSource(source=case.name)], tmp_path)
    error = caught.value
    assert case.reason.lower() in error.found.lower()
    assert "rows" in error.place
    assert error.expected or error.cure
    if case.line is not None:
        assert f":{case.line}" in error.place
    assert "Traceback" not in str(error)


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.rows], ids=lambda case: case.reason)
def test_a_bad_row_that_is_allowed_goes_to_the_ledger_and_the_others_are_trained(
    case: BadFile, tmp_path: Path, limit_row_bytes: None
) -> None:
    assert case.rows is not None
    case.write(tmp_path / case.name)
    try:
        data = tokenize([DataSource(source=case.name, max_bad_fraction=1.0)], tmp_path)
    except DataError as error:  # no row of the file is good
        assert "no row is left" in error.found
        assert case.reason in error.found
        return
    ledger = data.ledger
    assert (ledger.rows_in, ledger.rows_trained) == (case.rows, case.rows - ledger.rows_dropped)
    assert case.reason in ledger.dropped
    listed = ledger.dropped[case.reason].listed[0]
    assert listed["row_id"].startswith(f"{case.name}:")
    assert listed["detail"]
    assert len(data.rows[0]) == ledger.rows_trained


def test_there_are_at_least_forty_broken_files() -> None:
    assert len(CASES) >= 80


def test_more_bad_rows_than_allowed_stop_the_start_and_are_listed(tmp_path: Path) -> None:
    good = '{"prompt": "2+2?", "completion": "4"}\n'
    (tmp_path / "rows.jsonl").write_text((good * 9 + "oops\n") * 2)
    with pytest.raises(DataError, match=r"2 of 20 rows.*rows\.jsonl:10 \(not JSON.*rows\.jsonl:20") as caught:
        tokenize([DataSource(source="rows.jsonl", max_bad_fraction=0.05)], tmp_path)
    assert "max_bad_fraction" in caught.value.cure
    allowed = tokenize([DataSource(source="rows.jsonl", max_bad_fraction=0.1)], tmp_path)
    assert (allowed.ledger.rows_trained, allowed.ledger.rows_bad) == (18, 2)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"prompt": "2+2?", "completion": "4"}\n'
    for name in ("rows.jsonl", "rows.json"):
        (tmp_path / name).write_bytes(content)
        assert tokenize([DataSource(source=name)], tmp_path).ledger.rows_trained == 1


def damage_at_random(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with some changed, cut out, put in or missing at the end."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 30])):
        at, kind = draw.randrange(len(changed) + 1), draw.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] = draw.randrange(256)
        elif kind == 1:
            del changed[at : at + draw.randrange(1, 50)]
        elif kind == 2:
            changed[at:at] = draw.randbytes(draw.randrange(1, 20))
        elif kind == 3 and draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("name", FILES)
def test_random_damage_is_an_error_with_a_place_or_a_row_in_the_ledger(name: str, tmp_path: Path) -> None:
    good, draw = write(tmp_path / name).read_bytes(), random.Random(name)
    source = DataSource(source=name, max_bad_fraction=1.0)
    for _ in range(25):
        (tmp_path / name).write_bytes(damage_at_random(good, draw))
        try:
            examples, ledger = load_examples([source], root=tmp_path)
        except DataError as error:
            assert name in error.place
        else:
            ledger.check_balance()
            assert ledger.rows_in == len(examples) + ledger.rows_bad


def test_an_arrow_stream_that_was_cut_between_two_batches_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "rows.arrow"
    table = pa.table({"prompt": ["a"] * 20, "completion": ["b"] * 20})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=10)
        end = file.tell()
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(DataError, match="unreadable after row 20: the stream does not end"):
        load_examples([DataSource(source="rows.arrow")], root=tmp_path)
