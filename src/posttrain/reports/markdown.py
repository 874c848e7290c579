"""Markdown in which text of unknown origin stays text: no link, no HTML, no heading, no table of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from posttrain.reports.visible_text import cut_text, show_hidden

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[!#$*@\[\\\]^_`{|}~]|(?<=[^\W\d_])\.(?=\w)|\.(?=[^\W\d_])|:(?! )")
"""What may begin something anywhere: emphasis, code, a link, an address, a cell. A dot between letters may be an
address's, a colon without a space after it a scheme's."""
_BEGINNING = re.compile(r"(\d+)([.)])(?=\s|$)|([-+])(?=\s|$|-)|([=:])")
"""What may begin something where a line begins: a list, a rule, a heading's underline."""
_NAME = re.compile(r"[A-Za-z0-9][\w./:@+-]{0,119}")


def escape(text: str, limit: int = 400) -> str:
    """Return a text as one line that means nothing but itself, wherever in a line it stands.

    Hidden characters are written out, line breaks become spaces, `<`, `>` and `&` become entities, and a backslash
    stands before all other punctuation that could begin something.

    Source: CommonMark 0.31, section 2.4 (any ASCII punctuation may be escaped so).
    """
    shown, num_left_out = cut_text(" ".join(show_hidden(text).split()), limit)
    escaped = _SPECIAL.sub(lambda match: f"\\{match[0]}", shown)
    begun = _BEGINNING.match(escaped)
    if begun:
        escaped = f"{begun[1] or ''}\\{escaped[len(begun[1] or '') :]}"
    return "".join(_ENTITIES.get(character, character) for character in escaped) + (" …" if num_left_out else "")


def write_name(text: str) -> str:
    """Return a name as code where it is one, and as escaped text where it is anything else."""
    return f"`{text}`" if _NAME.fullmatch(text) else escape(text)


def write_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table's lines, and an empty one; headings and cells are Markdown already."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def write_block(text: str, language: str = "") -> list[str]:
    """Return a fenced block, whose fence is longer than any that the text holds, and an empty line."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return [f"{fence}{language}", *show_hidden(text).rstrip().split("\n"), fence, ""]
