"""JSON read strictly: what two parsers could read differently, or what costs without bound, is refused.

Refused beside what RFC 8259 forbids: a key twice in one object, NaN and Infinity (and numbers that overflow to them),
integers longer than `MAX_DIGITS` digits, nesting deeper than `MAX_DEPTH`, half of a surrogate pair.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 20
"""Digits of an integer: all of 64 bits, and no more."""
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.?)*+"?|[\[{]|[\]}]', re.DOTALL)
"""A string that is not closed runs to the end, so that the scan stays linear."""


class JsonRefusedError(ValueError):
    """A text that is not strict JSON; its message says why in a sentence part."""


def parse_json(text: str) -> Any:
    """Return the value of a text that is one JSON value and nothing else (white space around it is allowed).

    Raises:
        JsonRefusedError: It is not, or it breaks one of the limits above.
    """
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_build_object,
            parse_constant=_refuse_constant,
            parse_int=_read_integer,
            parse_float=_read_float,
        )
    except json.JSONDecodeError as error:
        raise JsonRefusedError(f"not JSON: {error.msg} at character {error.pos}") from None
    _check_encoding(text, value)
    return value


def _check_depth(text: str) -> None:
    """Count brackets outside strings before anything recursive runs."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonRefusedError(f"nested deeper than {MAX_DEPTH}")
        elif match[0] in "]}":
            depth -= 1


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonRefusedError(f"the key {name[:40]!r} stands twice in one object")
            seen.add(name)
    return built


def _refuse_constant(name: str) -> Any:
    raise JsonRefusedError(f"{name} is no JSON number")


def _read_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise JsonRefusedError(f"an integer of {len(digits.lstrip('-'))} digits, more than {MAX_DIGITS}")
    return int(digits)


def _read_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonRefusedError("a number too large for a float")
    return value


def _check_encoding(text: str, value: Any) -> None:
    """Refuse half a surrogate pair, which no file or terminal can show; only an escape can smuggle one in."""
    if "\\u" in text or not text.isascii():
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise JsonRefusedError("half of a surrogate pair in a string") from None
