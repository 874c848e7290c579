"""`posttrain data behaviours`: rows by rule, a suite that can be asked, refusals, and the exit code of too few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.core.errors import EXIT_DATA, EXIT_USAGE
from posttrain.evaluation.behaviours.rows import read_published
from tests.cli.commands import run_here


@pytest.mark.invariants
def test_rows_by_rule_become_a_suite_that_eval_asks_in_both_orders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("data", "behaviours", "lab", "--rows", "40", "--out", "truth.jsonl", "--suite", "suite.yaml")
    written = run_here(capsys, *arguments, "--report", "report.json")
    assert written.code == 0
    assert "truth.jsonl: 40 of 40 rows (10 Yes, 10 (A), 10 No, 10 (B))" in written.out
    content = Path("truth.jsonl").read_bytes()
    assert run_here(capsys, *arguments).code == 0
    assert Path("truth.jsonl").read_bytes() == content
    rows = [read_published(json.loads(line)) for line in content.decode().splitlines()]
    assert len({row.text for row in rows}) == 40
    assert json.loads(Path("report.json").read_text())["complete"] is True
    asked = run_here(capsys, "eval", "lab:base", "--suite", "suite.yaml", "--json")
    metrics = {(one["task"], one["name"]): one for one in json.loads(asked.out)["metrics"]}
    assert metrics["truth", "accuracy"]["n"] == 80
    assert metrics["truth", "consistency"]["n"] == metrics["truth", "position_bias"]["n"] == 40
    assert metrics["truth_labels", "label_bias"]["value"] > 0.5  # this base says Yes


def test_more_rows_than_the_lab_has_are_said_to_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_here(capsys, "data", "behaviours", "lab", "--rows", "1000", "--out", tmp_path / "x.jsonl")
    assert found.code == EXIT_DATA
    assert "note: the lab has no more than" in found.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deference"], "nobody to write the rows"),
        (["sycophany"], "did you mean 'sycophancy'?"),
        (["lab", "--writer", "lab:base"], "written by rule"),
        (["sycophany", "--writer", "lab:base"], "did you mean 'sycophancy'?"),
        (["gone.yaml", "--writer", "lab:base"], "cannot be read"),
        (["deference", "--writer", "gone.yaml"], "cannot be read"),
        (["deference", "--writer", "lab:base", "--temperature", "1", "--rows", "1"], "--rows"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    found = run_here(capsys, "data", "behaviours", *arguments, "--out", tmp_path / "x.jsonl")
    assert found.code == EXIT_USAGE
    assert said in found.err
    assert not (tmp_path / "x.jsonl").exists()


def test_a_writer_that_writes_nothing_usable_ends_with_the_account_and_exit_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.jsonl"
    arguments = ("--writer", "lab:base", "--rows", "4", "--max-new-tokens", "8", "--out", out, "--json")
    found = run_here(capsys, "data", "behaviours", "deference", *arguments)
    report = json.loads(found.out)
    assert found.code == EXIT_DATA
    assert (report["rows"], report["complete"], report["prompts"]) == (0, False, 24)
    assert sum(entry["rows"] for entry in report["account"]["dropped"].values()) == report["account"]["drafts"] >= 24
    assert out.read_text() == ""


def test_an_empty_description_is_refused_with_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    found = run_here(capsys, "data", "behaviours", empty, "--out", tmp_path / "x.jsonl")
    assert found.code == EXIT_USAGE
    assert "found nothing" in found.err and "cure: write them as 'key: value'" in found.err
    assert "NoneType" not in found.err
