"""Text of unknown origin made visible: no character may hide, reorder or overwrite its neighbours.

Escaping for HTML is not done here: the templates do it, for every value. This room only replaces what
a browser would draw as nothing or would obey: control characters, marks of text direction, zero-width
characters, lone surrogates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_WHITESPACE = re.compile(r"([ \t\n\r]|[^ \t\n\r]+)")
_MARKS = {" ": "·", "\t": "→\t", "\n": "↵\n", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text, and whether it stands for whitespace rather than for itself.

    Example: the token " of\\n" is the pieces `·` (mark), `of`, `↵` and a line break (mark).
    """

    text: str
    is_mark: bool


def show_hidden(text: str) -> str:
    """Return a text with every hidden or commanding character written out (␛, ⟨U+202E⟩); line breaks and tabs stay."""
    return _HIDDEN.sub(_name_character, text.replace("\r\n", "\n"))


def cut_text(text: str, limit: int) -> tuple[str, int]:
    """Return the first `limit` characters of a text and how many characters were left out."""
    return (text, 0) if len(text) <= limit else (text[:limit], len(text) - limit)


def split_whitespace(text: str) -> list[Piece]:
    """Return the pieces of a token's text, whitespace drawn as marks that keep their effect."""
    if text == "":
        return [Piece("∅", True)]
    parts: list[str] = _WHITESPACE.findall(text)
    return [Piece(_MARKS[part], True) if part in _MARKS else Piece(show_hidden(part), False) for part in parts]


def _name_character(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return f"⟨U+{code:04X}⟩"
