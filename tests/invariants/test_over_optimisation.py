"""The over-optimisation monitor on a study of the lab: an alarm at a planted turn, and none for right answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from tests.pipeline.best_of_n_runs import read_study
from tests.pipeline.tiny_runs import Finished

LONG = {"type": "length", "low": 60, "high": 1000, "slope": 60, "unit": "words"}
PLANTED = {
    "type": "weighted",
    "components": [{"name": "right", "scorer": "lab"}, {"name": "long", "scorer": LONG, "weight": 8}],
}
"""Likes right answers and long ones: eight more words count as much as being right (8 / 60 each)."""


@pytest.mark.invariants
def test_the_monitor_alarms_at_the_turn_of_a_planted_score_in_the_lab(tmp_path: Path) -> None:
    sft = {
        "name": "sft", "type": "sft", "data": [{"source": "lab:conversations", "rows": 2000}], "epochs": 1,
        "learning_rate": 1.5e-3,
    }  # fmt: skip
    study = {
        "name": "study", "type": "best_of_n", "data": [{"source": "lab:questions", "split": "held_out", "rows": 150}],
        "n": 32, "gold": {"type": "lab", "value": "gold"}, "proxies": {"planted": PLANTED, "right": "lab"},
        "max_new_tokens": 96,
    }  # fmt: skip
    path = tmp_path / "planted.yaml"
    path.write_text(
        json.dumps({"schema": 1, "name": "planted", "seed": 501, "model": "lab:base", "stages": [sft, study]})
    )
    recipe = read_recipe(path, folder=tmp_path / "run")
    run = Finished(recipe, RunFolder(run_recipe(recipe)))
    ways = {way["name"]: way for way in read_study(run)["ways"]}
    gold = {point["n"]: point["value"] for point in ways["planted"]["points"]}
    best = max(gold, key=gold.__getitem__)
    fall = ways["planted"]["fall"]
    assert 1 < best < 32 and gold[32] < gold[1] and fall is not None
    assert fall["from_n"] in (best // 2, best, 2 * best) and fall["to_n"] > fall["from_n"]
    assert ways["right"]["fall"] is None
    assert {one["monitor"]: one["status"] for one in run.record["monitors"]} == {
        "over_optimisation-planted": "alarm",
        "over_optimisation-right": "silent",
    }
