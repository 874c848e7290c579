"""Recipes in which one key or another of a reward-model stage matters."""

from __future__ import annotations

from typing import Any

from tests.pipeline.reward_runs import rm
from tests.pipeline.tiny_runs import recipe_values, sft

_LORA = {"rank": 4}
_DROPPING = {"data": [{"source": "judged_long.jsonl"}], "max_length": 80, "truncation": "drop"}
_OWN = {"steps": 2, "validation": None}

REWARD_BASELINES: dict[str, dict[str, Any]] = {
    "rm": recipe_values(rm(steps=4)),
    "rm_epochs": recipe_values(rm(steps=None, epochs=1.0)),
    "rm_long": recipe_values(rm(**_DROPPING, **_OWN)),
    "rm_refusing": recipe_values(rm(**{**_DROPPING, "truncation": "refuse"}, **_OWN)),
    "rm_length": recipe_values(rm("long_ones", steps=16, quality=["true_chosen", "true_rejected"])),
    "rm_rated": recipe_values(rm("rated", learns="regression", attributes=["help"], **_OWN)),
    "rm_steps": recipe_values(rm("steps", learns="process", **_OWN)),
    "rm_members": recipe_values(rm(members=2, **_OWN)),
    "rm_saved": recipe_values(rm(callbacks=["own.py:Saves"], checkpoint_every_steps=1, steps=4)),
    "rm_adapted": recipe_values(
        sft(adapter=_LORA, adapter_start="new", steps=1), rm(adapter=_LORA, adapter_start="continue", **_OWN)
    ),
}
