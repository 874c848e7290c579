"""A stage of pairs through a whole run: what it logs, step 0, that stops change nothing, sharing, alarm, refusals."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from posttrain.core.errors import PosttrainError, RecipeError, RefusedError, TerminatedError
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.previews import preview_rows
from posttrain.pipeline.recipe import read_recipe
from posttrain.stages.preference_family import METHODS
from tests.pipeline.preference_runs import LORA, dpo, make_pair_workshop, make_pairs
from tests.pipeline.tiny_runs import Finished, Notes, StopInTraining, Workshop, sft, task

LN2 = math.log(2)


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    return make_pair_workshop(tmp_path, tiny_base)


def weights(done: Finished, index: int = -1) -> dict[str, Any]:
    return {
        f"{path.name} {name}": tensor
        for path in sorted(done.artifact(index).rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def find_difference(one: Finished, other: Finished) -> float:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("changes", [{}, {"adapter": LORA}], ids=["full", "adapter"])
def test_dpo_begins_at_ln_2_and_drives_the_branches_apart(workshop: Workshop, changes: dict[str, Any]) -> None:
    done = workshop.run(dpo(steps=12, **changes, validation=[{"source": "held_pairs.jsonl"}], validate_every_steps=6))
    lines = [line for line in done.lines() if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(LN2, abs=1e-4)
    assert abs(lines[0]["rewards/margins"]) < 1e-4
    assert abs(lines[0]["logps/chosen_change"]) < 1e-5 and abs(lines[0]["logps/rejected_change"]) < 1e-5
    assert lines[-1]["loss"] < 0.5 * LN2 and lines[-1]["rewards/margins"] > 1
    assert lines[-1]["rewards/accuracies"] == 1.0
    assert lines[-1]["logps/chosen"] < 0 and lines[-1]["logps/chosen"] > lines[-1]["logps/rejected"]
    measured = [line for line in done.lines() if "validation/loss" in line]
    assert [line["step"] for line in measured] == [0, 6, 12]
    assert measured[0]["validation/loss"] == pytest.approx(LN2, abs=1e-4)
    assert measured[0]["validation/rewards/margins"] == pytest.approx(0, abs=1e-4)
    ledger = done.record["stages"][0]["ledger"]
    assert (ledger["rows_trained"], ledger["samples"]) == (10, 10)


@pytest.mark.parametrize(
    "stages",
    [
        [dpo(adapter=LORA)],
        [sft(adapter=LORA), dpo(adapter=LORA, adapter_start="continue")],
        [sft(adapter=LORA), dpo(adapter={"rank": 3}, adapter_start="stack")],
        [sft(adapter=LORA), dpo(adapter_start="merge")],
        [sft(), dpo(packing="off")],
        [sft(), dpo(share_prompts="off", activation_checkpointing="on")],
    ],
    ids=["adapter", "continued", "stacked", "merged", "padded", "apart"],
)
@pytest.mark.invariants
def test_the_first_loss_is_ln_2_however_the_policy_came_to_be(workshop: Workshop, stages: list[dict[str, Any]]) -> None:
    lines = workshop.run(*stages).lines(len(stages) - 1)
    assert lines[0]["loss"] == pytest.approx(LN2, abs=1e-4)
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.invariants
@pytest.mark.parametrize("algorithm", list(METHODS))
def test_every_member_lowers_its_loss_and_raises_the_margin(workshop: Workshop, algorithm: str) -> None:
    given = {} if algorithm == "dpo" else {"beta": None}
    lines = workshop.run(dpo(algorithm=algorithm, steps=6, batch_size=10, **given)).lines()
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["rewards/margins"] > lines[0]["rewards/margins"]
    assert math.isfinite(lines[-1]["grad_norm"])


CHANGES: list[dict[str, Any]] = [
    {},
    {"adapter": {"rank": 2, "dropout": 0.3}},
    {"algorithm": "simpo", "beta": None, "validation": [{"source": "held_pairs.jsonl"}],
     "keep": "best_validation_accuracy", "validate_every_steps": 1},
    {"dtype": "bfloat16", "micro_batch_tokens": 60, "log_every_steps": 3},
]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        CHANGES[0],
        pytest.param(CHANGES[1], marks=pytest.mark.invariants),
        pytest.param(CHANGES[2], marks=pytest.mark.invariants),
        pytest.param(CHANGES[3], marks=pytest.mark.invariants),
    ],
    ids=["full", "dropout", "reference-free", "bf16"],
)
def test_a_run_that_is_stopped_after_any_step_ends_as_one_that_was_not(
    workshop: Workshop, changes: dict[str, Any]
) -> None:
    whole = workshop.run(dpo(**changes), into="whole")
    for after in (1, 2, 3):
        into, stop = f"stopped-{after}", StopInTraining(after)
        with pytest.raises(TerminatedError):
            workshop.run(dpo(**changes), into=into, progress=stop, should_stop=stop)
        done = workshop.run(dpo(**changes), into=into)
        assert done.hashes == whole.hashes
        assert done.lines() == whole.lines()


def test_a_stop_among_the_reference_log_probs_loses_nothing(workshop: Workshop) -> None:
    stop = StopInTraining(1)
    with pytest.raises(TerminatedError):
        workshop.run(dpo(), into="stopped", progress=stop, should_stop=lambda: stop.is_training)
    assert workshop.run(dpo(), into="stopped").hashes == workshop.run(dpo(), into="whole").hashes


@pytest.mark.invariants
def test_sharing_prompts_packing_and_splitting_change_the_weights_by_rounding_only(workshop: Workshop) -> None:
    # A large epsilon, so that the update is in proportion to the gradient and rounding stays rounding.
    proportional = {"steps": 2, "learning_rate": 0.5, "epsilon": 1.0, "max_grad_norm": None}
    plain = workshop.run(dpo(**proportional), into="plain")
    for name, changes in (
        ("apart", {"share_prompts": "off"}),
        ("padded", {"packing": "off"}),
        ("small", {"micro_batch_tokens": 40}),
        ("padded and small", {"packing": "off", "micro_batch_tokens": 120}),
    ):
        assert find_difference(plain, workshop.run(dpo(**proportional, **changes), into=name)) < 1e-6


def test_reference_log_probs_are_computed_once_for_the_same_policy_and_rows(workshop: Workshop) -> None:
    workshop.run(dpo(), into="run")
    cache = workshop.folder / "run" / "cache" / "references"
    (kept,) = cache.iterdir()
    before = kept.stat().st_mtime_ns
    workshop.run(dpo(learning_rate=1e-3), into="run")
    assert list(cache.iterdir()) == [kept] and kept.stat().st_mtime_ns == before
    workshop.run(dpo(learning_rate=1e-4, packing="off"), into="run")
    assert len(list(cache.iterdir())) == 2
    workshop.run(dpo(algorithm="simpo", beta=None, learning_rate=1e-4), into="run")
    assert len(list(cache.iterdir())) == 2


def test_damaged_reference_log_probs_are_computed_again(workshop: Workshop) -> None:
    """A bit is turned, a half is there, nothing is, or what another set's run kept, of as many pairs."""
    make_pairs(workshop.folder / "others.jsonl", 10, start=20)
    cache = workshop.folder / "run" / "cache" / "references"
    workshop.run(dpo(data=[{"source": "others.jsonl"}], steps=1), into="run")
    (other,) = cache.iterdir()
    workshop.run(dpo(steps=1), into="run")
    (kept,) = set(cache.iterdir()) - {other}
    content = kept.read_bytes()
    turned = bytearray(content)
    turned[-3] ^= 1
    for rate, damaged in enumerate((bytes(turned), content[: len(content) // 2], b"", other.read_bytes()), start=1):
        kept.write_bytes(damaged)
        done = workshop.run(dpo(steps=1, learning_rate=rate * 1e-3), into="run")
        assert done.lines()[0]["loss"] == pytest.approx(LN2, abs=1e-4)
        assert kept.read_bytes() == content


SOAR = {"learning_rate": 0.3, "steps": 12, "logps_drop": 0.1}


def test_an_alarm_is_raised_where_both_log_probs_fall(workshop: Workshop) -> None:
    notes = Notes()
    done = workshop.run(dpo(**SOAR), progress=notes)
    raised = [note for note in notes.notes if note.startswith("alarm: ")]
    assert len(raised) == 1 and "nats a token" in raised[0]
    alarms = [line["logps/alarm"] for line in done.lines()]
    first = alarms.index(1.0)
    line = done.lines()[first]
    assert line["logps/chosen_change"] < -0.1 and line["logps/rejected_change"] < -0.1
    assert alarms == sorted(alarms)


@pytest.mark.parametrize("algorithm", ["dpo", pytest.param("simpo", marks=pytest.mark.invariants)])
def test_an_alarm_can_stop_the_stage_and_stays_raised_until_it_is_let_through(
    workshop: Workshop, algorithm: str
) -> None:
    stage = dpo(**SOAR, algorithm=algorithm, on_alarm="stop")
    with pytest.raises(RefusedError, match="nats a token"):
        workshop.run(stage)
    taken = len(workshop.finished().lines())
    assert taken < 12
    with pytest.raises(RefusedError, match="nats a token"):
        workshop.run(stage)
    assert len(workshop.finished().lines()) == taken
    done = workshop.run({**stage, "on_alarm": "warn"})
    assert len(done.lines()) == 12
    whole = workshop.run(dpo(**SOAR, algorithm=algorithm), into="whole")
    assert whole.hashes == done.hashes


def test_zero_steps_pass_the_policy_on(workshop: Workshop) -> None:
    done = workshop.run(dpo(steps=0))
    base = load_file(workshop.folder / "base" / "model.safetensors")
    made = load_file(done.artifact() / "model.safetensors")
    assert all(made[name].equal(base[name]) for name in base)
    assert not (workshop.folder / "run" / "cache" / "references").exists()


def test_a_gate_holds_the_stage_and_goes_back_to_a_snapshot(workshop: Workshop) -> None:
    ask = task(type="perplexity", development={"source": "rows.jsonl", "rows": 5})
    ask.pop("max_new_tokens")
    floor = {"metric": "held_out", "at_least": 0.9}
    gate = {"floor": [floor], "on_fail": ["best_checkpoint", "smaller_learning_rate", "interpolate"]}
    with contextlib.suppress(RefusedError):
        workshop.run(dpo(steps=6, learning_rate=0.1, gate=gate), evaluate=[ask])
    attempts = workshop.finished().record["stages"][0]["gate"]["attempts"]
    assert [one["repair"] for one in attempts][1] == "best_checkpoint"
    tried = [one["settings"] for one in attempts[1]["search"]["candidates"]]
    assert tried == [{"step": step} for step in range(1, 6)]


def test_the_plan_knows_steps_and_tokens_and_rows_are_shown_by_branch(workshop: Workshop) -> None:
    recipe = workshop.read(dpo(steps=None, epochs=2.0, batch_size=4))
    (stage,) = build_plan(recipe).stages
    done = workshop.run(dpo(steps=None, epochs=2.0, batch_size=4))
    assert stage.steps == 6 and stage.tokens == done.record["stages"][0]["tokens"]
    shown = preview_rows(recipe, "dpo", 2)
    assert [row["row_id"] for row in shown] == [
        "pairs.jsonl:1 chosen", "pairs.jsonl:1 rejected", "pairs.jsonl:2 chosen", "pairs.jsonl:2 rejected"
    ]  # fmt: skip
    trained = ["".join(text for text, _, _, is_trained in row["tokens"] if is_trained) for row in shown]
    assert trained == ["ant<|endoftext|>", "fox<|endoftext|>", "bee<|endoftext|>", "gnugnu<|endoftext|>"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 1.0}, "either epochs or steps"),
        ({"algorithm": "orpo", "length_normalisation": False}, "length_normalisation: true"),
        ({"loss": "ipo", "margin": 1.0}, "leave margin out"),
        ({"loss": "ipo", "length_penalty": 0.1}, "leave length_penalty out"),
        ({"smoothing": "robust"}, "set label_smoothing"),
        ({"length_normalisation": True, "length_penalty": 0.1}, "leave length_penalty out"),
        ({"keep": "best_validation_loss"}, "validation"),
        ({"on_alarm": "stop", "logps_drop": "off"}, "logps_drop"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"algorithm": "dop"}, "dpo"),
        ({"betta": 1.0}, "did you mean 'beta'"),
        ({"max_length": 4000}, "context"),
        ({"validation": [{"source": "held_pairs.jsonl", "proportion": 1.0}]}, "proportion"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused_with_the_cure(
    workshop: Workshop, changes: dict[str, Any], words: str
) -> None:
    if changes.get("logps_drop") == "off":
        changes = {**changes, "logps_drop": None}
        stage = {**dpo(**changes), "logps_drop": None}
    else:
        stage = dpo(**changes)
    with pytest.raises(RecipeError) as caught:
        workshop.run(stage)
    assert words in str(caught.value)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "2+2?", "chosen": "4", "rejected": "4"}, "the same"),
    ({"prompt": "2+2?", "chosen": "4", "rejected": ""}, "says nothing"),
    ({"prompt": [{"role": "user", "content": "a"}], "rejected": "x",
      "chosen": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}, "does not begin with the"),
    ({"prompt": "2+2?", "completion": "4"}, "a row of the type 'messages'"),
    ({"chosen": 4, "rejected": 5}, "not two texts"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "words"), BAD)
def test_a_pair_that_says_nothing_stops_the_start_or_is_counted(
    workshop: Workshop, row: dict[str, Any], words: str
) -> None:
    with (workshop.folder / "pairs.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(PosttrainError) as caught:
        workshop.run(dpo())
    assert words in str(caught.value)
    done = workshop.run(dpo(data=[{"source": "pairs.jsonl", "max_bad_fraction": 0.2}]))
    ledger = done.record["stages"][0]["ledger"]
    assert (ledger["rows_in"], ledger["rows_trained"], ledger["rows_dropped"]) == (11, 10, 1)


def test_rows_that_are_too_long_are_refused_with_a_limit_that_would_do(workshop: Workshop) -> None:
    with pytest.raises(RefusedError, match="more than 30 tokens") as caught:
        workshop.run(dpo(max_length=30))
    assert "drop or cut_oldest_turn" in str(caught.value)
    done = workshop.run(dpo(max_length=40, truncation="drop"))
    assert done.record["stages"][0]["ledger"]["dropped"]["too many tokens"]["rows"] > 0


def test_a_recipe_of_the_repository_trains_on_the_labs_pairs() -> None:
    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "lab_dpo.yaml")
    assert [entry.type for entry in recipe.stages] == ["sft", "preference"]
