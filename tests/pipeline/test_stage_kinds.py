"""The table of stage types: every row has its file, and what it says holds of the stages of that type."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from posttrain.core.errors import RecipeError
from posttrain.pipeline.preflight.memory import find_trained_adapter
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_kinds.kind import StageKind, find_kind
from posttrain.pipeline.stage_kinds.plugin import PluginKind
from posttrain.pipeline.stage_types import PLUGIN, STAGE_TYPES, find_stage_type
from tests.pipeline.reward_runs import rm
from tests.pipeline.tiny_runs import Workshop, sft


def make_entry(type_: str) -> StageEntry:
    return StageEntry("some", type_, "base", 1, {}, "here")


@pytest.mark.parametrize("name", STAGE_TYPES)
def test_every_type_has_a_file_of_its_name_for_its_own_configuration(name: str) -> None:
    kind: Any = find_kind(make_entry(name))
    assert isinstance(kind, StageKind) and type(kind).__module__ == f"posttrain.pipeline.stage_kinds.{name}"
    assert get_args(type(kind).__orig_bases__[0])[0] is STAGE_TYPES[name].config


def test_a_type_that_is_not_built_in_is_a_plug_in_whose_policies_alone_can_be_repaired() -> None:
    assert isinstance(find_kind(make_entry("own.py:run")), PluginKind)
    assert find_stage_type("own.py:run") is PLUGIN
    assert PLUGIN.repairs == ("interpolate",) and not PLUGIN.passes_policy_on


def test_a_gate_may_ask_for_the_repairs_of_its_type_and_no_others(workshop: Workshop) -> None:
    gate = {"floor": [{"metric": "held_out/stopped", "at_least": 0.1}], "on_fail": ["replay"]}
    grpo = {"name": "rl", "type": "grpo", "data": [{"source": "rows.jsonl"}], "scorer": "exact", "max_new_tokens": 4}
    task = {"name": "held_out", "data": {"source": "held_out.jsonl", "split": "held_out"}}
    with pytest.raises(RecipeError, match="interpolate, best_checkpoint, smaller_learning_rate"):
        workshop.read({**grpo, "steps": 1, "gate": gate}, evaluate=[{**task, "development": {"source": "rows.jsonl"}}])


def test_an_adapter_is_found_behind_a_stage_that_passes_its_policy_on(workshop: Workshop) -> None:
    lora = {"rank": 4}
    recipe = workshop.read(
        sft(adapter=lora), rm(adapter=lora, adapter_start="stack"), sft(name="more", adapter_start="continue")
    )
    found = find_trained_adapter(recipe, recipe.stages[-1])
    assert found is not None and found.rank == 4
