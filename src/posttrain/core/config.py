"""The base of every typed configuration: frozen, strict, with identity and did-you-mean.

A field that changes no result (log interval, paths) is declared with `display_field(...)`; it is left
out of `identity()`, hence out of artifact keys, and stays in the plan's hash. One declared with
`optional_field(...)` is left out while it has its default.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posttrain.core.errors import RecipeError
from posttrain.core.hashing import hash_json

_WHERE_GIVEN = "where given"


class Config(BaseModel):
    """A frozen configuration: unknown keys are refused, `None` means off, text is never silently converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the result, as JSON-like values."""
        return _identity(self)

    def identity_hash(self) -> str:
        """Return the hash of `identity()`."""
        return hash_json(self.identity())


def display_field(default: Any = ..., **arguments: Any) -> Any:
    """Declare a field that changes no result and so does not belong to an artifact's identity."""
    return Field(default, json_schema_extra={"identity": False}, **arguments)


def optional_field(default: Any = None, **arguments: Any) -> Any:
    """Declare a field that belongs to the identity only where it is not its default, which is None unless given.

    So a configuration that does without it has the name that it would have if there were no such field.
    """
    return Field(default, json_schema_extra={"identity": _WHERE_GIVEN}, **arguments)


def _identity(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: _identity(getattr(value, name))
            for name, field in fields.items()
            if _is_named(field.json_schema_extra, getattr(value, name) == field.default)
        }
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return value


def _is_named(extra: Any, is_default: bool) -> bool:
    """Return whether a field of this declaration belongs to the identity."""
    rule = extra.get("identity") if isinstance(extra, dict) else None
    return rule is not False and not (rule == _WHERE_GIVEN and is_default)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a did-you-mean sentence for an unknown name, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.55)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(names) if names else "nothing is known here"


def parse_config(kind: type[Config], values: Any, *, place: str) -> Any:
    """Return a validated config, or raise one error that names every wrong key and its cure.

    Args:
        kind: The config class (a discriminated union is resolved by the caller).
        values: What the recipe holds at this place.
        place: The recipe key path, used in the message.

    Raises:
        RecipeError: Unknown keys, wrong types, values out of range, impossible pairs.
    """
    if not isinstance(values, Mapping):
        raise RecipeError(
            "found nothing" if values is None else f"found {_describe(values)}",
            expected=f"a mapping with the keys of {kind.__name__}",
            cure=f"write them as 'key: value', one a line: {', '.join(sorted(kind.model_fields))}",
            place=place,
        )
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise RecipeError(**explain_validation(kind, error), place=place) from None


def explain_validation(kind: type[BaseModel], error: ValidationError) -> dict[str, str]:
    """Return the found, expected and cure texts of a pydantic error, with suggestions for unknown keys."""
    found, cures = [], []
    for detail in error.errors():
        path = ".".join(str(part) for part in drop_tags(kind, detail["loc"]))
        if detail["type"] == "extra_forbidden":
            found.append(f"unknown key '{path}'")
            cures.append(f"'{path}': {suggest(str(detail['loc'][-1]), _known_keys(kind, detail['loc'][:-1]))}")
        elif detail["type"] == "missing":
            found.append(f"'{path}' is missing")
            cures.append(f"add '{path}'")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            is_pair = detail["type"] == "value_error" and isinstance(detail["input"], Mapping)
            shown = "" if is_pair else f" (found {_describe(detail['input'])})"
            found.append(f"{path + ': ' if path else ''}{message}{shown}")
    return {
        "found": "; ".join(found),
        "expected": f"the keys and ranges of {kind.__name__}",
        "cure": "; ".join(cures) or "correct the value",
    }


def _known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the models that a location inside `kind` points into."""
    models: list[type[BaseModel]] = [kind]
    for part in path:
        models = _enter(models, part)
    return sorted({name for model in models for name in model.model_fields})


def drop_tags(kind: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return an error's location as the user wrote it: without the names of a union's members that stand in it."""
    models: list[type[BaseModel]] = [kind]
    kept: list[int | str] = []
    for part in location:
        if not _is_tag(models, part):
            kept.append(part)
        models = _enter(models, part)
    return tuple(kept)


def _enter(models: list[type[BaseModel]], part: int | str) -> list[type[BaseModel]]:
    if _is_tag(models, part):
        return [model for model in models if part in typing.get_args(model.model_fields["type"].annotation)]
    fields = [model.model_fields[part] for model in models if isinstance(part, str) and part in model.model_fields]
    return [inner for field in fields for inner in _models_in(field.annotation)] or models


def _is_tag(models: list[type[BaseModel]], part: int | str) -> bool:
    """Return whether a part of a location names a member of a union that is told by `type`."""
    named = [typing.get_args(model.model_fields["type"].annotation) for model in models if "type" in model.model_fields]
    return len(models) > 1 and any(part in names for names in named)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_origin(annotation) is not None:
        return [model for part in typing.get_args(annotation) for model in _models_in(part)]
    return []


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
