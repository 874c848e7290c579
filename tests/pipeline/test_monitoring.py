"""Monitors in runs of a tiny model and in suites: read after every stage, kept in the record, and holding where asked.

The first stage learns a list of answers and the second others, which makes it forget the first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from posttrain.core.errors import RecipeError, RefusedError, TerminatedError
from posttrain.pipeline import recipe as recipes
from posttrain.pipeline.monitoring import _read_numbers
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run_record import list_alarms
from posttrain.pipeline.suites import read_suite, read_suites
from tests.cli.commands import run_here
from tests.contracts.sources import REPOSITORY
from tests.pipeline.tiny_runs import Finished, Notes, StopInTraining, Workshop, make_rows, sft, task

FORGETTING = {"type": "forgetting", "tasks": ["kept"], "allowed_nats": 0.2}
SCHEMA = Path(recipes.__file__).with_name("run_schema.json")


def write_sets(folder: Path) -> None:
    make_rows(folder / "held_out.jsonl", 40, start=0)
    make_rows(folder / "kept_train.jsonl", 40, start=400)
    rows = [[{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "zzzz"}] for n in range(40)]
    (folder / "other.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))


def run(workshop: Workshop, *monitors: Any, gate: dict[str, Any] | None = None, **changes: Any) -> Finished:
    """Two stages, the second of which forgets what the first learned."""
    write_sets(workshop.folder)
    first = sft(name="first", data=[{"source": "kept_train.jsonl"}], steps=20, batch_size=12)
    second = sft(name="second", data=[{"source": "other.jsonl"}], steps=8, batch_size=12, learning_rate=2e-2, gate=gate)
    tasks = [
        {"name": "kept", "type": "perplexity", "data": {"source": "held_out.jsonl"}},
        task(data={"source": "kept_train.jsonl", "rows": 25}, parts=["stopped"]),
    ]
    override = ("step_zero", *changes.pop("override", ()))
    return workshop.run(first, second, evaluate=tasks, monitors=list(monitors), override=override, **changes)


def readings(done: Finished, name: str) -> dict[str, dict[str, Any]]:
    """The readings of a monitor by stage."""
    return {one["stage"]: one for one in done.record["monitors"] if one["monitor"] == name}


def test_the_stage_that_forgets_raises_an_alarm_and_the_others_do_not(workshop: Workshop) -> None:
    notes = Notes()
    done = run(workshop, FORGETTING, "auto", progress=notes)
    found = readings(done, "forgetting")
    assert {stage: one["status"] for stage, one in found.items()} == {
        "base": "unmeasured", "first": "silent", "second": "alarm",
    }  # fmt: skip
    assert [text for text in notes.notes if text.startswith("ALARM forgetting after second: kept costs ")] != []
    assert found["second"]["policy"] == done.hashes[1]
    # The base is asked about beside the parent, from the second stage on.
    changes = {stage: [f["name"] for f in one["figures"] if f["of"] == "change"] for stage, one in found.items()}
    assert changes["first"] == ["kept: nats per token over the parent"]
    assert changes["second"] == ["kept: nats per token over the parent", "kept: nats per token over the base"]
    (alarm,) = [one for one in list_alarms(done.folder) if one["monitor"] == "forgetting"]
    assert alarm == {"stage": "second", "monitor": "forgetting", "why": found["second"]["why"]}
    # `auto` leaves out what is named, and finds the rest.
    assert {one["monitor"] for one in done.record["monitors"]} == {"forgetting", "format", "verbosity"}
    jsonschema.validate(done.record, json.loads(SCHEMA.read_text()))


@pytest.mark.invariants
def test_a_run_that_is_stopped_or_cached_reads_the_same(workshop: Workshop) -> None:
    whole = run(workshop, FORGETTING, "auto", into="whole").record["monitors"]
    stop = StopInTraining(24)  # in the second stage
    with pytest.raises(TerminatedError):
        run(workshop, FORGETTING, "auto", progress=stop, should_stop=stop)
    assert {one["stage"] for one in workshop.finished().record["monitors"]} == {"base", "first"}
    assert run(workshop, FORGETTING, "auto").record["monitors"] == whole
    cached = run(workshop, FORGETTING, "auto")
    assert cached.statuses == ["cached", "cached"]
    assert cached.record["monitors"] == whole


def test_a_monitor_that_holds_stops_the_run_after_its_stage_until_it_is_overridden(workshop: Workshop) -> None:
    holding = {**FORGETTING, "on_alarm": "hold", "name": "memory"}
    with pytest.raises(RefusedError, match="memory raised an alarm: kept costs") as refused:
        run(workshop, holding)
    assert refused.value.exit_code == 8
    assert "--override monitor:memory" in refused.value.cure
    held = workshop.finished()
    assert held.record["status"] == "refused"
    assert readings(held, "memory")["second"]["status"] == "alarm"
    with pytest.raises(RefusedError, match="memory raised an alarm"):
        run(workshop, holding)
    done = run(workshop, holding, override=("monitor:memory",))
    assert (done.record["status"], done.statuses) == ("finished", ["cached", "cached"])
    assert "monitor:memory" in done.record["overrides"]


def test_a_policy_that_its_gate_rejected_is_read_and_holds_nothing_up(workshop: Workshop) -> None:
    gate = {"keep": [{"metric": "kept", "margin": 0.05}]}
    done = run(workshop, {**FORGETTING, "on_alarm": "hold"}, gate=gate)
    assert done.record["stages"][1]["gate"]["decision"] == "roll_back"
    assert readings(done, "forgetting")["second"]["status"] == "alarm"
    assert done.record["status"] == "finished"


def test_only_a_monitor_that_holds_can_be_overridden(workshop: Workshop) -> None:
    with pytest.raises(RecipeError, match="no check is called 'monitor:forgetting'"):
        run(workshop, FORGETTING, override=("monitor:forgetting",))


def test_a_number_of_the_rows_can_be_the_difficulty(workshop: Workshop) -> None:
    verbosity = {"type": "verbosity", "tasks": ["held_out"], "difficulty": "level"}
    done = run(workshop, verbosity)
    (curve, _) = readings(done, "verbosity")["second"]["curves"]
    assert curve["x_label"] == "level"
    assert [x for x, _ in curve["points"]] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("monitors", "found", "cure"),
    [
        ([{"type": "forgetting", "tasks": ["keptt"]}], "reads 'keptt', which is no task", "did you mean 'kept'"),
        ([FORGETTING, FORGETTING], "two monitors are named 'forgetting'", "a 'name'"),
        (["auto", "auto"], "'auto' stands twice", "leave one out"),
        ([{"type": "forgeting", "tasks": ["kept"]}], "no monitor is called 'forgeting'; did you mean 'forgetting'", ""),
        ([{**FORGETTING, "allowed_nat": 1}], "unknown key 'monitors.0.allowed_nat'", "did you mean 'allowed_nats'"),
        ([{**FORGETTING, "tasks": ["kept", "kept"]}], "each task may be named once", ""),
        ([3], "a monitor without 'type'", ""),
        ([{**FORGETTING, "name": "format"}], "is named 'format', which is another type", "it is called 'forgetting'"),
    ],
)
def test_monitors_that_cannot_be_read_are_refused_with_the_recipe(
    workshop: Workshop, monitors: list[Any], found: str, cure: str
) -> None:
    tasks = [{"name": "kept", "type": "perplexity", "data": {"source": "held_out.jsonl"}}]
    path = workshop.write(evaluate=tasks, monitors=monitors)
    with pytest.raises(RecipeError) as refused:
        read_recipe(path)
    assert found in refused.value.found and cure in refused.value.cure


def test_auto_of_a_recipe_without_a_task_for_it_is_refused(workshop: Workshop) -> None:
    with pytest.raises(RecipeError, match="'auto' finds no task to read"):
        read_recipe(workshop.write(monitors="auto"))


def test_the_suite_of_the_lab_and_the_demo_have_monitors() -> None:
    suite = read_suite("lab")
    assert [getattr(one, "type", None) for one in suite.monitors] == [
        "auto", "sycophancy", "over_refusal", "contamination",
    ]  # fmt: skip
    assert [one.label for one in read_recipe(REPOSITORY / "recipes" / "demo.yaml").monitors] == ["format", "verbosity"]


def write_suite(folder: Path, name: str, monitors: list[Any], *tasks: dict[str, Any]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"schema": 1, "name": name, "evaluate": tasks, "monitors": monitors}))
    return path


def test_auto_of_one_of_several_suites_stands_for_its_own_tasks(tmp_path: Path) -> None:
    (tmp_path / "held_out.jsonl").write_text('{"text": "a"}\n')
    kept = {"name": "kept", "type": "perplexity", "data": {"source": "held_out.jsonl"}}
    said = {"name": "said", "data": {"source": "held_out.jsonl"}}
    mine = write_suite(tmp_path, "mine", [{**FORGETTING, "name": "memory"}], kept, said)
    joined = read_suites(["lab", str(mine)])
    read = {one.label: list(one.tasks_read) for one in joined.monitors}  # type: ignore[attr-defined]
    assert read["memory"] == ["kept"]
    assert read["format"] and "said" not in read["format"]
    chosen = read_suites(["lab", str(mine)], only=["kept"])
    assert [one.label for one in chosen.monitors if one.label in ("format", "memory")] == ["memory"]  # type: ignore[attr-defined]
    write_suite(tmp_path, "mine", ["auto"], kept, said)
    with pytest.raises(RecipeError, match="two monitors are named 'format'"):
        read_suites(["lab", str(mine)])


def test_against_a_task_that_no_monitor_reads_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "held_out.jsonl").write_text('{"text": "a"}\n')
    kept = {"name": "kept", "type": "perplexity", "data": {"source": "held_out.jsonl"}}
    choice = {"name": "choices", "type": "choice", "data": {"source": "held_out.jsonl"}}
    mine = write_suite(tmp_path, "mine", ["auto"], kept, choice)
    refused = run_here(capsys, "eval", "lab:base", "--suite", mine, "--task", "choices", "--against", "lab:base")
    assert refused.code == 2
    assert "read none of choices" in refused.err and "choose another --task" in refused.err


def test_numbers_that_are_no_finite_float_are_left_out_of_the_columns() -> None:
    columns = {"level": 3, "huge": 10**400, "endless": float("inf"), "other": 1, "said": "yes"}
    assert _read_numbers(columns, ["level", "huge", "endless", "said", "gone"]) == {"level": 3.0}


def test_a_suite_reads_its_monitors_over_two_models(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(workshop)
    policies = [done.folder.artifacts / name for name in done.hashes]
    suite = workshop.folder / "suite.yaml"
    tasks = [{"name": "kept", "type": "perplexity", "data": {"source": "held_out.jsonl"}}]
    suite.write_text(json.dumps({"schema": 1, "name": "mine", "evaluate": tasks, "monitors": [FORGETTING]}))
    out = workshop.folder / "measured"
    here = run_here(capsys, "eval", policies[1], "--suite", suite, "--against", policies[0], "--out", out, "--json")
    assert here.code == 0, here.err
    printed = json.loads(here.out)
    assert printed["against"]["policy"] == done.hashes[0]
    (reading,) = printed["monitors"]
    assert (reading["monitor"], reading["status"]) == ("forgetting", "alarm")
    alone = run_here(capsys, "eval", policies[1], "--suite", suite, "--out", out)
    assert "unmeasured forgetting: kept: there is no parent to hold the policy against" in alone.out
    suite.write_text(json.dumps({"schema": 1, "name": "mine", "evaluate": tasks}))
    refused = run_here(capsys, "eval", policies[1], "--suite", suite, "--against", policies[0], "--out", out)
    assert refused.code == 2 and "has no monitors" in refused.err
