"""Gates carried out in runs of a tiny model: promotion, roll-back, hold, repairs, looks, overrides, baselines.

The first stage learns a list of answers; the second learns others and forgets the first, by how much its learning
rate says. What is kept is the probability that the policy gives to the first answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError, RefusedError, TerminatedError
from posttrain.models.manifest import load_manifest
from posttrain.pipeline.rounds import list_rounds
from posttrain.pipeline.run_gates import check_ranks
from posttrain.training.distributed import Ranks
from tests.pipeline.tiny_runs import Finished, Workshop, make_rows, sft

NUM_ROWS = 120
KEPT = {"metric": "kept", "margin": 0.12}


def write_sets(folder: Path) -> None:
    """Rows to keep (three splits) and rows to learn."""
    for name, start in (("held_out", 0), ("development", 200), ("kept_train", 400)):
        make_rows(folder / f"{name}.jsonl", NUM_ROWS, start=start)
    for name, start in (("other", 0), ("other_development", 500)):
        lines = []
        for index in range(start, start + NUM_ROWS):
            messages = [{"role": "user", "content": f"say {index}"}, {"role": "assistant", "content": "zzzz"}]
            lines.append(json.dumps({"messages": messages}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def tasks(**changes: Any) -> list[dict[str, Any]]:
    kept = {"name": "kept", "type": "perplexity", "data": {"source": "held_out.jsonl"}}
    learned = {"name": "learned", "type": "perplexity", "data": {"source": "other.jsonl"}}
    return [
        {**kept, "development": {"source": "development.jsonl"}, **changes},
        {**learned, "development": {"source": "other_development.jsonl"}},
    ]


def learn(**changes: Any) -> dict[str, Any]:
    """The stage that learns what is to be kept."""
    return sft(name="first", data=[{"source": "kept_train.jsonl"}], steps=30, batch_size=12, **changes)


def forget(gate: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """The stage that learns something else."""
    values = {"steps": 10, "batch_size": 12, "learning_rate": 2e-2, "gate": gate, **changes}
    return sft(name="second", data=[{"source": "other.jsonl"}], **values)


def run(workshop: Workshop, *stages: dict[str, Any], override: tuple[str, ...] = (), **changes: Any) -> Finished:
    write_sets(workshop.folder)
    return workshop.run(*stages, evaluate=tasks(), override=("step_zero", *override), **changes)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder of a workshop in whose run the first stage is trained and measured."""
    made = Workshop(tmp_path_factory.mktemp("begun") / "workshop", tiny_base)
    run(made, learn())
    return made.folder


@pytest.fixture
def workshop(tmp_path: Path, begun: Path) -> Workshop:
    return Workshop(tmp_path, None, begun=begun)


def gate_of(done: Finished, index: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = done.record["stages"][index]["gate"]
    return found


def test_a_stage_of_zero_steps_passes_every_keep_and_its_policy_is_passed_on(workshop: Workshop) -> None:
    keeps = [KEPT, {"metric": "learned", "margin": 0.01}]
    done = run(workshop, learn(), forget({"keep": keeps}, steps=0))
    gate = gate_of(done)
    assert gate["decision"] == "promote"
    assert {result["state"] for result in gate["attempts"][0]["decisions"][0]["results"]} == {"passed"}
    assert gate["promoted"] == done.hashes[1]
    assert done.record["status"] == "finished"


def test_a_stage_that_forgets_is_rolled_back_and_the_next_starts_from_the_parent(workshop: Workshop) -> None:
    third = sft(name="third", data=[{"source": "rows.jsonl"}], steps=1)
    done = run(workshop, learn(), forget({"keep": [KEPT]}), third)
    gate = gate_of(done, 1)
    first, second = done.hashes[:2]
    assert (gate["decision"], gate["promoted"]) == ("roll_back", first)
    assert done.record["stages"][2]["inputs"]["policy"] == first
    assert "keep kept failed" in gate["reason"]
    saved = json.loads(done.folder.gate(second).read_text())
    assert saved["decisions"]["second"]["decision"] == "roll_back"
    named = {(m["stage"], m["task"]): m for m in done.record["metrics"] if m["name"] == "token_probability"}
    assert named["second", "kept"]["value"] < named["first", "kept"]["value"] - 0.12
    assert named["second", "kept"]["policy"] == second


def test_interpolation_recovers_what_was_forgotten_and_the_record_shows_the_search(workshop: Workshop) -> None:
    rules = {"keep": [KEPT], "improve": [{"metric": "learned"}], "on_fail": ["interpolate"]}
    done = run(workshop, learn(), forget(rules))
    gate = gate_of(done)
    assert gate["decision"] == "promote"
    trained, repaired = gate["attempts"]
    assert (trained["repair"], trained["search"]) == (None, None)
    assert trained["decisions"][0]["action"] == "repair"
    candidates = repaired["search"]["candidates"]
    assert repaired["repair"] == "interpolate" and repaired["search"]["split"] == "development"
    weights = [candidate["settings"]["weight"] for candidate in candidates]
    assert weights == sorted(weights, reverse=True) and {0.75, 0.5, 0.25} <= set(weights)
    [chosen] = [candidate for candidate in candidates if candidate["is_chosen"]]
    assert chosen["policy"] == repaired["policy"] == gate["promoted"] == done.record["stages"][1]["outputs"]["policy"]
    assert [decision["attempts_used"] for decision in repaired["decisions"]] == [1]
    assert gate["looks"] == 2 and gate["earlier_looks"] == 0
    manifest = load_manifest(done.folder.artifacts / gate["promoted"])
    assert manifest.config["repair"] == "interpolate" and manifest.config["weight"] == chosen["settings"]["weight"]
    assert set(manifest.parents) == {done.hashes[0], trained["policy"]}
    values = {
        m["stage"]: m["value"]
        for m in done.record["metrics"]
        if (m["task"], m["name"]) == ("kept", "token_probability")
    }
    assert values["second, as trained"] < values["second"]
    assert values["second"] > values["first"] - 0.12


@pytest.mark.invariants
def test_looks_are_counted_over_configurations_of_the_run_folder(workshop: Workshop) -> None:
    first = run(workshop, learn(), forget({"keep": [KEPT]}))
    assert (gate_of(first)["looks"], gate_of(first)["earlier_looks"]) == (1, 0)
    again = run(workshop, learn(), forget({"keep": [KEPT]}))
    assert (gate_of(again)["looks"], gate_of(again)["earlier_looks"]) == (1, 0)
    changed = run(workshop, learn(), forget({"keep": [KEPT]}, learning_rate=5e-3))
    assert (gate_of(changed)["looks"], gate_of(changed)["earlier_looks"]) == (1, 1)


def test_a_gate_that_cannot_decide_holds_the_run_and_says_how_many_items_would_decide(workshop: Workshop) -> None:
    third = sft(name="third", data=[{"source": "rows.jsonl"}], steps=1)
    # About as much is lost as the margin allows: neither shown nor ruled out.
    stage = forget({"keep": [{"metric": "kept", "margin": 0.002}], "power": 0.9}, steps=1, learning_rate=1e-6)
    write_sets(workshop.folder)
    with pytest.raises(RefusedError, match="hold") as caught:
        workshop.run(
            learn(), stage, third, evaluate=tasks(data={"source": "held_out.jsonl", "rows": 8}), override=["step_zero"]
        )
    assert "--override gate:second" in str(caught.value.cure)
    done = workshop.finished()
    assert done.record["status"] == "refused"
    assert [entry["status"] for entry in done.record["stages"]] == ["cached", "finished", "pending"]
    assert gate_of(done, 1)["decision"] == "hold" and gate_of(done, 1)["promoted"] is None


def test_a_person_may_go_on_against_a_gate_and_the_record_says_so(workshop: Workshop) -> None:
    done = run(workshop, learn(), forget({"keep": [KEPT], "on_fail": ["interpolate"]}), override=("gate:second",))
    gate = gate_of(done)
    assert (gate["decision"], gate["is_overridden"], gate["promoted"]) == ("promote", True, done.hashes[1])
    assert len(gate["attempts"]) == 1
    assert gate["attempts"][0]["decisions"][0]["action"] == "repair"


@pytest.mark.invariants
def test_a_slow_leak_passes_every_parent_and_is_caught_against_the_baseline(workshop: Workshop) -> None:
    """Each of four stages loses little; together they lose more than the cumulative margin."""
    keep = {"metric": "kept", "margin": 0.2, "baseline": "first", "cumulative_margin": 0.25}
    leaks = [
        {
            **forget({"keep": [keep]}, steps=3, learning_rate=2e-3, schedule="constant", warmup_fraction=0.0),
            "name": f"leak{n}",
        }
        for n in range(5)
    ]
    done = run(workshop, learn(), *leaks)
    gates = [entry["gate"] for entry in done.record["stages"][1:]]
    decisions = [gate["decision"] for gate in gates]
    assert decisions[0] == "promote" and "roll_back" in decisions
    caught = gates[decisions.index("roll_back")]["attempts"][0]["decisions"][0]["results"]
    states = {result["against"]: result["state"] for result in caught}
    assert states == {"parent": "passed", "first": "failed"}


def test_several_looks_ask_a_growing_part_of_the_rows(workshop: Workshop) -> None:
    write_sets(workshop.folder)
    rules = {"keep": [{"metric": "kept", "margin": 0.3}], "looks": 3}
    done = workshop.run(learn(), forget(rules, steps=0), evaluate=tasks(), override=["step_zero"])
    decisions = gate_of(done)["attempts"][0]["decisions"]
    asked = [decision["results"][0]["figures"]["num_items"] for decision in decisions]
    assert asked == [40, 80, 120][: len(asked)] and len(asked) >= 1
    assert decisions[-1]["action"] == "promote"
    # What is passed on, and what no gate asks, is reported on all rows.
    shown = {(m["stage"], m["task"]): m["n"] for m in done.record["metrics"]}
    assert set(shown.values()) == {NUM_ROWS}


@pytest.mark.invariants
def test_a_gate_decides_again_what_it_decided_when_its_snapshots_are_gone(workshop: Workshop) -> None:
    rules = {"keep": [{"metric": "kept", "margin": 0.3}], "on_fail": ["best_checkpoint"]}
    stage = forget(rules, steps=9, learning_rate=5e-3, warmup_fraction=0.0, schedule="constant")
    first = run(workshop, learn(), stage)
    attempts = gate_of(first)["attempts"]
    assert attempts[1]["repair"] == "best_checkpoint" and attempts[1]["search"]["candidates"]
    assert not any(first.folder.stages.rglob("snapshots/*"))
    assert gate_of(run(workshop, learn(), stage)) == gate_of(first)


@pytest.mark.invariants
def test_a_stage_that_kept_no_weights_on_the_way_says_how_to_get_them(workshop: Workshop) -> None:
    run(workshop, learn(), forget({"keep": [KEPT]}))
    with pytest.raises(RefusedError, match="without keeping its weights") as caught:
        run(workshop, learn(), forget({"keep": [KEPT], "on_fail": ["best_checkpoint"]}))
    index = Path(str(caught.value.cure).split("remove ")[1].split(" and run")[0])
    index.unlink()
    done = run(workshop, learn(), forget({"keep": [KEPT], "on_fail": ["best_checkpoint"]}))
    assert gate_of(done)["attempts"][1]["search"]["candidates"]


def test_what_was_rolled_back_keeps_its_own_figures_whatever_later_gates_ask(workshop: Workshop) -> None:
    third = {**forget({"keep": [{"metric": "kept", "margin": 0.3, "baseline": "second"}]}, steps=0), "name": "third"}
    done = run(workshop, learn(), forget({"keep": [KEPT]}), third)
    refused = done.record["stages"][1]["outputs"]["policy"]
    assert {m["policy"] for m in done.record["metrics"] if m["stage"] == "second"} == {refused}
    one_policy = {(m["stage"], m["policy"]) for m in done.record["metrics"]}
    assert len(one_policy) == len({stage for stage, _ in one_policy})


def test_rounds_of_a_stage_keep_figures_of_their_own(workshop: Workshop) -> None:
    loose = {"keep": [{"metric": "kept", "margin": 0.9}]}
    done = run(workshop, learn(repeat=2), forget(loose, steps=1, learning_rate=1e-4))
    policies = {m["stage"]: m["policy"] for m in done.record["metrics"]}
    assert [policies[label] for label in ("first", "first (round 2)", "second")] == done.hashes


def test_a_run_that_is_stopped_inside_a_gate_has_decided_nothing(workshop: Workshop, monkeypatch: Any) -> None:
    def stop(*arguments: Any) -> None:
        raise TerminatedError("stopped as asked")

    monkeypatch.setattr("posttrain.pipeline.repair.interpolate_policies", stop)
    with pytest.raises(TerminatedError):
        run(workshop, learn(), forget({"keep": [KEPT], "on_fail": ["interpolate"]}))
    entry = workshop.finished().record["stages"][1]
    assert (entry["status"], entry["gate"], entry["outputs"]) == ("stopped", None, {})
    assert "no decision yet" in workshop.finished().folder.report.read_text()
    monkeypatch.undo()
    assert (
        gate_of(run(workshop, learn(), forget({"keep": [KEPT], "on_fail": ["interpolate"]})))["decision"] == "promote"
    )


@pytest.mark.invariants
def test_other_names_and_further_rules_do_not_hide_that_rows_were_looked_at(workshop: Workshop) -> None:
    run(workshop, learn(), forget({"keep": [KEPT]}))
    renamed = {**forget({"keep": [KEPT, {"metric": "learned", "margin": 0.9}]}), "name": "renamed"}
    assert gate_of(run(workshop, learn(), renamed))["earlier_looks"] == 1


def test_a_repair_is_never_searched_on_the_rows_that_decide(workshop: Workshop) -> None:
    write_sets(workshop.folder)
    task = {"name": "kept", "data": {"source": "lab:facts", "split": "development", "rows": 40}, "scorer": "lab"}
    gate = {"keep": [KEPT], "on_fail": ["interpolate"]}
    with pytest.raises(RecipeError, match="the very rows"):
        workshop.read(learn(), forget(gate), evaluate=[task])


def test_repairs_that_train_again_are_refused_before_several_processes_train(workshop: Workshop) -> None:
    write_sets(workshop.folder)
    rules = {"keep": [KEPT], "on_fail": ["smaller_learning_rate"]}
    rounds = list_rounds(workshop.read(learn(), forget(rules), evaluate=tasks()))
    check_ranks(rounds, Ranks())
    with pytest.raises(RefusedError, match="several processes"):
        check_ranks(rounds, Ranks(rank=0, count=2))


@pytest.mark.invariants
def test_training_again_with_replay_or_smaller_steps_makes_candidates_that_are_judged(workshop: Workshop) -> None:
    rules = {"keep": [KEPT], "on_fail": ["replay", "smaller_learning_rate"], "level": 0.1}
    done = run(workshop, learn(), forget(rules))
    searched = {attempt["repair"]: attempt["search"]["candidates"] for attempt in gate_of(done)["attempts"][1:]}
    assert [one["settings"] for one in searched["replay"]] == [{"replay_fraction": 0.25}, {"replay_fraction": 0.5}]
    clearances = [one["lowest"] for one in searched["replay"]]
    assert clearances[1] > clearances[0]  # more of what was learnt before keeps more of it
    if "smaller_learning_rate" in searched:
        assert [one["settings"]["learning_rate"] for one in searched["smaller_learning_rate"]] == [1e-2, 5e-3]


def test_a_run_that_is_started_again_decides_the_same_without_asking_again(workshop: Workshop) -> None:
    rules = {"keep": [KEPT], "on_fail": ["interpolate"]}
    first = run(workshop, learn(), forget(rules))
    items = sorted(path for path in (first.folder.root / "evaluations").rglob("*.jsonl"))
    bytes_before = {path: path.read_bytes() for path in items}
    again = run(workshop, learn(), forget(rules))
    assert gate_of(again) == gate_of(first)
    assert {path: path.read_bytes() for path in items} == bytes_before
    assert sorted((again.folder.root / "evaluations").rglob("*.jsonl")) == items


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"keep": [{"metric": "kpt", "margin": 0.05}]}, "did you mean 'kept'"),
        ({"keep": [{**KEPT, "baseline": "frist"}]}, "did you mean 'first'"),
        ({"keep": [{**KEPT, "baseline": "second"}]}, "baseline"),
        ({"keep": [{"metric": "kept/pass@4", "margin": 0.05}]}, "pass@4"),
        ({"keep": [KEPT], "on_fail": ["interpolat"]}, "interpolate"),
        ({"keep": [KEPT], "max_attempts": 2}, "on_fail"),
        ({"keep": [KEPT], "replay": [{"source": "rows.jsonl"}]}, "on_fail"),
        ({}, "without a rule"),
        ({"keep": [{"metric": "kept", "margin": 5}]}, "0.05"),
    ],
)
def test_a_gate_that_asks_for_what_is_not_there_is_refused_when_read(
    workshop: Workshop, gate: dict[str, Any], said: str
) -> None:
    write_sets(workshop.folder)
    with pytest.raises(RecipeError) as caught:
        workshop.read(learn(), forget(gate), evaluate=tasks())
    assert said in f"{caught.value.found} {caught.value.expected} {caught.value.cure}"
    assert "demo.yaml" in caught.value.place


def test_a_repair_needs_rows_to_search_on_and_replay_needs_something_to_replay(workshop: Workshop) -> None:
    write_sets(workshop.folder)
    with pytest.raises(RecipeError, match="no rows to search a repair on"):
        workshop.read(learn(), forget({"keep": [KEPT], "on_fail": ["interpolate"]}), evaluate=tasks(development=None))
    alone = forget({"keep": [KEPT], "on_fail": ["replay"]})
    with pytest.raises(RecipeError, match="nothing to replay"):
        workshop.read(alone, evaluate=tasks())
    workshop.read(learn(), alone, evaluate=tasks())
    named = forget({"keep": [KEPT], "on_fail": ["replay"], "replay": [{"source": "kept_train.jsonl"}]})
    workshop.read(named, evaluate=tasks())
