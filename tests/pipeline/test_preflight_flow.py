"""When checks run, what is shown of them, and what `--override` takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.core.errors import EXIT_REFUSED, EXIT_USAGE, ModelError, RecipeError, RefusedError, TerminatedError
from posttrain.core.records import Artifact
from posttrain.models.manifest import load_manifest
from posttrain.pipeline.preflight.findings import Finding, build_refusal
from posttrain.pipeline.preflight.override_names import Overrides, list_override_names, read_overrides
from posttrain.pipeline.stage_kinds import sft as sft_kind
from posttrain.pipeline.store import ArtifactStore
from tests.cli.commands import run_here
from tests.pipeline.test_run import check_record
from tests.pipeline.tiny_runs import Finished, Notes, Workshop, sft, task

ROWS = ("truncation", "mask", "memory")
ROWS_WITH_TASKS = ("truncation", "contamination", "mask", "memory")

ANY_GATE = {"floor": [{"metric": "held_out/stopped", "at_least": 0.1}]}


def shown(done: Finished) -> list[tuple[str, str, str]]:
    return [(f["stage"], f["name"], f["status"]) for f in done.record["preflight"]]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of stages whose policy was looked at before the first step."""
    labels: list[str] = []
    real = sft_kind.check_step_zero

    def remember(label: str, *given: Any, **named: Any) -> Finding:
        labels.append(label)
        return real(label, *given, **named)

    monkeypatch.setattr(sft_kind, "check_step_zero", remember)
    return labels


class StopAfter:
    """Asks to stop once the training loop has asked so many times after a first step."""

    def __init__(self, workshop: Workshop, steps: int) -> None:
        self.path = workshop.folder / "run" / "stages" / "01-sft" / "metrics.jsonl"
        self.steps = steps

    def __call__(self) -> bool:
        return self.path.is_file() and len(self.path.read_text().splitlines()) >= self.steps


# ---- names


def test_checks_are_overridden_for_all_stages_for_one_or_for_a_task_and_gates_for_a_stage(workshop: Workshop) -> None:
    recipe = workshop.read(sft(gate=ANY_GATE), sft(name="more"), evaluate=[task()])
    known = list_override_names(recipe)
    assert {"mask", "sft:mask", "more:memory", "scorer", "evaluate.held_out:scorer", "gate:sft"} <= set(known)
    assert "gate:more" not in known  # it has none
    overrides = read_overrides(recipe, ["mask", "sft:memory", "evaluate.held_out:length_caps", "gate:sft", "mask"])
    assert overrides.names == ("mask", "sft:memory", "evaluate.held_out:length_caps", "gate:sft")
    assert overrides.covers("sft", "mask") and overrides.covers("more", "mask")
    assert overrides.covers("sft", "memory") and not overrides.covers("more", "memory")
    assert overrides.covers("evaluate.held_out", "length_caps") and not overrides.covers("sft", "length_caps")
    assert overrides.covers_gate("sft") and not overrides.covers_gate("more")
    assert not Overrides().covers("sft", "mask")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("maks", "did you mean 'mask'?"),
        ("sft:maks", "did you mean 'sft:mask'?"),
        ("sfd:mask", "did you mean 'sft:mask'?"),
        ("evaluate.held-out:scorer", "did you mean 'evaluate.held_out:scorer'?"),
        ("sft:scorer", "did you mean"),
        ("gate:stf", "did you mean 'gate:sft'?"),
        ("gate", "did you mean"),
        ("", "known: "),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_written(workshop: Workshop, name: str, cure: str) -> None:
    with pytest.raises(RecipeError, match="no check is called") as refused:
        workshop.run(sft(gate=ANY_GATE), evaluate=[task()], override=[name])
    assert refused.value.place == "--override" and cure in refused.value.cure
    assert not (workshop.folder / "run").exists()


def test_the_command_line_takes_names_and_says_how_a_refusal_is_let_through(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop.folder)
    run = ("run", workshop.write(sft(gate=ANY_GATE), evaluate=[task(max_new_tokens=3)]), "--folder", "run")
    refused = run_here(capsys, *run, "--json")
    error = json.loads(refused.out)["error"]
    assert refused.code == EXIT_REFUSED and error["place"] == "evaluate.held_out: length_caps"
    assert "--override evaluate.held_out:length_caps" in error["cure"]
    assert run_here(capsys, *run, "--override", "lenght_caps").code == EXIT_USAGE
    assert run_here(capsys, *run, "--override", "length_caps", "--override", "gate:sft").code == 0
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert record["overrides"] == ["length_caps", "gate:sft"]


def test_one_refusal_stands_at_its_place_and_names_what_lets_it_through_unless_nothing_does() -> None:
    finding = Finding("sft (round 2)", "step_zero", "refused", "found", "expected", "cure")
    assert build_refusal([finding]).cure.endswith("--override sft:step_zero")
    hopeless = Finding("sft", "mask", "refused", "found", "expected", "cure", is_overridable=False)
    assert build_refusal([hopeless]).cure == "cure"
    both = build_refusal([finding, hopeless]).describe()
    assert both.count("--override") == 1 and "2 checks refused this" in both


# ---- what runs when


def test_everything_passes_is_recorded_and_fits_the_schema(workshop: Workshop) -> None:
    notes = Notes()
    done = workshop.run(sft(), sft(name="more"), evaluate=[task()], progress=notes)
    check_record(done.record)
    assert shown(done) == [
        *[("evaluate.held_out", name, "passed") for name in ("length_caps", "scorer")],
        *[("sft", name, "passed") for name in ROWS_WITH_TASKS],
        *[("more", name, "passed") for name in ROWS_WITH_TASKS],
        ("sft", "step_zero", "passed"),
        ("more", "step_zero", "passed"),
    ]
    assert done.record["overrides"] == [] and load_manifest(done.artifact()).overrides == []
    figures = {f["name"]: f["figures"] for f in done.record["preflight"]}
    assert 0 < figures["mask"]["trained_fraction"] < 0.5 and figures["length_caps"]["proposed_max_new_tokens"] == 8
    assert "preflight: 11 checks passed" in notes.notes


def test_the_first_policy_is_looked_at_at_once_and_a_later_one_right_before_it_trains(
    workshop: Workshop, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: ArtifactStore, key: str) -> Artifact:
        raise ModelError("stopped before the first stage")

    with monkeypatch.context() as patched, pytest.raises(ModelError, match="stopped before"):
        patched.setattr(ArtifactStore, "find", stop)
        workshop.run(sft(), sft(name="more"))
    assert checked == ["sft"]
    workshop.run(sft(), sft(name="more"))
    assert checked == ["sft", "sft", "more"]


def test_each_round_is_looked_at_but_its_rows_once(workshop: Workshop, checked: list[str]) -> None:
    done = workshop.run(sft(repeat=3))
    assert checked == ["sft", "sft (round 2)", "sft (round 3)"]
    assert [name for _, name, _ in shown(done)] == [*ROWS, *["step_zero"] * 3]


def test_a_cached_stage_is_not_looked_at_again_and_what_was_found_is_still_shown(
    workshop: Workshop, checked: list[str]
) -> None:
    first = workshop.run(sft(), evaluate=[task()])
    again = workshop.run(sft(), evaluate=[task()])
    assert checked == ["sft"] and again.statuses == ["cached"]
    assert sorted(shown(again)) == sorted(shown(first))
    longer = workshop.run(sft(), sft(name="more"), evaluate=[task()])
    assert checked == ["sft", "more"] and longer.statuses == ["cached", "finished"]
    assert [f for f in longer.record["preflight"] if f["stage"] == "sft"] == [
        f for f in first.record["preflight"] if f["stage"] == "sft"
    ]


def test_what_was_found_of_another_configuration_is_not_shown(workshop: Workshop) -> None:
    workshop.run(sft(dtype="bfloat16"))
    done = workshop.run(sft())
    assert len(shown(done)) == 4
    back = workshop.run(sft(dtype="bfloat16"))  # its artifact is there, and the record before was of another
    assert back.statuses == ["cached"] and shown(back) == []


def test_a_stage_that_goes_on_from_a_checkpoint_keeps_what_was_found_before_it_began(
    workshop: Workshop, checked: list[str]
) -> None:
    long = sft(steps=6, checkpoint_every_steps=1)
    with pytest.raises(TerminatedError, match="after step"):
        workshop.run(long, should_stop=StopAfter(workshop, 3))
    done = workshop.run(long)
    assert checked == ["sft"] and ("sft", "step_zero", "passed") in shown(done)
    whole = workshop.run(long, into="whole")
    assert whole.hashes == done.hashes and checked == ["sft", "sft"]


def test_a_checkpoint_of_which_nothing_was_recorded_is_said_to_be_gone_on_from(
    workshop: Workshop, checked: list[str]
) -> None:
    long = sft(steps=6, checkpoint_every_steps=1)
    with pytest.raises(TerminatedError, match="after step"):
        workshop.run(long, should_stop=StopAfter(workshop, 3))
    (workshop.folder / "run" / "run.json").unlink()
    done = workshop.run(long)
    assert checked == ["sft"] and ("sft", "step_zero", "skipped") in shown(done)


def test_a_stage_whose_artifact_is_damaged_is_looked_at_before_it_is_made_again(
    workshop: Workshop, checked: list[str]
) -> None:
    first = workshop.run(sft(), sft(name="more"))
    (first.artifact(0) / "model.safetensors").write_bytes(b"")
    again = workshop.run(sft(), sft(name="more"))
    assert again.statuses == ["finished", "cached"] and again.hashes == first.hashes
    assert checked == ["sft", "more", "sft"]


def test_a_users_stage_and_those_after_it_are_looked_at_when_their_policy_is_there(
    workshop: Workshop, checked: list[str]
) -> None:
    (workshop.folder / "own.py").write_text(
        "from posttrain.core.config import Config\n\n\n"
        "def idle(config, inputs, parts, context):\n    return {'policy': parts.publish(parts.policy)}\n"
    )
    done = workshop.run({"name": "idle", "type": "own.py:idle"}, sft())
    assert checked == ["sft"] and [stage for stage, _, _ in shown(done)] == ["sft"] * 4


def test_a_refusal_leaves_the_record_and_the_report_and_trains_nothing(workshop: Workshop) -> None:
    with pytest.raises(RefusedError):
        workshop.run(evaluate=[task(max_new_tokens=3)])
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    check_record(record)
    assert record["status"] == "refused" and record["metrics"] == []
    assert [f["status"] for f in record["preflight"]].count("refused") == 1
    assert (workshop.folder / "run" / "report.html").is_file()
    assert not (workshop.folder / "run" / "artifacts").exists()
