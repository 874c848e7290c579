"""The stages of a recipe: common keys, the type's own configuration, and which stage each one starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from posttrain.core.config import Config, suggest
from posttrain.core.errors import RecipeError
from posttrain.gates.rules import GateRules
from posttrain.pipeline.plugins import Plugin, RunFunction, load_stage
from posttrain.pipeline.recipe_checks import check_keys, require_plugin, validate
from posttrain.pipeline.recipe_settings import BASE, STAGE_KEYS, TOP_KEYS, StageKeys
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.stage_types import BUILT_IN_STAGES
from posttrain.pipeline.yaml_reader import Positions


@dataclass(frozen=True, slots=True)
class StageEntry:
    """One stage as the recipe says it.

    Made by `read_stages`, read by plan, wiring and run. `parent` is `base` or an earlier stage's name,
    `values` are the stage's own keys as written, and `config` is their typed form; it is None for a
    plug-in, whose `Config` is only known once a run imports it (`load_plugin`). `callbacks` are the
    plug-ins that the key `callbacks` names.

    Example: `{name: polish, type: sft, from: base, learning_rate: 1e-4}` gives `parent="base"`,
    `repeat=1`, `values={"learning_rate": 1e-4}` and a `SftConfig`.
    """

    name: str
    type: str
    parent: str
    repeat: int
    values: dict[str, Any]
    place: str
    config: Config | None = None
    plugin: Plugin | None = None
    callbacks: tuple[Plugin, ...] = ()
    gate: GateRules | None = None

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The user's own code in this stage: the stage itself, its callbacks."""
        return (*((self.plugin,) if self.plugin else ()), *self.callbacks)

    def resolved(self) -> dict[str, Any]:
        """Return the stage's keys with defaults filled in, as JSON-like values."""
        own = self.config.model_dump(mode="json", by_alias=True) if self.config else self.values
        common = {"name": self.name, "type": self.type, "from": self.parent, "repeat": self.repeat}
        gate = {} if self.gate is None else {"gate": self.gate.model_dump(mode="json")}
        return {**common, **{key: value for key, value in own.items() if key not in common}, **gate}

    def identity(self) -> dict[str, Any]:
        """Return what decides the stage's result beside its inputs; every key of a plug-in counts."""
        own = self.config.identity() if self.config else self.values
        common = {"name": self.name, "type": self.type, "from": self.parent, "repeat": self.repeat}
        gate = None if self.gate is None else self.gate.identity()
        return {**common, "config": own, "gate": gate, "plugins": [plugin.content_hash for plugin in self.plugins]}

    def load_plugin(self) -> tuple[Config, RunFunction]:
        """Import the plug-in that this stage names and return its typed configuration and `run`.

        Raises:
            RecipeError: It cannot be imported, or the stage's keys do not fit its `Config`.
            RefusedError: Its source changed since the recipe was read.
            ValueError: The stage is built in.
        """
        if self.plugin is None:
            raise ValueError(f"stage {self.name!r} is of the built-in type {self.type!r}")
        return load_stage(self.plugin, self.values, place=self.place)


def read_stages(values: Mapping[str, Any], positions: Positions, roots: Roots) -> tuple[StageEntry, ...]:
    """Return the stages in order, typed, with names that are unique and parents that come before.

    Raises:
        RecipeError: No stages, an unknown type or key, a name twice, a parent that is no earlier stage.
    """
    items = values.get("stages")
    if not isinstance(items, list) or not items:
        found = "'stages' is missing" if "stages" not in values else f"found {items!r}"
        raise RecipeError(
            found,
            expected="a list of at least one stage",
            cure="add 'stages:' with '- {name: sft, type: sft, ...}' below it",
            place=positions.describe(("stages",)),
        )
    entries: list[StageEntry] = []
    for index, item in enumerate(items):
        entries.append(_read_stage(index, item, entries, positions, roots))
    return tuple(entries)


def _read_stage(index: int, item: Any, earlier: list[StageEntry], positions: Positions, roots: Roots) -> StageEntry:
    path = ("stages", index)
    if not isinstance(item, dict):
        raise RecipeError(
            f"found {item!r}",
            expected="a stage: a mapping with name, type and its keys",
            place=positions.describe(path),
        )
    if "name" not in item or "type" not in item:
        known = {name for kind in BUILT_IN_STAGES.values() for name in kind.model_fields}
        if "type" not in item:  # a misspelt 'type' or 'name' should be named as such
            check_keys(item, path, tuple(dict.fromkeys([*STAGE_KEYS, *sorted(known)])), positions)
    keys: StageKeys = validate(StageKeys, {k: v for k, v in item.items() if k in STAGE_KEYS}, path, positions)
    parent = _check_names(keys, earlier, path, positions)
    own = {key: value for key, value in item.items() if key not in STAGE_KEYS}
    entry = StageEntry(keys.name, keys.type, parent, keys.repeat, own, positions.describe(path), gate=keys.gate)
    entry = replace(entry, callbacks=_find_callbacks(own.get("callbacks"), path, positions, roots))
    kind = BUILT_IN_STAGES.get(keys.type)
    if kind is None:
        plugin = require_plugin("stage", keys.type, roots, positions.describe((*path, "type")))
        return replace(entry, plugin=plugin)
    fields = [field.alias or name for name, field in kind.model_fields.items()]
    check_keys(item, path, tuple(dict.fromkeys([*STAGE_KEYS, *fields])), positions)
    given = {"type": keys.type, **own} if "type" in fields else own
    return replace(entry, config=validate(kind, given, path, positions))


def _find_callbacks(references: Any, path: tuple[str, int], positions: Positions, roots: Roots) -> tuple[Plugin, ...]:
    """Return the plug-ins that a stage's `callbacks` name; what is no list of texts is refused with the other keys."""
    named = references if isinstance(references, list) else []
    return tuple(
        require_plugin("callback", reference, roots, positions.describe((*path, "callbacks", number)))
        for number, reference in enumerate(named)
        if isinstance(reference, str)
    )


def _check_names(keys: StageKeys, earlier: list[StageEntry], path: tuple[str, int], positions: Positions) -> str:
    """Return the name of the stage (or `base`) that a stage starts from, once both names are sound."""
    names = [entry.name for entry in earlier]
    if keys.name in names:
        raise RecipeError(
            f"two stages are named '{keys.name}'",
            expected="a name of its own for each stage",
            cure="rename one, or use 'repeat:' for rounds of one stage",
            place=positions.describe((*path, "name")),
        )
    if keys.name == BASE or keys.name in TOP_KEYS:
        raise RecipeError(
            f"a stage is named '{keys.name}', which a recipe uses for something else",
            expected=f"a name other than {BASE}, {', '.join(TOP_KEYS)}",
            place=positions.describe((*path, "name")),
        )
    if keys.parent is None:
        return names[-1] if names else BASE
    if keys.parent not in (BASE, *names):
        raise RecipeError(
            f"'{keys.parent}' is no stage before '{keys.name}'",
            expected="'base', or the name of an earlier stage (a stage never starts from itself or a later one)",
            cure=suggest(keys.parent, [BASE, *names]),
            place=positions.describe((*path, "from")),
        )
    return keys.parent
