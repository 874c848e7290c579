"""`posttrain lab`: what its verbs print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.lab.source import ROW_SETS
from posttrain.lab.tasks import SKILLS
from tests.cli.commands import run_here
from tests.lab.sets import shorten_sets


def test_all_sets_are_listed_with_their_splits(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_here(capsys, "lab", "show").out.splitlines()
    assert [line.split()[0] for line in lines] == [f"lab:{name}" for name in ROW_SETS]
    assert "held_out" in next(line for line in lines if line.startswith("lab:arithmetic"))


def test_rows_of_a_set_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("lab", "show", "lab:code", "--split", "held_out", "--rows", "2")
    found = json.loads(run_here(capsys, *arguments, "--json").out)
    assert [row["group"] for row in found["rows"]] == ["code", "code"]
    assert found["rows"][0]["prompt"][0]["content"] in run_here(capsys, *arguments).out


def test_a_set_that_is_none_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_here(capsys, "lab", "show", "arithmetics")
    assert found.code == 3
    assert "no set 'arithmetics'" in found.err and "did you mean 'arithmetic'" in found.err


def test_a_card_of_the_base_has_a_line_for_every_skill(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_here(
        capsys, "lab", "card", "lab:base", "--prose", "--questions", "1", "--samples", "2"
    ).out.splitlines()
    named = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert all(skill.name in named for skill in SKILLS)


def test_a_split_that_is_none_is_refused_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_here(capsys, "lab", "card", "no-such-model", "--split", "heldout")
    assert found.code == 2 and "did you mean 'held_out'" in found.err


def test_the_lab_is_exported_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_sets(monkeypatch)
    written = json.loads(run_here(capsys, "lab", "export", tmp_path / "lab", "--json").out)
    assert written["rows"]["questions.held_out.jsonl"] == 40
    again = run_here(capsys, "lab", "export", tmp_path / "lab")
    assert again.code == 8 and "exists already" in again.err
