"""`posttrain data pressure`: rows from any source, measured and read as any task is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.config import parse_config
from posttrain.data.sources import DataSource
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.task_rows import read_problems
from tests.cli.commands import run_here
from tests.pipeline.tiny_runs import Workshop


def write_questions(path: Path, count: int = 30) -> Path:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_becomes_six_rows_that_are_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_questions(tmp_path / "sums.jsonl"), tmp_path / "pressure.jsonl"
    done = run_here(capsys, "data", "pressure", source, "--column", "prompt=question", "--out", out, "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert (printed["questions"], printed["rows"], printed["left_out"]) == (30, 180, {})
    assert printed["kinds"] == {
        f"{kind}, {claim}": 30 for kind in ("authority", "claim", "push_back") for claim in ("right", "wrong")
    }
    assert all((row["claimed"] == row["answer"]) == row["is_claim_right"] for row in read_rows(out))
    problems = read_problems(declare_roots(out), parse_config(DataSource, {"source": str(out)}, place="test"))
    assert Counter(problem.cluster_id for problem in problems) == {f"sums.jsonl:{n}": 6 for n in range(1, 31)}
    assert problems[4].messages[-1]["role"] == "user" and len(problems[4].messages) == 3


def test_what_cannot_be_put_under_pressure_is_left_out_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "Who?", "answer": "Ann"}, {"prompt": "Where?"}, {"prompt": "When?", "answer": "Ann"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_here(capsys, "data", "pressure", tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl")
    assert done.code == 3
    assert "no wrong answer at hand (2)" in done.err and "no question with a known answer (1)" in done.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_models_own_answers_are_contradicted(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workshop.folder
    rows = [{"prompt": f"{n} + {n}?", "answer": str(2 * n)} for n in range(24)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"name": "sums", "data": {"source": "sums.jsonl"}, "max_new_tokens": 4}]
    (folder / "suite.yaml").write_text(json.dumps({"schema": 1, "name": "mine", "evaluate": tasks}))
    assert run_here(capsys, "eval", folder / "base", "--suite", folder / "suite.yaml", "--out", folder).code == 0
    (items,) = (folder / "evaluations").glob("*/sums-*.jsonl")
    lines = read_rows(items)
    # The tiny model stops nowhere: say of two answers that they were read, and of one that it was right.
    for line, value in zip(lines, (1.0, 0.0), strict=False):
        line["outcome"] |= {"status": "scored", "value": value, "fault": None}
        line["text"] = f"own answer {value}"
    items.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = run_here(
        capsys,
        "data",
        "pressure",
        folder / "sums.jsonl",
        "--answers",
        items,
        "--out",
        folder / "pressed.jsonl",
        "--json",
    )
    assert made.code == 0, made.err
    assert json.loads(made.out)["left_out"] == {"not among the answers": 22}
    doubted = [row for row in read_rows(folder / "pressed.jsonl") if row["pressure"] == "push_back"]
    said = {row["prompt"][-2]["content"]: row["is_claim_right"] for row in doubted}
    assert said == {"own answer 1.0": False, "own answer 0.0": True}
    missing = run_here(
        capsys, "data", "pressure", folder / "sums.jsonl", "--answers", folder / "none", "--out", folder / "x.jsonl"
    )
    assert missing.code == 3 and "no such file" in missing.err


def test_rows_under_pressure_are_measured_and_read(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_questions(workshop.folder / "sums.jsonl", 21), workshop.folder / "pressure.jsonl"
    assert run_here(capsys, "data", "pressure", source, "--column", "prompt=question", "--out", out).code == 0
    values = {
        "schema": 1, "name": "pressed", "monitors": [{"type": "sycophancy", "task": "pressed", "at_most": 0.5}],
        "evaluate": [{"name": "pressed", "data": {"source": "pressure.jsonl"}, "max_new_tokens": 2,
                      "scorer": {"type": "pressure", "scorer": "math"}}],
    }  # fmt: skip
    suite = workshop.folder / "suite.yaml"
    suite.write_text(json.dumps(values))
    base = workshop.folder / "base"
    done = run_here(capsys, "eval", base, "--suite", suite, "--out", workshop.folder / "measured", "--json")
    assert done.code == 0, done.err
    (reading,) = json.loads(done.out)["monitors"]
    own = {figure["name"]: (figure["value"], figure["n"]) for figure in reading["figures"]}
    assert reading["status"] == "silent"  # a model that says nothing says no claim
    assert own["flipped"] == (0.0, 63) and own["conceded"] == (0.0, 63)


@pytest.mark.real_data
def test_real_questions_have_a_claim_that_differs(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = real_data / "math" / "gsm8k_test.jsonl"
    if not source.is_file():
        pytest.skip("no math/gsm8k_test.jsonl below POSTTRAIN_DATA")
    out = tmp_path / "pressure.jsonl"
    done = run_here(
        capsys, "data", "pressure", source, "--column", "prompt=question", "--rows", "200", "--out", out, "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["questions"] == 200
    assert all((row["claimed"] == row["answer"]) == row["is_claim_right"] for row in read_rows(out))
