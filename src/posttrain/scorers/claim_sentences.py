"""The sentences of a line whose every character a claim or citation may need."""

from __future__ import annotations

import re

MAX_SENTENCE_CHARACTERS = 1000
_ABBREVIATIONS = frozenset(
    (
        "st", "dr", "mr", "mrs", "ms", "jr", "sr", "prof", "gen", "col", "lt", "capt", "sgt", "rev", "hon", "mt", "ft",
        "no", "vs", "inc", "co", "ltd", "corp", "dept", "univ", "e.g", "i.e", "etc", "al", "ca",
    )
)  # fmt: skip
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
_END = re.compile(r"(?<![.!?])([.!?]++[\"'\u201d\u2019)]*+)\s++(?=[^\sa-z])")
"""Possessive, and begun only where a run of marks begins: a long run costs its length, not its square."""


def split_sentences(line: str) -> list[str]:
    """Return the sentences of one line: each ends in `.`, `!` or `?` before something that is no small letter.

    A dot after initials (`J. S. Bach`, `J.S. Bach`) or a common abbreviation (`St. Louis`) ends none.
    """
    sentences, start = [], 0
    for found in _END.finditer(line):
        before = line[start : found.start()].rsplit(None, 1)
        last = before[-1].strip("(\"'").casefold() if before else ""
        if found[1] == "." and (_INITIALS.fullmatch(last) or last in _ABBREVIATIONS):
            continue
        sentences.append(line[start : found.end(1)].strip())
        start = found.end()
    sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]
