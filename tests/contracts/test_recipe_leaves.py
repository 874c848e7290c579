"""Every key of a recipe does something: changing it changes the plan's hash and what is seen of the run.

A key that nobody reads is the quietest of all mistakes. A field that is added to a configuration must be
added to `recipe_leaves.LEAVES` with a change and an effect, or these tests fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from posttrain.core.config import Config
from posttrain.pipeline.plan import compute_stage_key, hash_base
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_checks import configs_in
from posttrain.pipeline.recipe_settings import RecipeHead, StageKeys
from posttrain.pipeline.rounds import list_rounds
from posttrain.pipeline.stage_types import BUILT_IN_STAGES
from tests.contracts.recipe_baselines import BASELINES, make_workshop
from tests.contracts.recipe_leaves import LEAVES, WITHOUT_EFFECT
from tests.contracts.trials import Leaf, Trial
from tests.pipeline.tiny_runs import Workshop

_numbers = itertools.count()
_seen: dict[tuple[str, Any], Any] = {}


def find_classes(kind: type[Config]) -> Iterator[type[Config]]:
    """Yield a configuration class and every one that its fields hold."""
    yield kind
    for field in kind.model_fields.values():
        for inner in configs_in(field.annotation):
            if issubclass(inner, Config):
                yield from find_classes(inner)


CLASSES = {
    inner.__name__: inner for root in (RecipeHead, StageKeys, *BUILT_IN_STAGES.values()) for inner in find_classes(root)
}
FIELDS = {f"{name}.{field}": info for name, kind in CLASSES.items() for field, info in kind.model_fields.items()}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("leaves") / "workshop")


def try_out(workshop: Workshop, values: dict[str, Any]) -> Trial:
    return Trial(workshop, values, f"trial-{next(_numbers)}")


def see_baseline(workshop: Workshop, leaf: Leaf) -> Any:
    """What is seen of the baseline, looked at twice: it must be the same, or a difference would say nothing."""
    place = (leaf.baseline, leaf.see)
    if place not in _seen:
        first, second = (leaf.see(try_out(workshop, BASELINES[leaf.baseline])) for _ in range(2))
        assert first == second
        _seen[place] = first
    return _seen[place]


def test_every_field_has_an_entry_and_every_entry_a_field() -> None:
    assert set(FIELDS) == {*LEAVES, *WITHOUT_EFFECT}
    assert not set(LEAVES) & set(WITHOUT_EFFECT)
    assert {
        "RecipeHead",
        "ChatSettings",
        "GenerationTask",
        "GateRules",
        "DataSource",
        "SftConfig",
        "LoraSettings",
    } <= set(CLASSES)


def test_a_field_without_an_entry_would_be_found() -> None:
    class Wider(BUILT_IN_STAGES["sft"]):  # type: ignore[name-defined,misc]  # a class made at run time
        surprise: int = 1

    assert {f"SftConfig.{field}" for field in Wider.model_fields} - set(FIELDS) == {"SftConfig.surprise"}


QUICK_CLASSES = ("RecipeHead", "ModelSource", "ChatSettings", "StageKeys", "DataSource")
"""Of the others each look is a run, and they are many: tried with the other long invariants."""


def is_long(name: str) -> bool:
    """Whether a key's effect takes a measured run to see: what monitors say is seen in their readings at once."""
    kind = name.split(".")[0]
    return kind not in QUICK_CLASSES and not kind.endswith(("Monitor", "Monitors"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.invariants] if is_long(name) else []) for name in LEAVES],
)
def test_changing_a_key_changes_the_plans_hash_and_what_is_seen(
    workshop: Workshop, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    leaf = LEAVES[name]
    before, after = try_out(workshop, BASELINES[leaf.baseline]), try_out(workshop, leaf.change())
    hashes = [read_alike(trial).hash for trial in (before, after)]
    assert hashes[0] != hashes[1]
    assert leaf.see(after) != see_baseline(workshop, leaf)


def find_key(recipe: Recipe) -> str:
    """The key of a recipe's first stage, as a plan and a run compute it."""
    base = find_base(recipe)
    with open_renderer(recipe, base) as renderer:
        return compute_stage_key(recipe, list_rounds(recipe)[0], hash_base(base), renderer, base)


def read_alike(trial: Trial) -> Recipe:
    """Read a trial's recipe as if it went into the same folder as any other's."""
    return Trial(trial.workshop, trial.values, "alike").read()


@pytest.mark.parametrize("name", [name for name in LEAVES if name.split(".")[0] in ("SftConfig", "LoraSettings")])
def test_a_stages_key_follows_exactly_the_fields_that_change_its_result(
    workshop: Workshop, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    leaf = LEAVES[name]
    if leaf.path.startswith("stages.1"):
        pytest.skip("the key of a second stage is known once the first has run")
    extra = FIELDS[name].json_schema_extra
    is_display = isinstance(extra, dict) and extra.get("identity") is False
    values = [BASELINES[leaf.baseline], leaf.change()]
    keys = [find_key(read_alike(Trial(workshop, value, ""))) for value in values]
    assert (keys[0] == keys[1]) == is_display
    assert (
        read_alike(Trial(workshop, values[0], "")).identity_hash()
        == read_alike(Trial(workshop, values[1], "")).identity_hash()
    ) == is_display
