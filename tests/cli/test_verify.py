"""`posttrain verify SCORER FILE`: a table for a person, JSON for a program, and errors with their cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.sandbox.running import ProgramPool, SandboxUnavailableError
from tests.cli.commands import run_here

ROWS = [
    {"completion": "\\boxed{4}", "answer": "4"},
    {"completion": "\\boxed{5}", "answer": "4"},
    {"completion": "no idea", "answer": "4"},
]
PROGRAMS = [
    {"completion": "def f(x):\n    return x + 1\n", "entry": "f", "tests": [[[1], 2], [[5], 6]]},
    {"completion": "def f(x):\n    return 2\n", "entry": "f", "tests": [[[1], 2], [[5], 6]]},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_person_sees_the_mean_the_outcomes_and_the_rows_that_fell_short(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = run_here(capsys, "verify", "math", write(tmp_path / "rows.jsonl", ROWS))
    assert found.code == 0
    lines = [line for line in found.out.splitlines() if not line.startswith("verify ")]  # those are of progress
    assert lines[0].startswith("math: 0.3333 (") and lines[0].endswith("wilson, n 3)")
    assert lines[1] == "outcomes: scored 2, unparsed 1"
    assert lines[3].split()[:3] == ["rows.jsonl:2", "scored", "0"] and "expected '4'" in lines[3]
    assert "no answer declared" in lines[4]
    found = run_here(capsys, "verify", "math", tmp_path / "rows.jsonl", "--show", "1")
    assert "and 1 more rows below 1" in found.out


def test_a_program_gets_json_and_a_file_of_outcomes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, out = write(tmp_path / "rows.jsonl", ROWS), tmp_path / "out.jsonl"
    found = run_here(capsys, "verify", "math", path, "--json", "--out", out)
    assert json.loads(found.out)["metrics"]["n"] == 3 and json.loads(found.out)["bad_rows"] == []
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["outcome"]["status"] for row in written] == ["scored", "scored", "unparsed"]


def test_settings_are_given_one_by_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"reply": "so it is 4", "answer": "4"}])
    given = ["--column", "reply", "--set", "extraction=[last_number]"]
    assert "\nmath: 1 (" in run_here(capsys, "verify", "math", path, *given).out


def test_programs_are_run_in_the_sandbox(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with ProgramPool(num_servers=1) as pool:
        try:
            assert pool.tier != "unsafe"
        except SandboxUnavailableError as error:
            pytest.skip(error.found)
    path = write(tmp_path / "programs.jsonl", PROGRAMS)
    found = run_here(capsys, "verify", "code", path, "--set", "scoring=fraction", "--json")
    assert json.loads(found.out)["metrics"]["value"] == 0.75


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mth", "rows.jsonl"], 2, "did you mean 'math'"),
        (["math"], 2, "needs a file of completions"),
        (["math", "rows.jsonl", "--set", "answr_form=value"], 2, "did you mean 'answer_form'"),
        (["math", "missing.jsonl"], 3, "missing.jsonl"),
        (["code", "rows.jsonl"], 3, "no tests"),
        (["facts", "rows.jsonl"], 2, "knowledge_base"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_the_cure(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", ROWS)
    found = run_here(capsys, "verify", *arguments)
    assert found.code == code and said in found.err and "Traceback" not in found.err
