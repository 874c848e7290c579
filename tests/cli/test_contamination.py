"""`posttrain data contamination`: exit codes, a table for a person, JSON for a program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run_here
from tests.data.files import chat, write_lines

SUM = "What is 47 + 38?"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train = write_lines(tmp_path / "train.jsonl", [chat("Hi", "Hello."), chat(f"Well: {SUM}", "85")])
    test = write_lines(
        tmp_path / "test.jsonl", [{"prompt": SUM, "answer": "85"}, {"prompt": "Which sea is the deepest?"}]
    )
    return train, test


def test_a_clean_set_exits_with_0_and_a_contaminated_one_with_8(
    capsys: pytest.CaptureFixture[str], files: tuple[Path, Path]
) -> None:
    train, test = files
    found = run_here(capsys, "data", "contamination", train, "--against", test)
    lines = [line.split() for line in found.out.splitlines()]
    assert found.code == 8
    assert "2 evaluation items against 2 training rows (9 words): 1 of them occur in 1 rows" in found.out
    assert ["whole", "2", "1"] in lines and ["answered", "1", "1"] in lines and ["key", "0", "0"] in lines
    assert [
        "test.jsonl:1",
        "whole,",
        "answered",
        "train.jsonl:2",
        "well",
        "[what",
        "is",
        "47",
        "+",
        "38]",
        "85",
    ] in lines
    found = run_here(capsys, "data", "contamination", train, "--against", test, "--min-words", 20)
    assert found.code == 0 and "clean" in found.out and "2 items are too short to tell" in found.out


def test_a_program_gets_json_also_in_a_file(
    capsys: pytest.CaptureFixture[str], files: tuple[Path, Path], tmp_path: Path
) -> None:
    train, test = files
    out = tmp_path / "found.json"
    found = run_here(capsys, "data", "contamination", train, train, "--against", test, "--json", "--out", out)
    report = json.loads(found.out)
    assert found.code == 8 and report == json.loads(out.read_text())
    assert (report["clean"], report["items"], report["items_contaminated"], report["rows"]) == (False, 2, 1, 4)
    assert report["contaminated"][0]["matches"]["whole"]["rows"] == 2
    expected = {"ngram": 8, "threshold": 0.5, "min_words": 5, "boilerplate_fraction": 0.01, "near": 0.5}
    assert report["settings"] == expected


def test_show_limits_what_is_printed(capsys: pytest.CaptureFixture[str], files: tuple[Path, Path]) -> None:
    train, _ = files
    found = run_here(capsys, "data", "contamination", train, "--against", train, "--show", 0)
    assert found.code == 8 and "and 1 more items" in found.out and "[what is" not in found.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train.jsonl"], 2, "--against"),
        (["train.jsonl", "--against", "missing.jsonl"], 3, "missing.jsonl"),
        (["train.jsonl", "--against", "test.jsonl", "--split", "test"], 3, "split 'test'"),
        (["train.jsonl", "--against", "test.jsonl", "--threshold", "2"], 2, "threshold"),
        (["train.jsonl", "--against", "test.jsonl", "--column", "prompt"], 2, "OURS=THEIRS"),
        (["lab:documents", "--against", "lab:nothing"], 3, "lab:conversations"),
    ],
)
def test_what_cannot_be_checked_is_refused_with_the_cure(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[Path, Path],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(files[0].parent)
    found = run_here(capsys, "data", "contamination", *arguments)
    assert found.code == code and said in found.err
