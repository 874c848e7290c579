"""Counting what a text is made of: words, words in capitals. Every count is linear in the text's length."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_JOINED_WORD = re.compile(r"\w+(?:[-.&/]\w+)*")
_BREAK = re.compile(r"[\s\u2013-\u2015]+")


def count_words(text: str) -> int:
    r"""Return the runs of word characters (`\w+`), as IFEval counts: "don't" is two."""
    return sum(1 for _ in _WORD.finditer(text))


def count_spaced_words(text: str) -> int:
    """Return the pieces between spaces and dashes that hold a letter or digit: "don't" and "well-known" are one each.

    Languages written without spaces are not split into words.
    """
    return sum(1 for piece in _BREAK.split(text) if has_words(piece))


def find_capital_words(text: str) -> list[str]:
    """Return the words all of whose letters are capitals; a hyphenated word is one, "I" is one."""
    return [word for word in _JOINED_WORD.findall(text) if word.isupper()]


def has_words(text: str) -> bool:
    """Return whether a text holds a letter or a digit of any script."""
    return any(character.isalnum() for character in text)
