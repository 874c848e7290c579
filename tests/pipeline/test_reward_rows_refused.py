"""Rows and keys that no reward model can learn from: found, named and refused before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, PosttrainError, RecipeError, TrainingError
from posttrain.kernels.readings import Reading
from posttrain.pipeline.scorers import ScorerContext, build_scorer
from posttrain.stages.reward_rows import check_scores
from posttrain.training.reward_policy import RewardRow
from tests.pipeline.reward_runs import (
    make_pairs,
    make_reward_workshop,
    rm,
    write_rows,
)
from tests.pipeline.tiny_runs import Workshop, sft, task


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    return make_reward_workshop(tmp_path, tiny_base)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"margin": "margin"}, "margin of -1"),
        ({"margin": "level"}, "column 'level' is None"),
        ({"probability": "margin"}, "a probability of 2 in the column 'margin'"),
        ({"quality": ["true_chosen", "level"]}, "column 'level' is None"),
        ({"max_length": 4}, "too many tokens: 6 rows"),
    ],
)
def test_rows_that_cannot_be_used_are_named(workshop: Workshop, changes: dict[str, Any], found: str) -> None:
    rows = make_pairs(6)
    rows[3]["margin"] = -1
    write_rows(workshop.folder / "judged_pairs.jsonl", rows)
    write_rows(workshop.folder / "judged_pairs_held_out.jsonl", rows)
    with pytest.raises(PosttrainError, match=found):
        workshop.run(rm(steps=1, **changes))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("2", "column 'margin' is '2'"),
        (True, "is True"),
        (None, "is None"),
        (10**400, "is 1000"),
        (1e308, "is 1e[+]308"),
    ],
)
def test_a_margin_that_is_no_number_is_found_before_an_earlier_stage_trains(
    workshop: Workshop, value: object, found: str
) -> None:
    """Of validation rows too, whose loss has it."""
    rows = make_pairs(6)
    rows[3]["margin"] = value
    write_rows(workshop.folder / "judged_pairs_held_out.jsonl", rows)
    with pytest.raises(DataError, match=found) as caught:
        workshop.run(sft(), rm(margin="margin"))
    assert caught.value.place == "judged_pairs_held_out.jsonl:4"
    assert not list(workshop.finished().folder.root.glob("artifacts/*"))


def test_a_rating_that_no_model_could_learn_is_none(workshop: Workshop) -> None:
    rows = [{"prompt": f"{n}?", "completion": "a b", "help": n % 3} for n in range(6)]
    rows += [{"prompt": "x?", "completion": "a b", "help": value} for value in (10**400, 1e308, "2", True)]
    write_rows(workshop.folder / "judged_rated.jsonl", rows)
    data = [{"source": "judged_rated.jsonl", "max_bad_fraction": 0.5}]
    done = workshop.run(rm(data=data, steps=1, learns="regression", attributes=["help"], validation=None))
    ledger = json.loads(done.stage().ledger.read_text())
    assert ledger["rows_trained"] == 6 and ledger["dropped"]["no rating"]["rows"] == 4


def test_scores_that_are_not_finite_name_their_row() -> None:
    row = RewardRow(Reading(np.array([5]), (np.array([6, 7]),), (np.array([0, 1]),)), np.ones(2), {}, "rows.jsonl:2")
    scores_RK = np.array([[0.0], [1.0], [2.0], [np.inf]])
    check_scores(scores_RK[:2], [row], np.array([0, 2]))
    with pytest.raises(TrainingError, match="1 of 4 scores are not finite, the first of rows"):
        check_scores(scores_RK, [replace(row, row_id="rows.jsonl:1"), row], np.array([0, 2, 4]))


def test_labels_that_are_all_the_same_are_refused(workshop: Workshop) -> None:
    steps = [{"prompt": f"{n}?", "completions": ["a", "b"], "labels": [True, True]} for n in range(4)]
    write_rows(workshop.folder / "judged_steps.jsonl", steps)
    with pytest.raises(DataError, match="all labels of steps are 1") as caught:
        workshop.run(rm("steps", learns="process", validation=None))
    assert "nothing can be learned" in caught.value.cure
    rated = [{"prompt": f"{n}?", "completion": "a b", "help": 2} for n in range(4)]
    write_rows(workshop.folder / "judged_rated.jsonl", rated)
    with pytest.raises(DataError, match="all ratings of 'help' are 2"):
        workshop.run(rm("rated", learns="regression", attributes=["help"], validation=None), into="rated")


def test_bad_rows_go_to_the_ledger_with_their_reasons(workshop: Workshop) -> None:
    rows = [
        {"prompt": "1?", "completions": ["a", "b"], "labels": [True, False]},
        {"prompt": "2?", "completions": ["a\nb", "c"], "labels": [True, False]},
        {"prompt": "3?", "completions": ["a", " "], "labels": [True, False]},
        {"prompt": "4?", "completions": ["a"], "labels": [True, False]},
        {"prompt": "5?", "chosen": "a", "rejected": "b"},
    ]
    write_rows(workshop.folder / "judged_steps.jsonl", rows)
    source = {"source": "judged_steps.jsonl", "max_bad_fraction": 1.0}
    run = workshop.run(rm("steps", learns="process", data=[source], validation=None, steps=1))
    ledger = json.loads(run.stage().ledger.read_text())
    assert {reason: entry["rows"] for reason, entry in ledger["dropped"].items()} == {
        "steps run together": 2,
        "labels do not match": 1,
        "nothing to judge": 1,
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"learns": "regression"}, "attributes"),
        ({"attributes": ["help"]}, "attributes"),
        ({"learns": "process", "margin": "margin"}, "margin belongs to"),
        ({"epochs": 1}, "either epochs or steps"),
        ({"separator": "."}, "separator belongs to"),
        ({"resample": True}, "resample belongs to members"),
        ({"validation": None, "validate_every_steps": 2}, "needs validation rows"),
        ({"gate": {"keep": [{"metric": "held_out", "margin": 0.1}]}}, "gate"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(workshop: Workshop, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        workshop.read(rm(**changes))


def test_a_scorer_names_only_what_is_made_before_it(workshop: Workshop) -> None:
    rl = {"name": "rl", "type": "grpo", "data": [{"source": "rows.jsonl"}], "steps": 1,
          "scorer": {"type": "learned", "model": "rm"}}  # fmt: skip
    with pytest.raises(RecipeError, match="is no stage of type reward_model before 'rl'"):
        workshop.read(rl, rm())
    with pytest.raises(RecipeError, match="is no stage of type reward_model before 'rl'"):
        workshop.read(sft(name="rm"), rl)
    with pytest.raises(RecipeError, match="has made nothing when the base is measured"):
        workshop.read(rm(), evaluate=[task(scorer={"type": "learned", "model": "rm"})])
    with pytest.raises(RecipeError, match="no reward model"):
        build_scorer({"type": "learned", "model": "nowhere"}, ScorerContext())
