"""Values that a model wrote as Java or JavaScript source inside a text: `"5L"`, `"new int[]{1, 2}"`, `"[1, 'a']"`.

BFCL's Java and JavaScript functions take every argument as such a text. What is no literal of these few kinds stays
the text that it is: a variable, a constructor call.
"""

from __future__ import annotations

import re
from typing import Any

MAX_CHARACTERS = 2_000
"""A longer text is taken as it is: the patterns below may take quadratic time."""
_NUMBER = re.compile(r"[-+]?\d{1,20}(?:\.\d{1,40})?(?:[eE][-+]?\d{1,3})?[lLfFdD]?")
_ARRAY = re.compile(r"(?:new\s+\w+\s*\[\s*\]\s*)?\{(.*)\}", re.DOTALL)
_AS_LIST = re.compile(
    r"(?:new\s+ArrayList\s*<\s*\w*\s*>\s*\(\s*)?(?:Arrays\.asList|List\.of)\s*\((.*?)\)\s*\)?", re.DOTALL
)
_EMPTY_LIST = re.compile(r"new\s+ArrayList\s*<\s*\w*\s*>\s*\(\s*\)")
_ADDED = re.compile(r"new\s+ArrayList\s*<\s*\w*\s*>\s*\(\s*\)\s*\{\s*\{(.*)\}\s*\}", re.DOTALL)
_MAP = re.compile(r"new\s+HashMap\s*<[\w\s,]*>\s*\(\s*\)(?:\s*\{\s*\{?(.*?)\}?\s*\})?", re.DOTALL)
_ITEM = re.compile(r"\s*add\s*\((.*)\)\s*", re.DOTALL)
_ENTRY = re.compile(r"\s*put\s*\((.*)\)\s*", re.DOTALL)
_PIECE = re.compile(r"\"(?:[^\"\\]|\\.)*+\"|'(?:[^'\\]|\\.)*+'|[(\[{]|[)\]}]|[^\"'()\[\]{}]", re.DOTALL)


def read_literal(text: str, *, depth: int = 0) -> Any:
    """Return the value of a Java or JavaScript literal, the text itself where it is none of those known."""
    source = text.strip()
    if len(source) > MAX_CHARACTERS:
        return text
    if source in ("true", "false"):
        return source == "true"
    if source == "null":
        return None
    if len(source) >= 2 and source[0] == source[-1] and source[0] in "\"'" and source[0] not in source[1:-1]:
        return source[1:-1]
    if _NUMBER.fullmatch(source):
        digits = source.rstrip("lLfFdD")
        is_whole = re.fullmatch(r"[-+]?\d+", digits) and source[-1] not in "fFdD"
        return int(digits) if is_whole else float(digits)
    return text if depth >= 8 else _read_collection(source, text, depth + 1)


def _read_collection(source: str, text: str, depth: int) -> Any:
    if source.startswith("[") and source.endswith("]"):
        return [read_literal(piece, depth=depth) for piece in _split(source[1:-1], ",")]
    if source.startswith("{") and source.endswith("}") and (pairs := _split_pairs(source[1:-1])) is not None:
        return {name: read_literal(value, depth=depth) for name, value in pairs.items()}
    if _EMPTY_LIST.fullmatch(source):
        return []
    for form in (_AS_LIST, _ARRAY):
        if found := form.fullmatch(source):
            return [read_literal(piece, depth=depth) for piece in _split(found[1], ",")]
    if found := _ADDED.fullmatch(source):
        items = [_ITEM.fullmatch(piece) for piece in _split(found[1], ";")]
        return [read_literal(item[1], depth=depth) for item in items if item] if all(items) else text
    if found := _MAP.fullmatch(source):
        entries = [_ENTRY.fullmatch(piece) for piece in _split(found[1] or "", ";")]
        puts = [_split(entry[1], ",") for entry in entries if entry]
        if all(entries) and all(len(put) == 2 for put in puts):
            return {str(read_literal(put[0])): read_literal(put[1], depth=depth) for put in puts}
    return text


def _split(source: str, separator: str) -> list[str]:
    """Split at separators that stand outside quotes and brackets; blank pieces are left out."""
    pieces: list[str] = []
    current: list[str] = []
    level = 0
    for match in _PIECE.finditer(source):
        part = match[0]
        level += (part in "([{") - (part in ")]}")
        if part == separator and level == 0:
            pieces.append("".join(current))
            current = []
        else:
            current.append(part)
    pieces.append("".join(current))
    return [piece.strip() for piece in pieces if piece.strip()]


def _split_pairs(source: str) -> dict[str, str] | None:
    """Return the names and sources of a JavaScript object's body, None where it is none."""
    pairs = [_split(piece, ":") for piece in _split(source, ",")]
    if not all(len(pair) == 2 for pair in pairs):
        return None
    return {name.strip("\"'"): value for name, value in pairs}
