"""A stage of labelled completions through a whole run: what it logs, step 0, that stops change nothing, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from posttrain.core.errors import DataError, PosttrainError, RecipeError, TerminatedError
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.previews import preview_rows
from tests.pipeline.kto_runs import labelled, make_labelled_workshop
from tests.pipeline.preference_runs import LORA
from tests.pipeline.tiny_runs import WORDS, Finished, Notes, StopInTraining, Workshop, sft


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    return make_labelled_workshop(tmp_path, tiny_base)


def find_difference(one: Finished, other: Finished) -> float:
    ours, theirs = (load_file(done.artifact() / "model.safetensors") for done in (one, other))
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize(("loss", "first"), [("kto", 0.5), ("bco", math.log(2))])
def test_rewards_begin_at_0_and_the_labels_are_driven_apart(workshop: Workshop, loss: str, first: float) -> None:
    held = {"validation": [{"source": "held_labelled.jsonl"}], "validate_every_steps": 6}
    done = workshop.run(labelled(loss=loss, steps=12, batch_size=12, **held))
    lines = [line for line in done.lines() if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(first, abs=1e-4)
    for key in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "kl_point" if loss == "kto" else "reward_shift",
    ):
        assert abs(lines[0][key]) < 1e-4
    assert lines[-1]["loss"] < 0.8 * first and lines[-1]["rewards/margins"] > 0.5
    assert lines[-1]["logps/chosen"] > lines[0]["logps/chosen"]
    measured = [line for line in done.lines() if "validation/loss" in line]
    assert [line["step"] for line in measured] == [0, 6, 12]
    assert measured[0]["validation/loss"] == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize(
    "stages",
    [
        [labelled(adapter=LORA)],
        [sft(adapter=LORA), labelled(adapter=LORA, adapter_start="continue")],
        [sft(adapter=LORA), labelled(adapter={"rank": 3}, adapter_start="stack")],
        [sft(adapter=LORA), labelled(adapter_start="merge")],
        [sft(), labelled(packing="off", activation_checkpointing="on")],
    ],
    ids=["adapter", "continued", "stacked", "merged", "padded"],
)
def test_rewards_and_kl_begin_at_0_however_the_policy_came_to_be(
    workshop: Workshop, stages: list[dict[str, Any]]
) -> None:
    lines = workshop.run(*stages).lines(len(stages) - 1)
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert lines[0]["kl_point"] < 1e-5 and abs(lines[0]["rewards/margins"]) < 1e-5
    assert lines[-1]["rewards/margins"] > 1e-4


STOPS: list[Any] = [
    pytest.param({}, (3,), id="kto"),
    pytest.param({"loss": "bco", "log_every_steps": 3}, (2,), id="bco"),
    *(
        pytest.param(changes, (1, 2, 3), id=name, marks=pytest.mark.invariants)
        for name, changes in {
            "dropout": {"adapter": {"rank": 2, "dropout": 0.3}, "loss": "bco"},
            "validation": {
                "validation": [{"source": "held_labelled.jsonl"}],
                "keep": "best_validation_loss",
                "validate_every_steps": 1,
            },
            "bf16": {"dtype": "bfloat16", "micro_batch_tokens": 60, "log_every_steps": 3},
        }.items()
    ),
]


@pytest.mark.parametrize(("changes", "stops"), STOPS)
def test_a_run_that_is_stopped_after_a_step_ends_as_one_that_was_not(
    workshop: Workshop, changes: dict[str, Any], stops: tuple[int, ...]
) -> None:
    whole = workshop.run(labelled(**changes), into="whole")
    for after in stops:
        into, stop = f"stopped-{after}", StopInTraining(after)
        with pytest.raises(TerminatedError):
            workshop.run(labelled(**changes), into=into, progress=stop, should_stop=stop)
        done = workshop.run(labelled(**changes), into=into)
        assert done.hashes == whole.hashes
        assert done.lines() == whole.lines()


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_packing_and_splitting_change_the_weights_by_rounding_only(workshop: Workshop, loss: str) -> None:
    # A large epsilon, so that the update is in proportion to the gradient and rounding stays rounding.
    proportional = {"loss": loss, "steps": 3, "learning_rate": 0.5, "epsilon": 1.0, "max_grad_norm": None}
    plain = workshop.run(labelled(**proportional), into="plain")
    for name, changes in (("padded", {"packing": "off"}), ("one by one", {"micro_batch_tokens": 1})):
        assert find_difference(plain, workshop.run(labelled(**proportional, **changes), into=name)) < 1e-6


def test_a_step_of_one_row_has_a_point_from_another_rows_completion(workshop: Workshop) -> None:
    lines = workshop.run(labelled(batch_size=1, steps=12, learning_rate=0.05)).lines()
    assert all(math.isfinite(line["kl_point"]) and line["kl_point"] >= 0 for line in lines)
    assert max(line["kl_point"] for line in lines) > 0


def test_pairs_are_two_rows_each_and_train_beside_labelled_ones(workshop: Workshop) -> None:
    both = [{"source": "pairs.jsonl"}, {"source": "labelled.jsonl"}]
    done = workshop.run(labelled(data=both))
    ledger = done.record["stages"][0]["ledger"]
    assert (ledger["rows_in"], ledger["rows_trained"], ledger["samples"]) == (32, 32, 32)
    with pytest.raises(PosttrainError, match="a row of the type 'preference'"):
        workshop.run(labelled(data=both, pairs="refuse"), into="refused")


def test_reference_log_probs_are_kept_of_own_and_of_mismatched_completions(workshop: Workshop) -> None:
    workshop.run(labelled(), into="run")
    cache = workshop.folder / "run" / "cache" / "references"
    kept = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(kept) == 2
    workshop.run(labelled(learning_rate=1e-3, desirable_weight=2.0), into="run")
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == kept
    workshop.run(labelled(loss="bco"), into="run")  # of its own completions only, known already
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == kept


def test_zero_steps_pass_the_policy_on(workshop: Workshop) -> None:
    done = workshop.run(labelled(steps=0))
    base = load_file(workshop.folder / "base" / "model.safetensors")
    made = load_file(done.artifact() / "model.safetensors")
    assert all(made[name].equal(base[name]) for name in base)


def test_the_plan_knows_steps_and_tokens_and_rows_are_shown_with_their_label(workshop: Workshop) -> None:
    stage = labelled(steps=None, epochs=2.0, batch_size=5)
    recipe = workshop.read(stage)
    (planned,) = build_plan(recipe).stages
    done = workshop.run(stage)
    assert planned.steps == 6 and planned.tokens == done.record["stages"][0]["tokens"]
    shown = preview_rows(recipe, "kto", 2)
    assert [row["row_id"] for row in shown] == ["labelled.jsonl:1 undesirable", "labelled.jsonl:2 desirable"]
    trained = ["".join(text for text, _, _, is_trained in row["tokens"] if is_trained) for row in shown]
    assert trained == ["fox<|endoftext|>", "bee<|endoftext|>"]


def test_how_the_labels_weigh_is_noted(workshop: Workshop) -> None:
    notes = Notes()
    workshop.run(labelled(steps=1), progress=notes)
    assert any("8 desirable and 4 undesirable rows; together they weigh 2 to 1; advised" in one for one in notes.notes)


def write_rows(workshop: Workshop, *rows: dict[str, Any]) -> None:
    (workshop.folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("is_planned", [True, False])
def test_labels_that_are_all_the_same_are_refused_before_anything_is_trained(
    workshop: Workshop, is_planned: bool
) -> None:
    write_rows(workshop, *({"prompt": f"{n}?", "completion": WORDS[n], "label": False} for n in range(3)))
    with pytest.raises(DataError, match="all 3 rows are undesirable") as caught:
        build_plan(workshop.read(labelled())) if is_planned else workshop.run(labelled())
    assert "add desirable rows" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"prompt": "2?", "completion": "4", "label": True}], "all 1 rows are desirable"),
        ([{"prompt": f"{n}?", "completion": "4", "label": n > 1} for n in range(4)], "the same completion"),
    ],
)
def test_validation_rows_that_nothing_can_be_measured_on_are_refused_before_an_earlier_stage_trains(
    workshop: Workshop, rows: list[dict[str, Any]], found: str
) -> None:
    (workshop.folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=found) as caught:
        workshop.run(sft(), labelled(validation=[{"source": "bad.jsonl"}]))
    assert caught.value.place == "validation"
    assert not list(workshop.finished().folder.root.glob("artifacts/*"))


def test_completions_that_are_all_the_same_are_refused_by_kto_and_not_by_bco(workshop: Workshop) -> None:
    write_rows(workshop, *({"prompt": f"{n}?", "completion": "yes", "label": n > 1} for n in range(4)))
    with pytest.raises(DataError, match="the same completion") as caught:
        workshop.run(labelled(), into="kto")
    assert "loss: bco" in str(caught.value)
    assert workshop.run(labelled(loss="bco"), into="bco").statuses == ["finished"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "2+2?", "completion": "", "label": True}, "says nothing"),
    ({"prompt": "2+2?", "completion": "4", "label": "yes"}, "not true or false"),
    ({"prompt": "2+2?", "completion": "4"}, "a row of the type 'messages'"),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_a_row_that_says_nothing_stops_the_start_or_is_counted(
    workshop: Workshop, row: dict[str, Any], words: str
) -> None:
    with (workshop.folder / "labelled.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(PosttrainError) as caught:
        workshop.run(labelled())
    assert words in str(caught.value)
    done = workshop.run(labelled(data=[{"source": "labelled.jsonl", "max_bad_fraction": 0.2}]))
    ledger = done.record["stages"][0]["ledger"]
    assert (ledger["rows_in"], ledger["rows_trained"], ledger["rows_dropped"]) == (13, 12, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 1.0}, "either epochs or steps"),
        ({"shift_decay": 0.5}, "set loss: bco"),
        ({"loss": "bc"}, "bco"),
        ({"max_length": 4000}, "context"),
        ({"desirable_wieght": 1.0}, "did you mean 'desirable_weight'"),
    ],
)
def test_keys_that_do_not_fit_are_refused_with_the_cure(
    workshop: Workshop, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        workshop.run(labelled(**changes))
    assert words in str(caught.value)
