"""Changes to a recipe from the command line: `--set sft.learning_rate=1e-4`.

The path begins with a top-level key (`seed`, `chat.template`), with a stage's name (`sft.lora.rank`), or
with `stages.<index>`; an element of a list is named by its index, or by its `name` (`evaluate.gsm8k.max_new_tokens`).
The value is read as YAML, so that `1e-4` is a number, `null` is none and
`[a, b]` is a list. What the path leads to must be a key that the recipe may have: the strict
validation of the whole recipe, which follows, refuses any other with a suggestion.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.pipeline.yaml_reader import KeyPath, Positions, read_yaml

_PART = re.compile(r"[A-Za-z0-9_-]+")
_EXAMPLE = "sft.learning_rate=1e-4"


def apply_overrides(
    values: dict[str, Any], positions: Positions, overrides: Sequence[str], known: Iterable[str]
) -> tuple[dict[str, Any], Positions]:
    """Return the recipe's values with overrides applied in order, and positions that name them.

    Args:
        values: What the recipe file holds; not changed.
        positions: The places of those values.
        overrides: Texts of the form `path=value`.
        known: The top-level keys of a recipe.

    Raises:
        RecipeError: A text without `=`, a value that is not YAML, a path that leads nowhere.
    """
    values = copy.deepcopy(values)
    places = dict(positions.places)
    for override in overrides:
        path, value = parse_override(override)
        place = f"--set {'.'.join(path)}"
        keys = _assign(values, _resolve_path(values, path, known, place), value, place)
        for below in [key for key in places if key[: len(keys)] == keys]:
            del places[below]
        places[keys] = place
        for length in range(1, len(keys)):
            places.setdefault(keys[:length], place)
    return values, Positions(positions.name, places)


def parse_override(override: str) -> tuple[list[str], Any]:
    """Return the parts of the path and the value of one override.

    Raises:
        RecipeError: It has no `=`, an empty part in its path, no value, or a value that is not YAML.
    """
    path, separator, text = override.partition("=")
    parts = path.strip().split(".")
    if not separator or not all(_PART.fullmatch(part) for part in parts):
        raise RecipeError(
            f"found {override!r}", expected=f"path=value, such as {_EXAMPLE}", place=f"--set {override[:60]}"
        )
    place = f"--set {path.strip()}"
    if not text.strip():
        raise RecipeError("nothing follows '='", expected="a value", cure="write null for 'none'", place=place)
    value, _ = read_yaml(text, place)
    return parts, value


def _resolve_path(values: dict[str, Any], parts: Sequence[str], known: Iterable[str], place: str) -> KeyPath:
    """Return a path from the top of the recipe: a stage's name becomes `stages.<its index>`."""
    first = parts[0]
    known = sorted(known)
    if first in known:
        return tuple(parts)
    entries = values.get("stages")
    stages = entries if isinstance(entries, list) else []
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in stages]
    if first not in names:
        raise RecipeError(
            f"'{first}' is neither a key of the recipe nor the name of a stage",
            expected="a path that begins with one of them",
            cure=suggest(first, [*known, *(name for name in names if isinstance(name, str))]),
            place=place,
        )
    if len(parts) == 1:
        raise RecipeError(
            f"the path ends at the stage '{first}'",
            expected="a key of the stage",
            cure=f"write {first}.<key>=...",
            place=place,
        )
    return ("stages", names.index(first), *parts[1:])


def _assign(values: dict[str, Any], keys: KeyPath, value: Any, place: str) -> KeyPath:
    """Set one value, making mappings on the way; return the path with the indices of lists as numbers."""
    target: Any = values
    walked: KeyPath = ()
    for depth, key in enumerate(keys):
        if isinstance(target, list):
            key = _index(target, key, place)
        elif not isinstance(target, dict):
            above = ".".join(str(part) for part in walked)
            raise RecipeError(
                f"'{above}' is {target!r}, which has no keys",
                expected="a mapping",
                cure=f"set it as a whole, with all its keys: --set '{above}={{{key}: ..., ...}}'",
                place=place,
            )
        walked = (*walked, key)
        if depth == len(keys) - 1:
            target[key] = value
        else:
            if isinstance(target, dict) and target.get(str(key)) is None:
                target[str(key)] = {}
            target = target[key]
    return walked


def _index(items: list[Any], key: str | int, place: str) -> int:
    if str(key).isdecimal() and int(key) < len(items):
        return int(key)
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if names.count(key) == 1:
        return names.index(key)
    known = [name for name in names if isinstance(name, str)]
    raise RecipeError(
        f"'{key}' is no index of a list of {len(items)}" + (", and no name in it" if known else ""),
        expected=f"a number from 0 to {len(items) - 1}" if items else "a list that is not empty",
        cure=suggest(str(key), known) if known else "name an element by its index",
        place=place,
    )
