"""`posttrain data curate`: what is written, what is told, and that it is the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import run_here
from tests.data.files import chat, write_lines

GOOD = "A river carries water from the hills to the sea, and its banks are home to many birds."
DUCKS = "How many eggs do the seven ducks of Janet lay in one week at the farm?"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    kept = {**chat("Tell me of rivers.", GOOD), "level": 3}
    return write_lines(
        tmp_path / "rows.jsonl.gz",
        [
            kept,
            chat("Tell me of  rivers.", GOOD.upper()),
            chat("And of seas?", "Dear {{name}}, <b>they are wet</b>."),
            "no json",
            chat(DUCKS.replace("seven", "7"), "49 eggs in all."),
            chat("Why is the sky blue?", "Because blue light is scattered more than red light is."),
            chat("Help me.", "I'm sorry, but I can't help with that."),
        ],
    )


def test_rows_are_kept_as_they_are_and_all_others_are_counted(
    capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path
) -> None:
    test = write_lines(tmp_path / "test.jsonl", [{"prompt": DUCKS}])
    outs = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    for out in outs:
        found = run_here(
            capsys, "data", "curate", rows, "--out", out, "--against", test, "--report", report, "--page", page
        )
        assert found.code == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    kept = [json.loads(line) for line in outs[0].read_text().splitlines()]
    assert [row.get("level") for row in kept] == [3, None] and all("curation" not in row for row in kept)
    assert "7 rows in = 2 kept + 5 dropped" in found.out and "duplicate" in found.out
    account = json.loads(report.read_text())
    dropped = {reason: entry["rows"] for reason, entry in account["ledger"]["dropped"].items()}
    assert dropped == {"not JSON": 1, "duplicate": 1, "placeholder": 1, "contaminated": 1, "refusal": 1}
    assert account["rows_in"] == account["rows_kept"] + sum(dropped.values())
    assert account["examples"]["placeholder"][0]["answer"].startswith("Dear {{name}}")
    text = page.read_text()
    assert "2 of 7 rows are kept" in text and "<b>they are wet</b>" not in text and "&lt;b&gt;they are wet" in text
    assert "default-src 'none'" in text.replace("&#39;", "'")


def test_annotations_are_added_where_they_are_asked_for(
    capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert run_here(capsys, "data", "curate", rows, "--out", out, "--annotate").code == 0
    first = json.loads(out.read_text().splitlines()[0])
    assert first["curation"]["row_id"] == "rows.jsonl.gz:1" and 0 < first["curation"]["quality"] <= 1
    again = run_here(capsys, "data", "curate", out, "--out", tmp_path / "again.jsonl", "--annotate")
    assert again.code == 3 and "curation" in again.err and not (tmp_path / "again.jsonl").exists()


def test_settings_come_from_a_file_and_flags_change_them(
    capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path
) -> None:
    config = tmp_path / "curation.yaml"
    config.write_text("formats: []\nrefusals: false\nexact: false\nnear: null\n")
    out = tmp_path / "out.jsonl"
    found = run_here(capsys, "data", "curate", rows, "--out", out, "--config", config, "--json")
    assert found.code == 0 and json.loads(found.out)["rows_kept"] == 6
    found = run_here(capsys, "data", "curate", rows, "--out", out, "--config", config, "--keep", 2, "--json")
    assert json.loads(found.out)["rows_kept"] == 2
    assert json.loads(found.out)["ledger"]["dropped"]["not chosen"]["rows"] == 4


def test_a_scorer_gives_the_values_of_the_band(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = write_lines(
        tmp_path / "rows.jsonl",
        [
            {"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n + n % 2}.", "answer": f"It is {2 * n}."}
            for n in range(8)
        ],
    )
    out = tmp_path / "out.jsonl"
    config = tmp_path / "curation.yaml"
    config.write_text("near: null\nband: {at_least: 0.5}\n")
    found = run_here(capsys, "data", "curate", rows, "--out", out, "--scorer", "exact_match", "--config", config)
    assert found.code == 0, found.err
    assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == [
        f"What is {n} + {n}?" for n in (0, 2, 4, 6)
    ]


def test_a_models_perplexity_is_a_value_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The lab's model knows its own sentences, and not a row of odd letters."""
    known = [chat(f"What is {n} + 4?", f"{n} + 4 = {n + 4}.\nAnswer: {n + 4}") for n in range(9)]
    rows = write_lines(tmp_path / "rows.jsonl", [*known, chat("What is 3 + 5?", "Zq vx jk qj xz wv kk zz qx.")])
    out = tmp_path / "out.jsonl"
    config = tmp_path / "curation.yaml"
    config.write_text("near: null\nmin_quality: null\n")
    found = run_here(
        capsys, "data", "curate", rows, "--out", out, "--model", "lab:base", "--high", 0.9, "--config", config, "--json"
    )
    assert found.code == 0, found.err
    listed = json.loads(found.out)["ledger"]["dropped"]["value band"]["listed"]
    assert [row["row_id"] for row in listed] == ["rows.jsonl:10"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rows.jsonl.gz"], 2, "--out"),
        (["missing.jsonl", "--out", "out.jsonl"], 3, "missing.jsonl"),
        (["rows.jsonl.gz", "--out", "rows.jsonl.gz"], 2, "one of the sources"),
        (["rows.jsonl.gz", "--out", "out.jsonl", "--max-bad-fraction", "0"], 3, "1 of 7 rows"),
        (["rows.jsonl.gz", "--out", "out.jsonl", "--near", "2"], 2, "near"),
        (["rows.jsonl.gz", "--out", "out.jsonl", "--language", "xx"], 2, "'xx'"),
        (["rows.jsonl.gz", "--out", "out.jsonl", "--config", "long.yaml"], 3, "no row is kept"),
        (["rows.jsonl.gz", "--out", "out.jsonl", "--model", "lab:base", "--scorer", "exact_match"], 2, "--scorer"),
    ],
)
def test_what_cannot_be_curated_is_refused_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rows: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(rows.parent)
    Path("long.yaml").write_text("lengths: [{of: prompt, unit: words, at_least: 90}]\n")
    found = run_here(capsys, "data", "curate", *arguments)
    assert (found.code, said in found.err) == (code, True), found.err
    assert not Path("out.jsonl").exists()


@pytest.mark.real_data
@pytest.mark.invariants
def test_a_thousand_real_rows_balance_and_give_the_same_file_twice(
    capsys: pytest.CaptureFixture[str], real_data: Path, tmp_path: Path
) -> None:
    source = real_data / "instruct" / "dolly_hhrlhf_train_small.jsonl.gz"
    contents = []
    for name in ("one.jsonl", "two.jsonl"):
        found = run_here(
            capsys, "data", "curate", source, "--column", "completion=response", "--out", tmp_path / name, "--json"
        )
        account = json.loads(found.out)
        dropped = sum(entry["rows"] for entry in account["ledger"]["dropped"].values())
        assert (found.code, account["rows_in"], account["rows_kept"] + dropped) == (0, 1000, 1000)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    kept = [json.loads(line) for line in contents[0].splitlines()]
    assert len(kept) == account["rows_kept"] > 900 and set(kept[0]) == {"prompt", "response"}
