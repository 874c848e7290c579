"""Counting what a text is made of: words, sentences, paragraphs, lines. Every count is linear in the text's length."""

from __future__ import annotations

import re

import sentencex

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


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text that hold a letter or a digit, by the rules of `sentencex` for English.

    A blank line ends a sentence, a single line break does not, unless a list item follows.
    """
    text = text.encode("utf-8", errors="replace").decode("utf-8")  # half a surrogate pair has no UTF-8
    return [piece for piece in sentencex.segment("en", text) if has_words(piece)]


def has_words(text: str) -> bool:
    """Return whether a text holds a letter or a digit of any script."""
    return any(character.isalnum() for character in text)
