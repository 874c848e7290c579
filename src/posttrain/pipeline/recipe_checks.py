"""Checks of a recipe that name the line: types and ranges, unknown and misplaced keys, paths, plug-ins."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from posttrain.core.config import Config, drop_tags, explain_validation, suggest
from posttrain.core.errors import RecipeError
from posttrain.data.sources import DataSource
from posttrain.evaluation.task import GENERATION, EvaluationTask, find_development
from posttrain.gates.rules import split_metric
from posttrain.pipeline.plugins import Plugin, PluginKind, find_plugin, list_plugin_names
from posttrain.pipeline.recipe_settings import STAGE_KEYS, TOP_KEYS, ChatSettings, RecipeHead
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.scorer_settings import SCORERS, FunctionSettings, list_parts
from posttrain.pipeline.stage_types import BUILT_IN_STAGES
from posttrain.pipeline.yaml_reader import MAX_BYTES, KeyPath, Positions


def read_schema(values: Any, positions: Positions, schema: int) -> dict[str, Any]:
    """Return a recipe's top-level mapping if it says which schema it is written for, and that is ours.

    Raises:
        RecipeError: Empty, no mapping, or another schema.
    """
    if not isinstance(values, dict):
        found = "an empty file" if values is None else f"a {type(values).__name__}"
        raise RecipeError(
            f"found {found}", expected=f"a mapping with the keys {', '.join(TOP_KEYS)}", place=positions.name
        )
    if "schema" not in values:
        check_keys(values, (), TOP_KEYS, positions)
    version = values.get("schema")
    if version != schema or isinstance(version, bool):
        raise RecipeError(
            f"found schema: {version!r}" if "schema" in values else "'schema' is missing",
            expected=f"schema: {schema}",
            cure=f"write 'schema: {schema}' in the first line",
            place=positions.describe(("schema",)),
        )
    return values


def read_head(values: Mapping[str, Any], positions: Positions) -> RecipeHead:
    """Return the top-level keys, typed.

    Raises:
        RecipeError: An unknown key, a wrong type, a value out of range.
    """
    check_keys(values, (), TOP_KEYS, positions)
    head = {key: value for key, value in values.items() if key in RecipeHead.model_fields}
    parsed: RecipeHead = validate(RecipeHead, head, (), positions)
    check_task_names(parsed.evaluate, positions)
    return parsed


def check_task_names(tasks: Sequence[EvaluationTask], positions: Positions) -> None:
    """Refuse tasks that share a name.

    Raises:
        RecipeError: Two do.
    """
    names = [task.name for task in tasks]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise RecipeError(
                f"two tasks are named '{name}'",
                expected="a name of its own for each",
                place=positions.describe(("evaluate", index, "name")),
            )


def check_keys(values: Mapping[str, Any], path: KeyPath, known: tuple[str, ...], positions: Positions) -> None:
    """Refuse the first key of a mapping that is not known there, saying where it belongs or what was meant.

    Raises:
        RecipeError: An unknown or misplaced key.
    """
    for key in values:
        if key in known:
            continue
        here = suggest(key, known)
        elsewhere = [] if here.startswith("did you mean") else find_homes(key)
        raise RecipeError(
            f"unknown key '{key}'",
            expected=f"a key of {describe_part(path, values)}",
            cure=f"'{key}' is a key of {' and of '.join(elsewhere)}: move it there" if elsewhere else here,
            place=positions.describe((*path, key)),
        )


def describe_part(path: KeyPath, values: Mapping[str, Any]) -> str:
    """Return in words which part of a recipe a mapping is."""
    if not path:
        return "a recipe's top level"
    kind = values.get("type")
    return f"a stage of type {kind}" if isinstance(kind, str) else "a stage"


def find_homes(key: str) -> list[str]:
    """Return where in a recipe a key may stand, in words."""
    homes = ["the top level"] if key in TOP_KEYS else []
    homes += ["every stage"] if key in STAGE_KEYS else []
    for field, info in RecipeHead.model_fields.items():
        homes += [f"'{field}'" for kind in configs_in(info.annotation) if key in kind.model_fields]
    for name, kind in BUILT_IN_STAGES.items():
        homes += [f"a stage of type {name}"] if key in kind.model_fields and key not in STAGE_KEYS else []
        for field, info in kind.model_fields.items():
            homes += [
                f"'{field}' in a stage of type {name}" for k in configs_in(info.annotation) if key in k.model_fields
            ]
    return homes[:3]


def configs_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the configuration classes that a type annotation mentions (`list[DataSource] | None`)."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from configs_in(part)


def validate(kind: type[Config], values: Mapping[str, Any], path: KeyPath, positions: Positions) -> Any:
    """Return a typed configuration, or raise one error that stands at the line of the first wrong key.

    Args:
        kind: The configuration's class.
        values: What the recipe holds.
        path: Where in the recipe the values stand.
        positions: The places of the recipe's keys.

    Raises:
        RecipeError: Every wrong key is named; the place is that of the first.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        wrong = error.errors()
        # A misspelt key makes another one missing: the misspelt one is the place to look at.
        first = next((detail for detail in wrong if detail["type"] == "extra_forbidden"), wrong[0])
        location: KeyPath = (*path, *drop_tags(kind, first["loc"]))
        known = positions.nearest(location)
        if first["type"] == "missing":
            known = location
        texts = explain_validation(kind, error) | {"expected": f"the keys and ranges of {describe_part(path, values)}"}
        raise RecipeError(**texts, place=positions.describe(known)) from None


def check_kept_metric(
    config: Config | None, tasks: Sequence[EvaluationTask], path: KeyPath, positions: Positions
) -> None:
    """Refuse a stage's `keep_metric` that is no task's, or a task's that has no rows to choose by.

    Raises:
        RecipeError: See above, at the key's line.
    """
    metric = getattr(config, "keep_metric", None)
    if metric is None:
        return
    place = positions.describe(positions.nearest((*path, "keep_metric")))
    name, _ = split_metric(metric)
    task = next((task for task in tasks if task.name == name), None)
    if task is None:
        raise RecipeError(
            f"'{name}' is no task of this recipe",
            expected="<task> or <task>/<part>, of a task that 'evaluate' lists",
            cure=suggest(name, [task.name for task in tasks]) if tasks else f"add a task '{name}' to 'evaluate'",
            place=place,
        )
    if task.type != GENERATION:
        raise RecipeError(
            f"the task '{name}' is of the type {task.type}: nothing is generated in it",
            expected=f"a task of the type {GENERATION}, whose answers the policy writes itself",
            cure="name another task, or choose by the loss with keep: best_validation_loss",
            place=place,
        )
    if find_development(task) is None:
        raise RecipeError(
            f"the task '{name}' has no development rows",
            expected="rows to choose by that are none of those it is measured on",
            cure="add 'development: {source: ...}' to the task, with rows of their own",
            place=place,
        )


def check_chat_template(chat: ChatSettings, roots: Roots, positions: Positions) -> None:
    """Refuse a chat template that is neither `auto`, `plain`, nor a readable file below the roots.

    Raises:
        RecipeError: See above.
    """
    if chat.template in ("auto", "plain"):
        return
    place = positions.describe(("chat", "template"))
    path = roots.resolve(chat.template, place=place)
    if not _is_small_file(path):
        raise RecipeError(
            f"{chat.template!r} is no file of at most {MAX_BYTES // 1024} kB",
            expected="auto, plain, or the path of a .jinja file, relative to the recipe's folder",
            cure=suggest(chat.template, ("auto", "plain")),
            place=place,
        )


def _is_small_file(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES


def check_sources(value: Any, path: KeyPath, roots: Roots, positions: Positions) -> None:
    """Refuse a `source`, at any depth of a configuration, that leaves the declared roots.

    Args:
        value: A configuration, or the plain values of a plug-in's (any key `source` counts there).
        path: Where it stands in the recipe.
        roots: The declared roots.
        positions: The places of the recipe's keys.

    Raises:
        RecipeError: A path outside the roots, with its place.
    """
    if isinstance(value, BaseModel):
        if isinstance(value, DataSource) or "source" in type(value).model_fields:
            value = {**dict(value), "source": getattr(value, "source", None)}
        else:
            value = dict(value)
    if isinstance(value, Mapping):
        source = value.get("source")
        if isinstance(source, str):
            roots.locate(source, place=positions.describe(positions.nearest((*path, "source"))))
        for key, inner in value.items():
            check_sources(inner, (*path, key), roots, positions)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_sources(inner, (*path, index), roots, positions)


def find_scorer_plugins(value: str | Mapping[str, Any], roots: Roots, place: str) -> dict[str, Plugin]:
    """Return the user's own scorers in a scorer as a recipe writes it, by reference.

    Raises:
        RecipeError: No scorer of some name is known, settings do not fit, or a knowledge base lies outside the roots.
    """
    found = {}
    for part in list_parts(value, place=place):
        if isinstance(part, FunctionSettings):
            found[part.reference] = require_plugin("scorer", part.reference, roots, place)
        elif (base := getattr(part, "knowledge_base", None)) is not None:
            roots.resolve(base, place=place)
    return found


def require_plugin(kind: PluginKind, reference: str, roots: Roots, place: str) -> Plugin:
    """Return the plug-in that a recipe names.

    Raises:
        RecipeError: It cannot be found; the cure lists what is known.
    """
    plugin = find_plugin(kind, reference, roots, place=place)
    if plugin is None:
        built_in = {"stage": tuple(BUILT_IN_STAGES), "scorer": tuple(SCORERS)}.get(kind, ())
        raise RecipeError(
            f"no {kind} is called '{reference}'",
            expected=f"a built-in {kind}, an installed entry point, or file.py:name below the recipe's folder",
            cure=suggest(reference, [*built_in, *list_plugin_names(kind)]),
            place=place,
        )
    return plugin
