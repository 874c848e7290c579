"""The recipe: one strict YAML file that says which model goes through which stages on which data.

    recipe = read_recipe(Path("recipes/demo.yaml"), overrides=["sft.learning_rate=1e-4"])
    recipe.stages[0].config.learning_rate

Every key is known, typed and in range, or the recipe is refused with the line, what was expected and
the cure. Reading a recipe opens no data, loads no model, and imports no plug-in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.core.hashing import hash_json
from posttrain.evaluation.monitors.keys import MonitorKeys
from posttrain.evaluation.task import EvaluationTask, GenerationTask
from posttrain.pipeline.gate_checks import check_gates
from posttrain.pipeline.harness_suites import check_includes
from posttrain.pipeline.monitor_checks import check_monitors, list_monitors
from posttrain.pipeline.named_models import check_named_models, list_scorers
from posttrain.pipeline.overrides import apply_overrides, parse_override
from posttrain.pipeline.plugins import Plugin
from posttrain.pipeline.recipe_checks import (
    check_chat_template,
    check_kept_metric,
    check_sources,
    find_scorer_plugins,
    read_head,
    read_schema,
)
from posttrain.pipeline.recipe_settings import TOP_KEYS, ChatSettings, Logger, ModelSource, RecipeHead
from posttrain.pipeline.roots import Roots, declare_roots
from posttrain.pipeline.stage_entries import StageEntry, read_stages
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.tool_settings import describe_tools, find_tool_plugins
from posttrain.pipeline.yaml_reader import Positions, read_file, read_yaml
from posttrain.rollouts.environments import EnvironmentSettings

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as understood: defaults filled in, overrides applied, everything checked that needs no data.

    Made by `read_recipe`; read by plan, wiring, run and the report. `text` is the file as the user wrote
    it, `folder` is where the run goes (absolute), and `scorers` are the scorers and tools that are not
    built in, by reference.

    Example: a file of `schema: 1`, `name: demo`, `model: lab:seedling` and one stage `{name: sft, type:
    sft, ...}` gives `recipe.model.source == "lab:seedling"`, `recipe.stages[0].parent == "base"` and
    `recipe.folder == <current folder>/runs/demo`.
    """

    path: Path
    text: str
    overrides: tuple[str, ...]
    roots: Roots
    head: RecipeHead
    stages: tuple[StageEntry, ...]
    folder: Path
    scorers: dict[str, Plugin]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.head.name

    @property
    def seed(self) -> int:
        """The one seed that every other is derived from."""
        return self.head.seed

    @property
    def model(self) -> ModelSource:
        """The base model."""
        return self.head.model

    @property
    def chat(self) -> ChatSettings:
        """How messages become text."""
        return self.head.chat

    @property
    def evaluate(self) -> list[EvaluationTask]:
        """What is measured on the base and after every stage."""
        return self.head.evaluate

    @property
    def monitors(self) -> list[MonitorKeys]:
        """What is read over the items of the base and of every stage's policy, `auto` in its meaning."""
        return list_monitors(self.head.monitors, self.evaluate)

    @property
    def loggers(self) -> list[Logger]:
        """Where metrics go beside the run folder's JSON lines."""
        return self.head.loggers

    @property
    def root(self) -> Path:
        """The recipe's folder, which relative paths start from."""
        return self.roots.base

    @property
    def chat_template_file(self) -> Path | None:
        """The file of the chat template, or None for `auto` and `plain`."""
        if self.chat.template in ("auto", "plain"):
            return None
        return self.roots.resolve(self.chat.template, place="chat.template")

    def find_stage(self, name: str | None) -> StageEntry:
        """Return a stage by name, or the first where none is named.

        Raises:
            RecipeError: No stage has this name.
        """
        for entry in self.stages:
            if name in (None, entry.name):
                return entry
        names = [entry.name for entry in self.stages]
        raise RecipeError(
            f"no stage is named '{name}'",
            expected="one of " + ", ".join(names),
            cure=suggest(str(name), names),
            place="--stage",
        )

    def locate(self, reference: str) -> Path | None:
        """Return the file or folder that a `source` stands for, or None for `lab:...`, `hub:...` and Hub ids.

        Raises:
            RecipeError: The path leaves the declared roots.
        """
        return self.roots.locate(reference, place=reference)

    def resolved(self) -> dict[str, Any]:
        """Return the recipe as understood, as JSON-like values; written as YAML it reads as the same recipe."""
        head = self.head.model_dump(mode="json")
        return {"schema": SCHEMA, **head, "stages": [entry.resolved() for entry in self.stages]}

    def plugin_hashes(self) -> dict[str, str]:
        """Return the content hash of every plug-in, by reference."""
        in_stages = [plugin for entry in self.stages for plugin in entry.plugins]
        return {plugin.reference: plugin.content_hash for plugin in (*self.scorers.values(), *in_stages)}

    def identity(self) -> dict[str, Any]:
        """Return what decides the results: no name, no folder, no loggers; plug-ins by their content."""
        head = {key: value for key, value in self.head.identity().items() if key != "name"}
        return {**head, "stages": [entry.identity() for entry in self.stages], "plugins": self.plugin_hashes()}

    def identity_hash(self) -> str:
        """Return the hash of `identity()`."""
        return hash_json(self.identity())

    @property
    def hash(self) -> str:
        """The hash of everything that the recipe says, display keys and the content of plug-ins included."""
        return hash_json([self.resolved(), self.plugin_hashes()])


def read_recipe(path: Path, overrides: Sequence[str] = (), *, folder: Path | None = None) -> Recipe:
    """Return a recipe, read and checked.

    Args:
        path: The YAML file, at most 256 kB.
        overrides: Texts such as `sft.learning_rate=1e-4`, applied in order.
        folder: The run folder, in place of the one that the recipe names.

    Raises:
        RecipeError: Anything that is not a recipe; `place` names the file, line, column and key.
    """
    text = read_file(path)
    values, positions = read_yaml(text, str(path))
    values = read_schema(values, positions, SCHEMA)
    values, positions = apply_overrides(values, positions, overrides, [key for key in TOP_KEYS if key != "schema"])
    roots = _admit_typed_paths(declare_roots(path), overrides)
    head = read_head(values, positions)
    stages = read_stages(values, positions, roots)
    check_gates(stages, head.evaluate, positions)
    check_monitors(head.monitors, head.evaluate, positions)
    check_chat_template(head.chat, roots, positions)
    check_sources(head, (), roots, positions)
    check_includes(head.evaluate, roots, [positions.describe(("evaluate", i)) for i in range(len(head.evaluate))])
    for index, entry in enumerate(stages):
        check_sources(entry.config or entry.values, ("stages", index), roots, positions)
        check_kept_metric(entry.config, head.evaluate, ("stages", index), positions)
        check_sources(entry.gate or {}, ("stages", index, "gate"), roots, positions)
    if folder is None:
        named = Path.cwd() / (head.folder or f"runs/{head.name}")
        folder = roots.resolve(str(named), place=positions.describe(("folder",)))
    scorers = _find_scorers(head, stages, roots, positions)
    check_named_models(stages, head.evaluate, positions)
    makers = tuple(entry.name for entry in stages if find_stage_type(entry.type).makes == "reward_model")
    roots = replace(roots, run=Path.cwd() / folder, reward_stages=makers)
    return Recipe(path, text, tuple(overrides), roots, head, stages, Path.cwd() / folder, scorers)


def _find_scorers(
    head: RecipeHead, stages: Sequence[StageEntry], roots: Roots, positions: Positions
) -> dict[str, Plugin]:
    """Return the user's own scorers and tools, of tasks and of stages that reward."""
    found: dict[str, Plugin] = {}
    for index, task in enumerate(head.evaluate):
        if isinstance(task, GenerationTask):
            for keys, scorer in task.scorers.items():
                found |= find_scorer_plugins(scorer, roots, positions.describe(("evaluate", index, *keys)))
            found |= find_tool_plugins(task.environment, roots, describe_tools(positions, ("evaluate", index)))
    for index, entry in enumerate(stages):
        for path, scorer in list_scorers(entry.config):
            found |= find_scorer_plugins(scorer, roots, positions.describe(("stages", index, *path)))
        environment = getattr(entry.config, "environment", None)
        if isinstance(environment, EnvironmentSettings):
            found |= find_tool_plugins(environment, roots, describe_tools(positions, ("stages", index)))
    return found


def _admit_typed_paths(roots: Roots, overrides: Sequence[str]) -> Roots:
    """Count an absolute path that the user typed in an override as declared by typing it."""
    values = [value for _, value in map(parse_override, overrides)]
    typed = [text for text in _list_texts(values) if text.startswith("/")]
    return replace(roots, folders=(*roots.folders, *(Path(value).resolve() for value in typed)))


def _list_texts(value: Any) -> Iterator[str]:
    """Yield every text inside lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _list_texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _list_texts(item)
