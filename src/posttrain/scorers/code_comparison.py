"""Whether what a program gave is what was expected: values of exact types, and printed text.

Both sides are plain data of exact built-in types, so that no code of a program takes part: a class with an
`__eq__` of its own never comes this far. What a value's type is counts as much as the value: `True` is not 1,
1 is not 1.0, `(1, 2)` is not `[1, 2]`, unless `Comparison.types` is `loose`.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Any, Literal

_MAX_SHOWN_BITS = 4096
_NUMBERS = (int, float)
_SEQUENCES = (list, tuple)
_SCALARS = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How near a value must come to the expected one.

    Floats agree where |found - expected| <= max(absolute_tolerance, relative_tolerance * |expected|), the parts
    of complex numbers alike. Infinity agrees with itself alone and NaN with nothing. In sets and as keys of
    dicts floats are compared exactly.

    Args:
        relative_tolerance: At least 0, below 1.
        absolute_tolerance: At least 0, finite.
        types: `exact`, or `loose`: a tuple agrees with a list of the same items and an int with a float of the
            same value (never a bool), as JSON cannot tell them apart; keys and members of sets stay exact.
    """

    relative_tolerance: float = 1e-6
    absolute_tolerance: float = 1e-9
    types: Literal["exact", "loose"] = "exact"

    def __post_init__(self) -> None:
        if not (0 <= self.relative_tolerance < 1 and 0 <= self.absolute_tolerance < math.inf):
            raise ValueError(f"tolerances must be finite and at least 0, the relative one below 1, found {self}")


def values_match(expected: Any, found: Any, comparison: Comparison) -> bool:
    """Return whether a found value agrees with the expected one; a type that is no plain data never does."""
    kind = type(expected)
    if comparison.types == "loose" and kind in _NUMBERS and type(found) in _NUMBERS and kind is not type(found):
        return _numbers_match(expected, found, comparison)
    if comparison.types == "loose" and kind in _SEQUENCES and type(found) in _SEQUENCES:
        return _items_match(expected, found, comparison)
    if kind is not type(found):
        return False
    if kind is float:
        return _floats_match(expected, found, comparison)
    if kind is complex:
        return _floats_match(expected.real, found.real, comparison) and _floats_match(
            expected.imag, found.imag, comparison
        )
    if kind in _SCALARS:
        return bool(expected == found)
    if kind in _SEQUENCES:
        return _items_match(expected, found, comparison)
    if len(expected) != len(found):  # before anything is hashed: a program may choose keys that collide
        return False
    if kind is dict:
        found_by_key = {_tag(key): value for key, value in found.items()}
        return all(
            _tag(key) in found_by_key and values_match(value, found_by_key[_tag(key)], comparison)
            for key, value in expected.items()
        )
    if kind in (set, frozenset):
        return {_tag(member) for member in expected} == {_tag(member) for member in found}
    return False


def outputs_match(expected: str, found: str) -> bool:
    """Return whether two texts agree after line ends and trailing white space are normalised, and nothing else.

    CR LF and CR become LF; white space at the end of a line and empty lines at the end of the text do not
    count. Upper and lower case, inner spaces, empty lines elsewhere and the digits of numbers do.
    """
    return _normalise_output(expected) == _normalise_output(found)


def holds_nan(value: Any) -> bool:
    """Return whether a NaN, which agrees with nothing, is anywhere in a value."""
    if isinstance(value, float | complex):
        return value != value  # true of NaN alone
    if isinstance(value, dict):
        return any(holds_nan(key) or holds_nan(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(holds_nan, value))
    return False


def is_plain(value: Any, max_depth: int = 40) -> bool:
    """Return whether a value consists of exact built-in types alone, nested no deeper than `max_depth`."""
    if max_depth < 0:
        return False
    if type(value) in _SCALARS:
        return True
    if type(value) is dict:
        return all(is_plain(key, max_depth - 1) and is_plain(item, max_depth - 1) for key, item in value.items())
    return type(value) in (list, tuple, set, frozenset) and all(is_plain(item, max_depth - 1) for item in value)


class _BoundedRepr(reprlib.Repr):
    """Short texts of values; an integer too long to be written in digits is described."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = 80
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 8

    def repr_int(self, x: int, level: int) -> str:
        """Return digits, or the size where they would be too many to compute."""
        return super().repr_int(x, level) if x.bit_length() <= _MAX_SHOWN_BITS else f"<int of {x.bit_length()} bits>"


def show_value(value: Any, max_characters: int = 160) -> str:
    """Return a text of a plain value for a person, of bounded length and cost."""
    text = _BoundedRepr().repr(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= max_characters else text[: max_characters - 3] + "..."


def _numbers_match(expected: float, found: float, comparison: Comparison) -> bool:
    try:
        return _floats_match(float(expected), float(found), comparison)
    except OverflowError:
        return False


def _floats_match(expected: float, found: float, comparison: Comparison) -> bool:
    if not (math.isfinite(expected) and math.isfinite(found)):
        return expected == found
    allowed = max(comparison.absolute_tolerance, comparison.relative_tolerance * abs(expected))
    return abs(found - expected) <= allowed


def _items_match(expected: Any, found: Any, comparison: Comparison) -> bool:
    return len(expected) == len(found) and all(
        values_match(one, other, comparison) for one, other in zip(expected, found, strict=True)
    )


def _tag(value: Any) -> Any:
    """Return a key that is equal for values of equal types alone: to Python, 1, 1.0 and True are one key."""
    if isinstance(value, tuple):
        return (tuple, tuple(map(_tag, value)))
    if isinstance(value, frozenset):
        return (frozenset, frozenset(map(_tag, value)))
    if isinstance(value, float | complex) and value != value:  # true of NaN alone
        return object()
    return (type(value), value)


def _normalise_output(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip(" \t\v\f") for line in lines).rstrip("\n")
