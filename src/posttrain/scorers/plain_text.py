"""What is not plain text: markup that a page renders, control codes that a terminal obeys, signs that nobody sees."""

from __future__ import annotations

import re
import unicodedata

_MARKUP = (
    ("an HTML tag", re.compile(r"<[A-Za-z/!?]")),
    ("an HTML entity", re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")),
    ("a code fence", re.compile(r"^[ \t]{0,3}(?:```|~~~)", re.MULTILINE)),
    ("a heading", re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+[^\s]", re.MULTILINE)),
    ("a link or an image", re.compile(r"\][(\[]")),
    ("bold text", re.compile(r"\*\*[^\s*]|(?<!\w)__[^\W_]")),
    ("inline code", re.compile(r"`[^`\n]{1,1000}`")),
    ("a table", re.compile(r"^[ \t]*+(?:\|[ \t]*+)?:?-{3,}+:?[ \t]*+\|", re.MULTILINE)),
    ("a block quotation", re.compile(r"^[ \t]{0,3}>[ \t]*\S", re.MULTILINE)),
)
_ALLOWED_CONTROLS = {"\n", "\t", "\u200c", "\u200d"}
"""Line ends and tabs; the joiners that Persian, Hindi and emoji are written with. A carriage return alone would let a
terminal write over the line."""
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_STACKED_MARKS = re.compile(r"[\u0300-\u036f]{5,}")


def find_markup(text: str) -> str | None:
    """Return what makes a text more than plain text, None where nothing does.

    Control, format and unassigned characters (Unicode Cc, Cf, Cs, Co, Cn, Zl, Zp: escape sequences, direction
    overrides, zero-width signs), marks stacked five high, HTML and markdown count; a list with dashes or numbers is
    plain.
    """
    text = text.replace("\r\n", "\n")
    for character in text:
        if character.isprintable() or character in _ALLOWED_CONTROLS:
            continue
        if unicodedata.category(character) in _HIDDEN_CATEGORIES:
            return f"the control or invisible character U+{ord(character):04X}"
    if _STACKED_MARKS.search(text):
        return "marks stacked on one letter"
    for name, pattern in _MARKUP:
        if pattern.search(text):
            return name
    return None
