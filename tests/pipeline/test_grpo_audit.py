"""The audit in a run: an alarm is told, recorded and shown, may stop the stage, and changes no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from posttrain.core.errors import RecipeError, RefusedError, TerminatedError
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from tests.pipeline.grpo_runs import OWN, make_workshop, rl
from tests.pipeline.tiny_runs import Notes, StopInTraining, Workshop

AUDIT = {"scorer": "own.py:brevity", "level": 0.1}


def audited(audit: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    watched = {} if audit is None else {"audit": audit}
    values = {"steps": 6, "problems_per_step": 6, "learning_rate": 1e-3, "checkpoint_every_steps": 100}
    return rl(**{**values, **watched, **changes})


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, tiny_base, monkeypatch)


def run(
    workshop: Workshop,
    values: dict[str, Any],
    name: str,
    *,
    override: tuple[str, ...] = (),
    stop: StopInTraining | None = None,
) -> tuple[dict[str, Any], Notes]:
    path = workshop.folder / f"{name}.yaml"
    path.write_text(json.dumps({**values, "folder": f"runs/{name}"}))
    notes = stop or Notes()
    arguments = {} if stop is None else {"should_stop": stop}
    run_recipe(read_recipe(path), progress=notes, override=["length_caps", *override], **arguments)
    return read_record(workshop, name), notes


def read_record(workshop: Workshop, name: str) -> dict[str, Any]:
    return json.loads((workshop.folder / "runs" / name / "run.json").read_text())


def output(record: dict[str, Any]) -> str:
    return record["stages"][0]["outputs"]["policy"]


def test_an_alarm_is_told_recorded_and_shown_and_changes_no_weights(workshop: Workshop) -> None:
    plain, _ = run(workshop, audited(None), "plain")
    record, notes = run(workshop, audited(AUDIT), "audited")
    assert record["status"] == "finished"
    weights = [
        (workshop.folder / "runs" / name / "artifacts" / output(one) / "model.safetensors").read_bytes()
        for name, one in (("plain", plain), ("audited", record))
    ]
    assert weights[0] == weights[1]
    [reading] = record["monitors"]
    assert (reading["monitor"], reading["stage"], reading["status"]) == ("audit", "rl", "alarm")
    assert "finds worse" in reading["why"] and reading["policy"] == output(record) and reading["examples"]
    assert [curve["name"].split(",")[0] for curve in reading["curves"]][:2] == ["reward", "audit"]
    assert all("alarm at step" in curve["name"] for curve in reading["curves"])
    assert len(reading["curves"][0]["points"]) == 6
    schema = json.loads((Path(__file__).parents[2] / "src/posttrain/pipeline/run_schema.json").read_text())
    jsonschema.validate(record, schema)
    assert any(note.startswith("ALARM audit of rl at step") for note in notes.notes)
    page = (workshop.folder / "runs" / "audited" / "report.html").read_text()
    assert "finds worse" in page and "hack/selection" in page
    again, _ = run(workshop, audited(AUDIT), "audited")
    assert again["stages"][0]["status"] == "cached" and again["monitors"] == record["monitors"]


def test_an_alarm_that_stops_is_a_refusal_until_it_is_gone_against(workshop: Workshop) -> None:
    noted, _ = run(workshop, audited(AUDIT), "noted")
    stopping = audited({**AUDIT, "on_alarm": "stop"})
    for _ in range(2):  # started again, it stops again, at once
        with pytest.raises(RefusedError, match="the audit raised an alarm at step") as caught:
            run(workshop, stopping, "stopped")
        assert "--override audit:rl" in caught.value.cure and caught.value.place == "rl: audit"
    record = read_record(workshop, "stopped")
    assert record["status"] == "refused" and record["monitors"][0]["status"] == "alarm"
    record, _ = run(workshop, stopping, "stopped", override=("audit:rl",))
    assert record["status"] == "finished" and record["overrides"] == ["length_caps", "audit:rl"]
    files = [
        workshop.folder / "runs" / name / "artifacts" / output(one) / "model.safetensors"
        for name, one in (("noted", noted), ("stopped", record))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(RecipeError, match="audit:lr"):
        run(workshop, stopping, "misspelt", override=("audit:lr",))


def test_an_honest_reward_is_silent_and_a_stop_on_the_way_changes_nothing_that_is_read(workshop: Workshop) -> None:
    honest = audited({"scorer": "own.py:length", "on_alarm": "stop"}, checkpoint_every_steps=2)
    whole, _ = run(workshop, honest, "whole")
    with pytest.raises(TerminatedError):
        run(workshop, honest, "parted", stop=StopInTraining(2))
    assert read_record(workshop, "parted")["monitors"][0]["status"] == "silent"
    parted, _ = run(workshop, honest, "parted")
    assert parted["monitors"] == whole["monitors"] and whole["monitors"][0]["status"] == "silent"
    assert output(parted) == output(whole)


@pytest.mark.invariants
def test_another_audit_is_another_stage_and_none_has_the_name_that_it_always_had(workshop: Workshop) -> None:
    keys = {}
    for name, audit in (
        ("none", None),
        ("one", AUDIT),
        ("other", {**AUDIT, "scorer": {"type": "length", "low": 2, "high": 3}}),
    ):
        record, _ = run(workshop, audited(audit, steps=1), name)
        keys[name] = record["stages"][0]["key"]
    (workshop.folder / "own.py").write_text(OWN.replace("-float", "-2 * float"))
    changed, _ = run(workshop, audited(AUDIT, steps=1), "changed")
    assert len({*keys.values(), changed["stages"][0]["key"]}) == 4


@pytest.mark.parametrize(
    ("audit", "found"),
    [
        ({"scorer": "nobody"}, "nobody"),
        ({"scorer": "own.py:nobody"}, "nobody"),
        ({"scorer": "lab", "every_steps": 0}, "every_steps"),
        ({"scorer": "lab", "level": 0.5}, "level"),
        ({"scorer": "lab", "on_alarm": "hold"}, "on_alarm"),
        ({}, "scorer"),
    ],
    ids=str,
)
def test_an_audit_that_cannot_be_is_refused_when_the_recipe_is_read(
    workshop: Workshop, audit: dict[str, Any], found: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        run(workshop, audited(audit), "bad")
    assert found in f"{caught.value.found} {caught.value.expected} {caught.value.cure}"
