"""Reward models of the lab: what they learn of one attribute, and what is said of labels that love length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.run_folder import REWARD_REPORT, RunFolder
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from tests.pipeline.tiny_runs import Notes

pytestmark = pytest.mark.invariants


def stage(name: str, source: str, quality: str, rows: int) -> dict[str, Any]:
    return {
        "name": name, "type": "reward_model", "data": [{"source": f"lab:{source}", "rows": rows}],
        "validation": [{"source": f"lab:{source}", "split": "development", "rows": 600}],
        "quality": [f"{quality}_chosen", f"{quality}_rejected"], "probability": "probability", "centring": 0.01,
        "epochs": 1, "learning_rate": 1e-3,
    }  # fmt: skip


def train(folder: Path, *stages: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """What the validation pairs of each stage say, from the lab's base, and the notes of the run."""
    path, notes = folder / "recipe.yaml", Notes()
    path.write_text(json.dumps({"schema": 1, "name": "lab", "seed": 17, "model": "lab:base@1", "stages": stages}))
    made = RunFolder(run_recipe(read_recipe(path, folder=folder / "run"), progress=notes))
    named = [entry["outputs"]["reward_model"] for entry in json.loads(made.run_json.read_text())["stages"]]
    return [json.loads((made.artifacts / name / REWARD_REPORT).read_text()) for name in named], notes.notes


def test_manner_is_learned_nearly_as_well_as_can_be(tmp_path: Path) -> None:
    [report], _ = train(tmp_path, stage("manner", "prefer_manner", "manner", 2_000))
    assert report["normalised_accuracy"] > 0.85


def test_labels_that_love_length_are_warned_of_and_honest_ones_of_the_same_pairs_are_not(tmp_path: Path) -> None:
    (honest, biased), notes = train(
        tmp_path, stage("honest", "preferences", "gold", 1_500), stage("loving", "prefer_length", "gold", 1_500)
    )
    assert honest["length"]["slope"]["high"] < 0.01 and honest["warnings"] == []
    assert biased["length"]["slope"]["low"] > 0.02 and biased["length"]["correlation"] > 0.5
    assert [note.split(":")[0] for note in notes if "WARNING" in note] == ["WARNING loving"]
    # Taking the slope off brings back what the labels hid.
    as_it_is, without = biased["quality_accuracy"], biased["length"]["without"]["quality_accuracy"]
    assert without["low"] > as_it_is["high"]
