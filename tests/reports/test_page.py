"""The report: complete, self-contained, the same bytes for the same files, and nothing in it alive."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from posttrain.core.errors import StorageError
from posttrain.core.run_folder import RunFolder
from posttrain.reports.page import build_report
from tests.reports.made_up_run import TASKS, identity, items_path, make_run, write_lines, write_run
from tests.reports.page_reader import PageReader
from tests.reports.payloads import PAYLOADS


def read_report(root: Path) -> PageReader:
    return PageReader(build_report(root).read_text(encoding="utf-8"))


def test_a_finished_run_is_shown_with_results_curves_ledger_rows_samples_and_lineage(tmp_path: Path) -> None:
    page = read_report(write_run(tmp_path / "run"))
    assert page.faults == []
    for expected in (
        "88.5\u00a0%",
        "+83.5 improved",
        "83.3 – 92.2",
        "n\u00a0200 in 50 clusters",
        "truncated 97.0\u00a0%",
        "8,000 rows in = 7,955 trained on + 31 dropped: longer than max_length + 12 dropped: no trainable token",
        "39 tokens, 13 trained on",
        "200 items paired with base: 167 better, 0 worse, 33 the same",
        "What is 12 plus 5?",
        "correct",
        "base lab:seedling",
        "5.23.0",
        "learning_rate: 1e-3          # warm-up 5 %, then cosine",
        "nats/token",
        "tokens/s",
    ):
        assert expected in page.text, expected
    assert "missing or unreadable" not in page.text
    titles = re.findall(r"(Loss|Learning rate|Gradient norm|Throughput) by step", page.text)
    assert titles == ["Loss", "Learning rate", "Gradient norm", "Throughput"] * 2


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    first = build_report(write_run(tmp_path / "a" / "run")).read_bytes()
    second = build_report(write_run(tmp_path / "b" / "run")).read_bytes()
    assert first == second
    assert build_report(tmp_path / "a" / "run").read_bytes() == first


@pytest.mark.parametrize("shift", range(3))
def test_thirty_script_injections_in_every_place_stay_text(tmp_path: Path, shift: int) -> None:
    """Each text of unknown origin is a payload, another one at each place and in each of the three runs."""
    assert len(set(PAYLOADS)) == 30
    given = itertools.cycle(PAYLOADS[shift * 10 :] + PAYLOADS[: shift * 10])
    chosen: dict[str, str] = {}

    def poison(text: str) -> str:
        # The same text is poisoned in the same way, so that stages, tasks and items still match.
        return chosen.setdefault(text, next(given) + f" {len(chosen)}")

    root = write_run(tmp_path / "run", text=poison)
    assert len(chosen) > 60
    page = read_report(root)
    assert page.faults == []
    assert page.text.count("alert(1)") > 100
    clean = read_report(write_run(tmp_path / "clean"))
    assert set(page.tags) == set(clean.tags)
    assert page.tags.count("script") == clean.tags.count("script") == 2


def test_every_payload_is_shown_as_it_was_written(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    tokens = [[payload, 7, 3, 1] for payload in PAYLOADS]
    folder = RunFolder(root).stage(0, "sft")
    folder.preview.write_text(json.dumps([{"row_id": payload, "tokens": tokens} for payload in PAYLOADS[:8]]))
    page = read_report(root)
    assert page.faults == []
    shown = page.text.replace("·", " ").replace("→\t", "\t")
    for payload in PAYLOADS[:26]:
        assert payload in shown
    assert "⟨U+202E⟩<script>⟨U+202C⟩alert(1)⟨U+D800⟩" in shown
    assert "␀<scr␀ipt>" in shown
    assert "␛]0;owned␇" in shown


def test_a_run_in_progress_shows_what_is_there_and_says_what_is_missing(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", num_finished=1)
    page = read_report(root)
    assert page.faults == []
    assert "81.0\u00a0%" in page.text
    assert "Stage 2 (sft-expert) has written nothing yet." in page.text
    stage = RunFolder(root).stage(1, "sft-expert")
    write_lines(stage.metrics, [{"step": 1, "loss": 2.5}])
    with stage.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    page = read_report(root)
    assert "stages/02-sft-expert/metrics.jsonl: the last line is half written and left out." in page.text
    assert "stages/02-sft-expert/ledger.json is not there yet." in page.text
    assert "stages/02-sft-expert/rows.json is not there yet." in page.text


def test_a_run_that_has_only_begun_is_shown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "name": "demo", "status": "running"}')
    page = read_report(tmp_path)
    assert page.faults == []
    for expected in ("No stage has begun.", "recipe.yaml is missing.", "Nothing has been measured yet."):
        assert expected in page.text


GARBLED = b"\xff\xfe\x00{]\n"
DEEP = b'{"a":' * 100_000 + b"\n"


def other_files(root: Path) -> list[Path]:
    """Return the files that a report reads beside run.json."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml")]
    return sorted(path for path in files if path.name != "run.json")


def test_each_file_may_be_garbled_or_gone_and_is_named(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    assert len(other_files(root)) == 14
    for path in other_files(root):
        whole = path.read_bytes()
        path.write_bytes(GARBLED)
        page = read_report(root)
        assert page.faults == []
        assert path.relative_to(root).as_posix() in page.text or path.name == "recipe.yaml"
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["half", "empty", "garbled", "deep", "not objects", "gone"])
def test_all_files_may_be_damaged_at_once(tmp_path: Path, damage: str) -> None:
    root = write_run(tmp_path / "run")
    contents = {"empty": b"", "garbled": GARBLED, "deep": DEEP, "not objects": b"[1, null, {}, [7]]\n"}
    for path in other_files(root):
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(contents.get(damage, path.read_bytes()[: path.stat().st_size // 2]))
    page = read_report(root)
    assert page.faults == []
    assert "88.5\u00a0%" in page.text


@pytest.mark.parametrize(
    "content", [None, b"", b'{"schema": 1, "na', b"[]", b"\xff\xff", b'{"a":' * 100_000, b'{"n": ' + b"9" * 5000 + b"}"]
)
def test_a_missing_or_torn_run_json_is_an_error_with_a_cure(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StorageError) as error:
        build_report(tmp_path)
    assert error.value.cure
    assert str(tmp_path) in error.value.place
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("value", [None, "x", {"a": [None]}, 10**400], ids=["none", "text", "record", "giant"])
def test_a_value_of_the_wrong_type_below_any_key_of_run_json_does_no_harm(tmp_path: Path, value: object) -> None:
    whole = make_run(identity, 2)
    for key in whole:
        (tmp_path / "run.json").write_text(json.dumps({**whole, key: value}))
        assert read_report(tmp_path).faults == []


@pytest.mark.invariants
def test_values_of_the_wrong_type_anywhere_in_run_json_do_no_harm(tmp_path: Path) -> None:
    root, whole = tmp_path, make_run(identity, 2)
    for stage in whole["stages"]:
        stage["gate"] = None  # what stands inside a gate has a test of its own
    odd = (None, 7, -1e308, "x", [], {}, [[{}]], {"a": [None]}, True, 10**400)
    for key in whole:
        for value in odd:
            (root / "run.json").write_text(json.dumps({**whole, key: value}))
            assert read_report(root).faults == []
    for part in ("stages", "metrics", "artifacts"):
        for key in whole[part][0]:
            for value in odd:
                entries = [{**entry, key: value} for entry in whole[part]]
                (root / "run.json").write_text(json.dumps({**whole, part: [*entries, value]}))
                assert read_report(root).faults == []


def test_files_outside_the_run_folder_are_not_read_through_links(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    items = tmp_path / "items.jsonl"
    write_lines(items, [{"item_id": "hunter2", "text": "hunter2"}])
    (root / "recipe.yaml").unlink()
    (root / "recipe.yaml").symlink_to(secret)
    stolen = items_path(RunFolder(root), "base", TASKS[0])
    stolen.unlink()
    stolen.symlink_to(items)
    page = read_report(root)
    assert "hunter2" not in page.text
    assert "recipe.yaml is missing." in page.text


def test_long_rows_and_answers_are_cut_and_the_rest_is_counted(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    stage = RunFolder(root).stage(1, "sft-expert")
    stage.preview.write_text(json.dumps([{"row_id": "long", "tokens": [["ab", 1, 3, 1]] * 2000}]))
    path = items_path(RunFolder(root), "sft-expert", TASKS[0])
    items = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [{**item, "text": "y" * 100_000} for item in items])
    page = read_report(root)
    assert "2000 tokens, 2000 trained on" in page.text
    assert "… 1520 more tokens" in page.text
    assert "… 98400 more characters" in page.text
    assert (root / "report.html").stat().st_size < 600_000
