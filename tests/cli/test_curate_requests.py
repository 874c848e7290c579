"""`posttrain data curate`: what it reads is never replaced, what is asked for in vain is refused, notes are told."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from tests.cli.commands import run_here
from tests.data.files import chat, write_lines

GOOD = "A river carries water from the hills to the sea, and its banks are home to many birds."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    for name in ("rows.jsonl", "test.jsonl", "test.html", "rows/part.jsonl"):
        write_lines(tmp_path / name, [chat("Tell me of rivers.", GOOD)])
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    (tmp_path / "plain.yaml").write_text("contamination: null\nband: {at_least: 0.5}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["rows.jsonl", "--out", "link.jsonl"], "--out"),
        (["rows.jsonl", "--out", "test.jsonl", "--against", "test.jsonl"], "--out"),
        (["rows.jsonl", "--out", "plain.yaml", "--config", "plain.yaml"], "--out"),
        (["rows.jsonl", "--out", "o.jsonl", "--report", "rows.jsonl"], "--report"),
        (["rows.jsonl", "--out", "o.jsonl", "--page", "test.html", "--against", "test.html"], "--page"),
        (["rows.jsonl", "--out", "o.jsonl", "--page", "test.jsonl"], "--page"),
        (["rows.jsonl", "--out", "o.jsonl", "--report", "./o.jsonl"], "--out"),
        (["rows", "--out", "rows/o.jsonl"], "--out"),
        (["rows.jsonl", "--out", "test.jsonl", "--scorer", "{type: facts, knowledge_base: test.jsonl}"], "--out"),
        (["rows.jsonl", "--out", "o.jsonl", "--low", "0.1"], "--low"),
        (["rows.jsonl", "--out", "o.jsonl", "--config", "plain.yaml"], "--model"),
        (
            ["rows.jsonl", "--out", "o.jsonl", "--config", "plain.yaml", "--against", "test.jsonl", "--scorer", "math"],
            "--against",
        ),
        (["rows.jsonl", "--out", "o.jsonl", "--scorer", "exact_mach"], "did you mean 'exact_match'"),
        (["rows.jsonl", "--out", "o.jsonl", "--scorer", "{type: mth}"], "did you mean 'math'"),
        (["rows.jsonl", "--out", "o.jsonl", "--scorer", "{type: [}"], "--scorer"),
        (["rows.jsonl", "--out", "o.jsonl", "--scorer", "missing.py:brevity"], "missing.py"),
    ],
)
def test_inputs_are_never_replaced_and_nothing_is_asked_for_in_vain(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], option: str
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = run_here(capsys, "data", "curate", *arguments)
    assert found.code == 2 and option in found.err and "E-BUG" not in found.err, found.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("scorer", ["{type: exact_match}", "rewards.py:is_even"])
def test_scorers_are_written_as_in_a_recipe_and_low_changes_no_other_part_of_the_band(
    capsys: pytest.CaptureFixture[str], folder: Path, scorer: str
) -> None:
    """The rows of even numbers have the score 1, the others 0, which `at_least` of the file drops."""
    rows = [
        {"prompt": f"What is {n} + {n}?", "completion": str(2 * n + n % 2), "answer": str(2 * n)} for n in range(1, 7)
    ]
    write_lines(folder / "sums.jsonl", rows)
    (folder / "rewards.py").write_text(
        "def is_even(prompts, completions, completion_ids, **columns):\n"
        "    return [float(c == a) for c, a in zip(completions, columns['answer'])]\n"
    )
    (folder / "band.yaml").write_text("near: null\nmin_quality: null\nformats: []\nband: {at_least: 0.5}\n")
    flags = ["--scorer", scorer, "--config", "band.yaml", "--low", "0", "--json"]
    found = run_here(capsys, "data", "curate", "sums.jsonl", "--out", "o.jsonl", *flags)
    assert found.code == 0, found.err
    assert json.loads(found.out)["settings"]["band"] == {"low": 0.0, "high": 1.0, "at_least": 0.5}
    assert [json.loads(line)["prompt"] for line in Path("o.jsonl").read_text().splitlines()] == [
        f"What is {n} + {n}?" for n in (2, 4, 6)
    ]


def test_an_answer_in_a_column_that_nobody_named_is_told_everywhere(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    rows = [{"prompt": f"Tell me of {name}.", "response": f"{name}: {GOOD}"} for name in ("rivers", "hills")]
    write_lines(folder / "dolly.jsonl", rows)
    flags = ["--out", "o.jsonl", "--report", "report.json", "--page", "page.html"]
    told = "2 rows have no answer; other columns: response"
    assert told in run_here(capsys, "data", "curate", "dolly.jsonl", *flags).out
    assert "--column completion=response" in json.loads(Path("report.json").read_text())["notes"][0]
    assert told in Path("page.html").read_text()
    found = run_here(capsys, "data", "curate", "dolly.jsonl", *flags, "--column", "completion=response", "--json")
    assert json.loads(found.out)["notes"] == []


def test_where_no_row_is_understood_the_cure_is_to_map_columns(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_lines(folder / "odd.jsonl", [{"ask": "Rivers?", "reply": GOOD}] * 3)
    found = run_here(capsys, "data", "curate", "odd.jsonl", "--out", "o.jsonl")
    assert found.code == 3 and "--column prompt=" in found.err and "loosen" not in found.err


def test_what_json_has_no_form_for_is_written_and_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "prompt": ["Tell me of rivers.", "Why is the sky blue?"],
        "completion": [GOOD, "Because blue light is scattered more than red light is."],
        "score": [float("nan"), 0.5],
        "on": [datetime.date(2024, 1, 2), datetime.date(2024, 1, 3)],
        "at": [datetime.datetime(2024, 1, 2, 3, 4, 5)] * 2,
        "raw": [b"abc", b"\xff\x00"],
    }
    parquet.write_table(pyarrow.table(columns), folder / "n.parquet")
    found = run_here(capsys, "data", "curate", "n.parquet", "--out", "o.jsonl", "--json")
    assert found.code == 0, found.err
    first, second = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert (first["score"], first["on"], first["at"]) == (None, "2024-01-02", "2024-01-02T03:04:05")
    assert (second["score"], first["raw"], second["raw"]) == (0.5, "abc", "ff00")
    assert json.loads(found.out)["notes"] == [
        "numbers that JSON has none of (NaN, infinite) are written as null, in: score (1)"
    ]


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_a_page_of_two_runs_replaces_nothing_but_pages(
    capsys: pytest.CaptureFixture[str], folder: Path, verb: str
) -> None:
    Path("run.json").write_text("{}")
    found = run_here(capsys, verb, "a", "b", "--page", "run.json")
    assert found.code == 2 and "--page" in found.err and Path("run.json").read_text() == "{}"
