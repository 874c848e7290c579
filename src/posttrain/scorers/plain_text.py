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
    ("a table", re.compile(r"^[ \t]*\|?[ \t]*:?-{3,}:?[ \t]*\|", re.MULTILINE)),
    ("a block quotation", re.compile(r"^[ \t]{0,3}>[ \t]*\S", re.MULTILINE)),
)
_ALLOWED_CONTROLS = {"\n", "\t", "\r", "\u200c", "\u200d"}
"""Line ends and tabs; the joiners that Persian, Hindi and emoji are written with."""


def find_markup(text: str) -> str | None:
    """Return what makes a text more than plain text, None where nothing does.

    Control, format and unassigned characters (Unicode Cc, Cf, Cs, Co, Cn: escape sequences, direction overrides,
    zero-width signs), HTML and markdown count; a list with dashes or numbers is plain.
    """
    for character in text:
        if not character.isprintable() and character not in _ALLOWED_CONTROLS:
            if unicodedata.category(character)[0] != "C":
                continue  # spaces of other widths, line separators
            return f"the control or invisible character U+{ord(character):04X}"
    for name, pattern in _MARKUP:
        if pattern.search(text):
            return name
    return None
