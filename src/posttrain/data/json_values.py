"""Values of a row as JSON can hold them: a table's dates, decimals, bytes and numbers that are none."""

from __future__ import annotations

import math
from datetime import date, datetime, time
from typing import Any

_LARGEST = 3.4e38  # about float32's own; an integer beyond the largest float cannot even be made one


def to_json_value(value: Any) -> tuple[Any, bool]:
    """Return a value as JSON-like values, and whether nothing of it was lost.

    Dates and times become ISO 8601 texts, bytes text where they are UTF-8 and else hexadecimal digits, other objects
    their text. A number that JSON has none of (NaN, infinite) becomes null, and is lost.
    """
    if value is None or isinstance(value, bool | int | str):
        return value, True
    if isinstance(value, float):
        return (value, True) if math.isfinite(value) else (None, False)
    if isinstance(value, dict):
        named = {str(key): to_json_value(inner) for key, inner in value.items()}
        return {key: inner for key, (inner, _) in named.items()}, all(whole for _, whole in named.values())
    if isinstance(value, list | tuple):
        listed = [to_json_value(inner) for inner in value]
        return [inner for inner, _ in listed], all(whole for _, whole in listed)
    if isinstance(value, datetime | date | time):
        return value.isoformat(), True
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8"), True
        except UnicodeDecodeError:
            return value.hex(), True
    return str(value), True


def read_number(value: Any) -> float | None:
    """Return a row's number, or None where it is none or one that float32, in which models are trained, cannot hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        return None
    return float(value)
