"""Gates after a stage that samples: its repairs, and the one that it cannot have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError
from posttrain.pipeline.recipe import read_recipe
from tests.pipeline.grpo_runs import make_workshop
from tests.pipeline.test_gates import KEPT, gate_of, learn, run
from tests.pipeline.tiny_runs import Workshop


def drift(gate: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A stage that is paid for vowels, and forgets whatever else there was."""
    values = {
        "name": "rl",
        "type": "grpo",
        "algorithm": "dr_grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": "own.py:vowels",
        "steps": 8,
        "problems_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 8,
        "learning_rate": 5e-2,
        "dtype": "float32",
        "gate": gate,
    }
    return {**values, **changes}


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, tiny_base, monkeypatch)


@pytest.mark.invariants
def test_a_policy_that_forgot_is_searched_for_on_its_way_and_at_smaller_rates(workshop: Workshop) -> None:
    gate = {"keep": [KEPT], "on_fail": ["best_checkpoint", "smaller_learning_rate"]}
    attempts = gate_of(run(workshop, learn(), drift(gate), override=("length_caps", "rollouts")))["attempts"]
    assert attempts[0]["decisions"][-1]["action"] == "repair"
    searched = {attempt["repair"]: attempt["search"]["candidates"] for attempt in attempts[1:]}
    assert [one["settings"]["step"] for one in searched["best_checkpoint"]] == [1, 2, 3, 4, 5, 6, 7]
    if "smaller_learning_rate" in searched:
        assert [one["settings"]["learning_rate"] for one in searched["smaller_learning_rate"]] == [2.5e-2, 1.25e-2]
    assert all(one["lowest"] is not None for candidates in searched.values() for one in candidates)


def test_rows_cannot_be_replayed_by_a_stage_that_learns_from_its_own_completions(workshop: Workshop) -> None:
    path = workshop.folder / "replayed.yaml"
    gate = {"keep": [KEPT], "on_fail": ["replay"]}
    task = {"name": "kept", "type": "perplexity", "data": {"source": "a.jsonl"}, "development": {"source": "b.jsonl"}}
    values = {"schema": 1, "name": "replayed", "model": "base", "evaluate": [task], "stages": [drift(gate)]}
    path.write_text(json.dumps(values))
    with pytest.raises(RecipeError, match="'replay' of a stage that is not trained on demonstrations"):
        read_recipe(path)
