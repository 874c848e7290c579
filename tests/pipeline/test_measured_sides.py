"""What a name in a comparison stands for, and that files of other forms are refused with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError, StorageError
from posttrain.core.hashing import hash_text
from posttrain.pipeline.comparing import compare_sides
from posttrain.pipeline.measured_sides import find_side
from tests.pipeline.test_gates import KEPT, forget, learn
from tests.pipeline.test_gates import run as run_gated
from tests.pipeline.tiny_runs import Workshop

BASE, MADE, MERGED = (hash_text(name) for name in ("base", "made", "merged"))
TASK = "0123456789abcdef0123456789abcdef"


def write_card(folder: Path, policy: str, **changes: Any) -> Path:
    """Write a card and an empty item file of a policy."""
    card = {
        "schema": 1, "task": "held_out", "task_hash": TASK, "rows": "data", "policy": policy, "template": "t",
        "tokenizer": "k", "context_tokens": 64, "dtype": "float32", "seed": 0, "metric": "exact_match", "parts": [],
        "settings": {}, "num_problems": 5, **changes,
    }  # fmt: skip
    path = folder / "evaluations" / policy / f"{card['task']}-{str(card['task_hash'])[:12]}-{len(changes)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in card.items() if value != "left out"}))
    path.with_suffix(".jsonl").write_text("")
    return path


def write_run(folder: Path, gate: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write what comparisons read of a run: a base, and a stage with what its gate decided."""
    metrics = [
        {"stage": stage, "task": "held_out", "task_hash": TASK, "policy": policy}
        for stage, policy in (("base", BASE), ("sft", MADE))
    ]
    stages = [{"name": "sft", "outputs": {"policy": MADE}, "gate": gate}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"metrics": metrics, "stages": stages, **changes}))
    for policy in (BASE, MADE, MERGED):
        write_card(folder, policy)
    return folder


@pytest.mark.parametrize(
    ("gate", "policy", "noted"),
    [
        (None, MADE, ""),
        ({"decision": "promote", "promoted": MADE}, MADE, ""),
        ({"decision": "hold", "promoted": None}, MADE, ""),
        ({"decision": "roll_back", "promoted": BASE}, BASE, "which the gate of 'sft' went on with"),
        ({"decision": "promote", "promoted": MERGED}, MERGED, "which the gate of 'sft' went on with"),
    ],
)
def test_a_run_stands_for_the_policy_that_it_passed_on(tmp_path: Path, gate: Any, policy: str, noted: str) -> None:
    side = find_side(str(write_run(tmp_path / "demo", gate)))
    assert side.policy_hash == policy and side.folder.name == policy
    assert noted in "".join(side.notes) and bool(side.notes) == bool(noted)


@pytest.mark.parametrize(
    ("gate", "noted"),
    [
        ({"decision": "promote", "promoted": MADE}, ""),
        ({"decision": "hold", "promoted": None}, "the run went on with nothing"),
        ({"decision": "roll_back", "promoted": BASE}, f"was not passed on by its gate: the run went on with {BASE}"),
    ],
)
def test_a_stage_that_was_rolled_back_is_compared_and_said_to_be(tmp_path: Path, gate: Any, noted: str) -> None:
    side = find_side(f"{write_run(tmp_path / 'demo', gate)}:sft")
    assert side.policy_hash == MADE
    assert noted in "".join(side.notes) and bool(side.notes) == bool(noted)


def test_rows_for_selection_are_no_result(tmp_path: Path) -> None:
    write_card(tmp_path, MADE, rows="development")
    with pytest.raises(RecipeError, match=r"nothing that .* answered"):
        find_side(str(tmp_path / "evaluations" / MADE))
    write_card(tmp_path, MADE)
    write_card(tmp_path, MADE, rows="development", seed=0)
    assert find_side(str(tmp_path / "evaluations" / MADE)).cards["held_out"]["rows"] == "data"


METRIC = {"stage": "sft", "task": "held_out", "task_hash": TASK, "policy": MADE}
STAGE = {"name": "sft", "outputs": {"policy": MADE}, "gate": None}


@pytest.mark.parametrize(
    "record",
    [
        "{}",
        "[]",
        "3",
        "{",
        {"metrics": [3]},
        {"metrics": None},
        {"metrics": [{**METRIC, "policy": "../../elsewhere"}]},
        {"metrics": [{**METRIC, "policy": "0" * 31 + "\n"}]},
        {"metrics": [{**METRIC, "policy": {}}]},
        {"metrics": [{**METRIC, "stage": ["sft"]}]},
        {"metrics": [{**METRIC, "task": 3}]},
        {"metrics": [{"stage": "sft", "policy": MADE}]},
        {"stages": [{**STAGE, "outputs": {"policy": ".."}}]},
        {"stages": [{**STAGE, "outputs": None}]},
        {"stages": [{**STAGE, "gate": {}}]},
        {"stages": [{**STAGE, "gate": {"promoted": "/etc"}}]},
    ],
)
def test_a_record_that_is_no_runs_is_refused_with_its_place_and_a_cure(tmp_path: Path, record: Any) -> None:
    run = write_run(tmp_path / "demo", **(record if isinstance(record, dict) else {}))
    if isinstance(record, str):
        (run / "run.json").write_text(record)
    with pytest.raises(StorageError) as caught:
        find_side(str(run))
    assert caught.value.place == str(run / "run.json") and caught.value.cure


@pytest.mark.parametrize(
    "change",
    [
        {"task": 3},
        {"task": ["held_out"]},
        {"task_hash": None},
        {"parts": "left out"},
        {"parts": "stopped"},
        {"parts": [3]},
        {"rows": "left out"},
        {"rows": "all"},
        {"settings": []},
        {"seed": "0"},
        {"metric": {}},
        {"tokenizer": 3},
    ],
)
def test_a_card_of_another_form_is_refused_with_its_place_and_a_cure(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_card(tmp_path, MADE, **change)
    with pytest.raises(StorageError, match="not the card") as caught:
        find_side(str(tmp_path / "evaluations" / MADE))
    assert caught.value.place == str(path) and "measure the policy again" in caught.value.cure


@pytest.mark.parametrize("name", ["artifacts/..", "artifacts/../..", "artifacts/" + "0" * 33])
def test_no_name_leads_out_of_a_run(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "demo")
    write_card(tmp_path / "demo" / "evaluations", "..")
    with pytest.raises(RecipeError, match="names nothing"):
        find_side(f"{run}/{name}")


def test_a_run_that_rolled_its_last_stage_back_is_compared_by_what_it_passed_on(workshop: Workshop) -> None:
    done = run_gated(workshop, learn(), forget({"keep": [KEPT]}))
    root, (first, second) = done.folder.root, done.hashes
    assert find_side(str(root)).policy_hash == first
    rolled_back = find_side(f"{root}:second")
    assert (rolled_back.policy_hash, len(rolled_back.notes)) == (second, 1)
    found = compare_sides(find_side(f"{root}:first"), rolled_back)
    assert rolled_back.notes[0] in found.notes
    worse = {metric.task: metric.verdict for metric in found.metrics if metric.name == "bits_per_byte"}
    assert worse == {"kept": "worse", "learned": "better"}
