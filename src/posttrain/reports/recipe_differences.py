"""What differs between the recipes of two runs, leaf by leaf, and between what they ran on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.reports.numbers import NO_VALUE
from posttrain.reports.raw_values import text_of
from posttrain.reports.run_files import RunFiles
from posttrain.reports.visible_text import cut_text

MAX_CHARACTERS = 160
MAX_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose value is another one in B, or which one of the two lacks (`–`)."""

    key: str
    a: str
    b: str


def list_differences(a: RunFiles, b: RunFiles) -> list[Difference]:
    """Return the leaves of both recipes that differ, then checks that were overridden, versions and machine.

    A record with a name (a stage, a task) is compared with the one of that name; one that only one run has is one
    difference, however much it holds.
    """
    sides = [_flatten(files.resolved, "") for files in (a, b)]
    for side, files in zip(sides, (a, b), strict=True):
        side |= _flatten({key: files.run.get(key) for key in ("overrides", "versions", "machine")}, "run")
    found = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        values = [side.get(key) for side in sides]
        if values[0] == values[1] or _is_inside_missing(key, sides[0], sides[1]):
            continue
        found.append(Difference(key, *(_show(value) for value in values)))
    return found


def _is_inside_missing(key: str, first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """Return whether a leaf lies in a named record that one side lacks, which is told of once."""
    parts = key.split(".")
    holders = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    return any((holder in first) != (holder in second) for holder in holders)


def _flatten(value: Any, key: str, depth: int = 0) -> dict[str, str]:
    """Return the leaves by key; of a record with a name its type stands under the record's own key too."""
    if depth < MAX_DEPTH and isinstance(value, dict) and value:
        is_named = depth > 0 and isinstance(value.get("name"), str)
        own = {key: f"({text_of(value.get('type')) or 'present'})"} if is_named else {}
        for name, part in value.items():
            own |= _flatten(part, f"{key}.{name}" if key else name, depth + 1)
        return own
    if depth < MAX_DEPTH and isinstance(value, list) and any(isinstance(part, dict) for part in value):
        found: dict[str, str] = {}
        for number, part in enumerate(value, start=1):
            own_name = part.get("name") if isinstance(part, dict) else None
            found |= _flatten(part, f"{key}.{own_name if isinstance(own_name, str) else number}", depth + 1)
        return found
    return {key: text_of(value) if value is not None else "none"}


def _show(value: str | None) -> str:
    if value is None:
        return NO_VALUE
    text, num_left_out = cut_text(value, MAX_CHARACTERS)
    return text + (" …" if num_left_out else "")
