"""A completion as candidates for rows: JSON values wherever they stand, marked lines, and named fields.

Whatever a model wrote comes out as something, so that it can be counted: what is no candidate is `Unread`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_BROKEN_VALUES = 64
"""Beginnings of JSON that come to nothing; after so many the rest of a text is read as lines."""

_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d{1,4}[.):]|#\d{1,4}[.):]?)\s+")
_FENCE = re.compile(r"^\s*```\w*\s*$")
_FIELD = re.compile(r"^\W*(question|matching|not[ _-]matching)\W*:\s*(.*)$", re.IGNORECASE)
_PUNCTUATION = " \t\r[]{},:;"
_OPENING = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Unread:
    """A line that is no candidate, such as the writer's own words to whoever asked."""

    text: str


Candidate = Mapping[str, Any] | str | Unread
"""An object, a marked line or a text of a list, or what is neither."""


def split_candidates(text: str, *, has_fields: bool) -> Iterator[Candidate]:
    """Yield what a text holds, in its order.

    Args:
        text: Whatever a model wrote.
        has_fields: Rows are several texts, so that lines `Question: ...` belong together, and a marked line alone is
            none.
    """
    block: dict[str, str] = {}
    broken = position = 0
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        line = text[position:end]
        found, broken = _find_value(text, position, end, broken)
        if found is not None:
            value, start, position = found
            line = text[end - len(line) : start]
        else:
            position = end + 1
        named = _FIELD.match(_MARK.sub("", line)) if has_fields else None
        if block and (named is None or _name(named) in block):
            yield block
            block = {}
        if named is not None:
            block[_name(named)] = named[2].strip("*_ \t\r")
        elif line.strip(_PUNCTUATION) and not _FENCE.match(line) and not (found and not _MARK.sub("", line)):
            yield _read_line(line, has_fields=has_fields)
        if found is not None:
            yield from _unfold(value)
    if block:
        yield block


def _find_value(text: str, start: int, end: int, broken: int) -> tuple[tuple[Any, int, int] | None, int]:
    """Return the first JSON object or list that begins in a line with its beginning and end, and what was broken."""
    for opening in _OPENING.finditer(text, start, end):
        if broken >= MAX_BROKEN_VALUES:
            break
        try:
            value, after = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            broken += 1
            continue
        return (value, opening.start(), after), broken
    return None, broken


def _name(named: re.Match[str]) -> str:
    return re.sub(r"[ -]", "_", named[1].lower())


def _read_line(line: str, *, has_fields: bool) -> Candidate:
    """Return the text of a marked line; one without a mark may be anything."""
    unmarked = _MARK.sub("", line)
    return unmarked if unmarked != line and not has_fields else Unread(line)


def _unfold(value: Any) -> Iterator[Candidate]:
    """Yield the objects and texts of a JSON value: itself, those of a list, or of the one list that it holds."""
    if isinstance(value, dict):
        inner = list(value.values())
        if len(inner) != 1 or not isinstance(inner[0], list):
            yield value
            return
        value = inner[0]
    for part in value:
        yield part if isinstance(part, dict | str) else Unread(show(part))


def show(candidate: Any) -> str:
    """Return a candidate as text that can be written to a file, however it is nested."""
    if isinstance(candidate, Unread):
        candidate = candidate.text
    try:
        text = candidate if isinstance(candidate, str) else json.dumps(candidate, ensure_ascii=False, default=str)
    except RecursionError:
        text = "a value nested too deeply"
    return text.encode(errors="replace").decode()
