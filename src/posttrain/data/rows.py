"""Raw rows as they come out of files, and what stands in the place of a row that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Values = dict[str, Any]
"""A row's columns by name."""

MAX_ROW_BYTES = 64 << 20
"""A row longer than this is refused before it is parsed (a book of 18 million characters fits)."""

MAX_DEPTH = 64
"""Lists and objects nested deeper than this are refused: templates and hashes walk rows recursively."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One object as read, before anyone asked what it means.

    Made by the readers, read by `schemas.read_example`. `row_id` is `<file name>:<number>`, where the
    number is the line of a JSON Lines file and counts rows from 1 elsewhere; `place` is what an error
    message shows. Example: line 3 of `/data/train.jsonl` has `row_id="train.jsonl:3"` and
    `place="/data/train.jsonl:3"`.
    """

    row_id: str
    place: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read: where it is, the reason it is counted under, and what was found.

    Made by the readers, read by `examples.iterate_examples`, which writes it into the ledger. `kind` is `left_out`
    where a published form's own rule leaves the row out: it is counted, and not held against `max_bad_fraction`.
    """

    row_id: str
    place: str
    reason: str
    detail: str
    cure: str = ""
    kind: Literal["bad", "left_out"] = "bad"


class RowError(ValueError):
    """A row that was read but does not mean anything that can be used.

    Args:
        reason: A short name that the ledger counts under (`unknown role`).
        detail: What was found in this row.
        cure: What the user can do about it.
    """

    kind: Literal["bad", "left_out"] = "bad"

    def __init__(self, reason: str, detail: str = "", cure: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail or reason
        self.cure = cure

    def describe(self, row: RawRow) -> BadRow:
        """Return what stands in the place of a row of which this is wrong."""
        return BadRow(row.row_id, row.place, self.reason, self.detail, self.cure, self.kind)


class LeftOutError(RowError):
    """A row that a published form leaves out by its own rule: a tie, a label that points nowhere."""

    kind = "left_out"


def require(values: Values, column: str, kind: type, what: str) -> Any:
    """Return a column, or raise a `RowError` that says what is wrong with it."""
    if values.get(column) is None:
        cure = "map it: columns: {" + column + ": <your column>}"
        raise RowError("missing column", f"no '{column}'; the row has: {', '.join(sorted(values)) or 'nothing'}", cure)
    if not isinstance(values[column], kind):
        raise RowError("wrong type", f"'{column}' is {type(values[column]).__name__}, not {what}")
    return values[column]


def shorten(value: Any, limit: int = 80) -> str:
    """Return a value as one line of printable text of at most `limit` characters, for messages."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def find_unusable(values: Any) -> str:
    """Return why a value cannot be used (`nested too deeply`, `lone surrogate`), or an empty string.

    A lone surrogate is half of a UTF-16 pair, which JSON can spell (`"\\ud83d"`) and UTF-8 cannot.
    """
    waiting = [(values, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                return "lone surrogate"
        elif isinstance(value, dict):
            waiting += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list | tuple):
            waiting += ((part, depth + 1) for part in value)
        if depth > MAX_DEPTH:
            return "nested too deeply"
    return ""
