"""Who wrote which characters of a rendered text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def locate_contents(
    text: str, messages: Sequence[Mapping[str, Any]], headers: Mapping[str, str]
) -> list[tuple[int, int, str]]:
    """Return [start, end) and role of the messages' own words in a rendered text, in order.

    A content that the template rewrote (escaped, dropped from history) is left out: its text then counts
    as the template's.
    """
    found, cursor = [], 0
    for message in messages:
        role = str(message.get("role"))
        for words in (message.get("reasoning_content"), message.get("content")):
            if not isinstance(words, str) or not words.strip():
                continue
            if (span := _locate(text, words, cursor, headers.get(role, ""))) is not None:
                found.append((*span, role))
                cursor = span[1]
    return found


def _locate(text: str, words: str, cursor: int, header: str) -> tuple[int, int] | None:
    """Return where words stand from a position on: after their role's header, or anywhere."""
    for start_text in (header, "") if header else ("",):
        for form in (words, words.strip()):
            position = text.find(start_text + form, cursor)
            if position >= 0:
                start = position + len(start_text)
                return start, start + len(form)
    return None
