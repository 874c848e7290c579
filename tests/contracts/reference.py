"""What a page of reference must say of a configuration's key: its values and its default, read from the class."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def describe_key(name: str, field: FieldInfo) -> tuple[str, str, str]:
    """Return the first three cells of a key's row: key, values, default."""
    return f"`{field.alias or name}`", describe_values(field), describe_default(field)


def describe_values(field: FieldInfo) -> str:
    """Return a field's type and range in words; None is said by the default."""
    limits = [
        f"{sign} {_write_number(getattr(item, bound))}"
        for bound, sign in _BOUNDS.items()
        for item in field.metadata
        if getattr(item, bound, None) is not None
    ]
    is_name = any(getattr(item, "pattern", None) for item in field.metadata)
    return " ".join([*(["name"] if is_name else [_describe_type(field.annotation)]), ", ".join(limits)]).strip()


def _write_number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _describe_type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe_type(parts[0])
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe_type(part) for part in parts if part is not type(None)))
    if origin is list:
        return f"list of {_describe_type(parts[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    raise TypeError(f"no words for {annotation}")


def describe_default(field: FieldInfo) -> str:
    """Return a field's default as a recipe would write it, or `required`."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is PydanticUndefined:
        raise TypeError("a default that cannot be read")
    if isinstance(value, str):
        return f"`{value.encode('unicode_escape').decode()}`"
    return f"`{json.dumps(value)}`"
