"""`posttrain best-of`: one drawing, a table, a page, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run_here
from tests.pipeline.tiny_runs import make_base, make_rows


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best_of")
    make_base(folder / "base")
    make_rows(folder / "rows.jsonl", 12)
    return folder


GOLD = "{type: length, low: 3, high: 5, slope: 9, unit: characters}"
LONG = "long={type: length, low: 60, high: 99, slope: 60, unit: characters}"


def command(bench: Path, *options: str) -> tuple[object, ...]:
    stops = [part for sign in "aeiou 0123456789" for part in ("--stop", sign)]
    return ("best-of", bench / "base", "--prompts", bench / "rows.jsonl", "--gold", GOLD, "--n", "4",
            "--max-new-tokens", "40", *stops, *options)  # fmt: skip


def test_a_table_and_a_page_come_of_one_drawing(
    capsys: pytest.CaptureFixture[str], bench: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    found = run_here(
        capsys, *command(bench, "--by", LONG, "--verifier", "exact_match", "--rows", "6", "--out", str(out))
    )
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    [head] = [place for place, line in enumerate(lines) if line.split()[:3] == ["way", "n", "length_band"]]
    assert [line.split()[0] for line in lines[head + 1 :]].count("oracle") == 3
    assert "6 problems of 6 sources, 4 answers each" in lines
    assert f"page: {out / 'best_of_n.html'}" == lines[-1]
    assert (out / "best_of_n.html").exists() and len((out / "completions.jsonl").read_text().splitlines()) == 24
    again = run_here(
        capsys, *command(bench, "--by", LONG, "--verifier", "exact_match", "--rows", "6", "--out", str(out), "--json")
    )
    study = json.loads(again.out)
    assert [way["name"] for way in study["ways"]][-3:] == ["exact_match", "long", "oracle"]
    assert study == json.loads((out / "best_of_n.json").read_text())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--by", "maths"), "no scorer is called 'maths'"),
        (("--by", "exact_match", "--by", "exact_match"), "--by names 'exact_match' twice"),
        (("--by", "oracle=exact_match"), "two ways of choosing are called 'oracle'"),
        (("--temperature", "0"), "temperature 0"),
        (("--n", "1"), "greater than or equal to 2"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    capsys: pytest.CaptureFixture[str], bench: Path, options: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    found = run_here(capsys, *command(bench, *options, "--out", str(tmp_path / "study")))
    assert found.code in (2, 3) and why in found.err
    assert not (tmp_path / "study").exists()
