"""Rows as they are trained on: every token with who wrote it and whether it carries loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.records import Source
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.visible_text import Piece, split_whitespace

MAX_ROWS = 8
MAX_TOKENS = 480
SOURCES = {int(source): source.name.lower() for source in Source}


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its text in pieces, its id, who wrote it, whether it is trained on.

    A line break at its end is drawn after it (`ends_line`), so that its colour does not reach into the
    next line.
    """

    pieces: list[Piece]
    id: str
    source: str
    is_trained: bool
    ends_line: bool


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row: its data row's name, its tokens (the first `MAX_TOKENS`), and its counts."""

    row_id: str
    tokens: list[Token]
    num_tokens: int
    num_trained: int
    num_left_out: int


def build_token_rows(rows: Sequence[Any]) -> list[TokenRow]:
    """Return the rows of rows.json, `[{row_id, tokens: [[text, id, source, is_trained], ...]}]`."""
    return [_build_row(mapping_of(row)) for row in rows[:MAX_ROWS] if list_of(mapping_of(row).get("tokens"))]


def find_sources(rows: Sequence[TokenRow]) -> list[str]:
    """Return the sources that occur, in the order of their numbers: the legend."""
    found = {token.source for row in rows for token in row.tokens}
    return [name for name in [*SOURCES.values(), "unknown"] if name in found]


def _build_row(row: dict[str, Any]) -> TokenRow:
    tokens = [_read_token(list_of(token)) for token in list_of(row.get("tokens"))]
    return TokenRow(
        row_id=text_of(row.get("row_id")),
        tokens=tokens[:MAX_TOKENS],
        num_tokens=len(tokens),
        num_trained=sum(token.is_trained for token in tokens),
        num_left_out=max(0, len(tokens) - MAX_TOKENS),
    )


def _read_token(values: list[Any]) -> Token:
    text, id_, source, is_trained = [*values, None, None, None, None][:4]
    number = number_of(source)
    name = SOURCES.get(int(number), "unknown") if number is not None else "unknown"
    pieces = split_whitespace(text_of(text))
    ends_line = pieces[-1].text.endswith("\n")
    if ends_line:
        pieces[-1] = Piece(pieces[-1].text.rstrip("\n"), True)
    return Token(pieces, text_of(id_), name, bool(is_trained), ends_line)
