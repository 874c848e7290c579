"""Values of unknown origin, read as what they may be: text, a finite number, a list, a mapping."""

from __future__ import annotations

import json
import math
from typing import Any

LARGEST = 1e300
"""Beyond it, the difference of two values has no width a float can hold."""


def text_of(value: Any) -> str:
    """Return a scalar as text; an absent value is empty, a structure is its JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def number_of(value: Any) -> float | None:
    """Return a finite float, or None for everything else (text, booleans, NaN, infinity, giants)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None


def list_of(value: Any) -> list[Any]:
    """Return a list as it is, and an empty one for everything else."""
    return value if isinstance(value, list) else []


def mapping_of(value: Any) -> dict[str, Any]:
    """Return a mapping as it is, and an empty one for everything else."""
    return value if isinstance(value, dict) else {}


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line, or None."""
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
