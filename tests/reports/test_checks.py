"""Preflight, overrides and ways of measuring in a report; which items belong to which policy; what is no step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.hashing import hash_text
from posttrain.core.run_folder import EvaluationFolder, RunFolder
from posttrain.reports.checks import build_checks, build_overrides
from posttrain.reports.field_reader import FieldReader
from posttrain.reports.measuring import describe_settings, list_measuring
from posttrain.reports.page import build_report
from posttrain.reports.run_files import load_run
from tests.reports.made_up_gates import make_preflight
from tests.reports.made_up_run import POLICIES, TASKS, identity, items_path, make_run, write_run
from tests.reports.page_reader import PageReader


def read_report(root: Path) -> PageReader:
    return PageReader(build_report(root).read_text(encoding="utf-8"))


def test_findings_that_stopped_the_run_come_first_and_those_that_passed_are_folded() -> None:
    refused = make_preflight()[2] | {"status": "refused", "name": "memory"}
    checks = build_checks({"preflight": [*make_preflight(), refused]}, FieldReader())
    assert checks is not None
    assert [finding.status for finding in checks.urgent] == ["refused", "overridden"]
    assert [finding.status for finding in checks.others] == ["skipped", "passed", "passed"]
    assert checks.tally == "1 refused · 1 overridden · 1 skipped · 2 passed"
    overridden = checks.urgent[1]
    assert overridden.figures == [("clipped fraction", "0.27"), ("max new tokens", "32")]
    assert (overridden.expected, overridden.cure[:18]) == ("at most 20 %", "set max_new_tokens")


def test_a_finding_of_an_unknown_status_is_shown_among_the_first_and_noted() -> None:
    reader = FieldReader()
    checks = build_checks({"preflight": [make_preflight()[0] | {"status": "fine"}, 7]}, reader)
    assert checks is not None and [finding.status for finding in checks.urgent] == ["unreadable"]
    assert "run.json: preflight 1: status is 'fine', none of refused, overridden, skipped, passed." in reader.notes
    assert "run.json: preflight 2: 7 where a record is expected; it is left out." in reader.notes


def test_overrides_stand_above_everything_with_what_they_let_through(tmp_path: Path) -> None:
    page = read_report(write_run(tmp_path / "run"))
    top = page.text[: page.text.index("What was let through")]
    for expected in (
        "This run went on against 2 checks.",
        "sft-expert:length_caps",
        "27.0 % of 200 completions were cut at 32 tokens",
        "gate:sft-expert",
        "hold: keep tools unmeasured",
        "It was told to go on against memory too.",
    ):
        assert expected in top, expected
    begun = read_report(write_run(tmp_path / "begun", num_finished=0)).text
    assert "This run went on against a check." in begun and "told to go on" not in begun


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        (["length_caps"], []),
        (["sft-expert:length_caps"], []),
        (["sft:length_caps", "memory"], ["sft:length_caps", "memory"]),
        (["gate:sft"], ["gate:sft"]),
        (None, []),
    ],
)
def test_an_override_of_all_stages_or_of_one_counts_as_used_where_its_check_was_overridden(
    given: list[str] | None, unused: list[str]
) -> None:
    run: dict[str, Any] = {"preflight": make_preflight(), "overrides": given}
    found = build_overrides(run, build_checks(run, FieldReader()), [], FieldReader())
    assert [name for name, _ in found.used] == ["sft-expert:length_caps"]
    assert found.unused == unused


def test_a_run_without_preflight_says_that_none_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "name": "demo", "status": "running"}')
    page = read_report(tmp_path)
    assert "No check before the run is recorded." in page.text
    assert "went on against" not in page.text


def test_items_are_found_by_policy_task_and_the_first_twelve_digits_of_the_task_hash(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).evaluations("a" * 32)
    assert isinstance(folder, EvaluationFolder)
    assert (
        folder.items("facts", "0123456789abcdef") == tmp_path / "evaluations" / ("a" * 32) / "facts-0123456789ab.jsonl"
    )
    assert folder.card("facts", "0123456789abcdef").name == "facts-0123456789ab.json"
    files = load_run(write_run(tmp_path / "run"))
    assert {task: len(table) for task, table in files.items["base"].items()} == dict.fromkeys(TASKS, 200)
    table = files.items["sft-expert"][TASKS[0]]
    assert {table.read_item(place)["policy_hash"] for place in range(200)} == {POLICIES["sft-expert"]}


def test_a_metric_that_names_its_policy_gets_that_policys_items(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    run = json.loads((root / "run.json").read_text())
    for metric in run["metrics"]:
        if (metric["stage"], metric["task"]) == ("sft-expert", TASKS[0]):
            metric["policy"] = POLICIES["sft"]
    (root / "run.json").write_text(json.dumps(run))
    tables = load_run(root).items["sft-expert"]
    assert [tables[task].read_item(0)["policy_hash"] for task in TASKS] == [POLICIES["sft"], POLICIES["sft-expert"]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "../../secret"),
        ("task", "a/b"),
        ("task_hash", "../" * 10),
        ("task_hash", "A" * 32),
        ("policy", ".."),
        ("policy", ["x"]),
    ],
)
def test_no_path_is_built_from_a_name_that_is_more_than_a_name(tmp_path: Path, key: str, value: Any) -> None:
    root = write_run(tmp_path / "run")
    run = json.loads((root / "run.json").read_text())
    run["metrics"] = [metric | {key: value} for metric in run["metrics"][:1]]
    (root / "run.json").write_text(json.dumps(run))
    files = load_run(root)
    assert files.items == {}
    assert any("no items are looked for under such a task, hash and policy" in note for note in files.notes)


def test_items_that_are_not_there_yet_are_named_and_those_of_another_hash_are_not_taken(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    path = items_path(RunFolder(root), "sft", TASKS[0])
    path.rename(path.with_name(f"{TASKS[0]}-{'0' * 12}.jsonl"))
    files = load_run(root)
    assert len(files.items["sft"][TASKS[0]]) == 0
    assert f"{path.relative_to(root).as_posix()} is not there yet." in files.notes


def test_how_each_task_was_measured_is_shown_once_for_all_stages() -> None:
    rows = list_measuring(make_run(identity, 2), FieldReader())
    assert [(row.task, row.stages) for row in rows] == [(task, "base, sft, sft-expert") for task in TASKS]
    assert rows[0].settings == 'max new tokens 32 · greedy · stop ["###"] · scorer lab'
    assert rows[1].settings.endswith("scorer weighted of right, form, length")
    assert (rows[0].template, rows[0].task_hash) == (hash_text("template"), hash_text(TASKS[0]))
    assert describe_settings({"type": "choice", "top_p": None, "temperature": 0.7}) == "choice · temperature 0.7"


def test_a_rolled_back_policys_answers_are_shown_under_that_name_and_do_not_choose_the_samples(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    run = json.loads((root / "run.json").read_text())
    run["stages"][1]["gate"] |= {"decision": "roll_back", "is_overridden": False}
    (root / "run.json").write_text(json.dumps(run))
    page = read_report(root)
    assert "after sft-expert, rolled back" in page.text
    assert "200 items paired with base: 152 better, 0 worse, 48 the same" in page.text
