"""Plain data as bytes: what goes into a program and what comes out of it, parsed within bounds.

Only values whose type *is* a built-in one have a form (a subclass has none, so no method that a program wrote is ever
called), except that `OrderedDict`, `defaultdict` and `Counter` of the standard library are written as the dict they
hold. NaN, infinities and the sign of zero are kept. A structure that is referred to twice is written twice; a cyclic
one ends at the bound on depth. The reader believes nothing: it checks every count against the bytes that are left.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 100
"""Containers inside each other. Comparing and printing nested built-ins recurses in C, safely to this depth."""
MAX_NODES = 1 << 18
"""Values in all, but for those of lists that hold only small integers or only floats."""
MAX_INT_BITS = 1 << 18
"""Bits of an integer: about 79,000 decimal digits."""
MAX_EQUAL_HASHES = 64
"""Keys of one dict or set that may share a hash: built-in hashes can be forged, and building is quadratic in them."""

_COUNT = struct.Struct("<I")
_INT64 = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_SEQUENCES: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}
_DICTS = (dict, OrderedDict, defaultdict, Counter)
_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_LEAST_INT64, _GREATEST_INT64 = -(1 << 63), (1 << 63) - 1


class PlainDataError(ValueError):
    """A value that has no plain form, or bytes that are none."""


class PlainDataSizeError(PlainDataError):
    """A value whose plain form is larger than allowed."""


def encode(value: Any, max_bytes: int) -> bytes:
    """Return the plain form of a value.

    Raises:
        PlainDataError: A type that is not plain, too many or too deeply nested values, or too large an integer.
        PlainDataSizeError: The form has more than `max_bytes`.
    """
    written = bytearray()
    waiting: list[Iterator[Any]] = [iter((value,))]
    num_nodes = 0
    while waiting:
        for item in waiting[-1]:
            num_nodes += 1
            if num_nodes > MAX_NODES:
                raise PlainDataError(f"more than {MAX_NODES} values")
            inner = _encode_one(item, written)
            if len(written) > max_bytes:
                raise PlainDataSizeError(f"more than {max_bytes} bytes")
            if inner is not None:
                if len(waiting) > MAX_DEPTH:
                    raise PlainDataError(f"containers nested more than {MAX_DEPTH} deep, or inside themselves")
                waiting.append(inner)
                break
        else:
            waiting.pop()
    return bytes(written)


def _encode_one(value: Any, written: bytearray) -> Iterator[Any] | None:
    """Append a scalar, or a container's head; return an iterator over what the container holds."""
    kind = type(value)
    if kind is int:
        written += _encode_int(value)
    elif kind is str:
        content = value.encode("utf-8", "surrogatepass")
        written += b"s" + _COUNT.pack(len(content)) + content
    elif kind is float:
        written += b"f" + _FLOAT.pack(value)
    elif kind is bool:
        written += b"T" if value else b"F"
    elif value is None:
        written += b"N"
    elif kind is bytes:
        written += b"b" + _COUNT.pack(len(value)) + value
    elif kind is complex:
        written += b"c" + _COMPLEX.pack(value.real, value.imag)
    elif kind is list or kind is tuple or kind is set or kind is frozenset:
        if kind is list and (packed := _pack_numbers(value)):
            written += packed
            return None
        written += _SEQUENCES[kind] + _COUNT.pack(len(value))
        return iter(value)
    elif any(kind is one for one in _DICTS):
        written += b"d" + _COUNT.pack(len(value))
        return (part for pair in dict.items(value) for part in pair)
    else:
        raise PlainDataError(f"a value of type {type.__dict__['__name__'].__get__(kind)!s:.60} is no plain data")
    return None


def _encode_int(value: int) -> bytes:
    if _LEAST_INT64 <= value <= _GREATEST_INT64:
        return b"q" + _INT64.pack(value)
    num_bits = value.bit_length()
    if num_bits > MAX_INT_BITS:
        raise PlainDataError(f"an integer of {num_bits} bits, more than {MAX_INT_BITS}")
    content = value.to_bytes(num_bits // 8 + 1, "little", signed=True)
    return b"i" + _COUNT.pack(len(content)) + content


def _pack_numbers(values: list[Any]) -> bytes | None:
    """Return a list of small integers only, or of floats only, as one array; None for any other."""
    if len(values) < 8:
        return None
    kind = type(values[0])
    if not ((kind is int or kind is float) and all(type(value) is kind for value in values)):
        return None
    try:
        packed = array("q" if kind is int else "d", values)
    except OverflowError:
        return None
    return (b"Q" if kind is int else b"D") + _COUNT.pack(len(packed)) + packed.tobytes()


def decode(content: bytes) -> Any:
    """Return the value of a plain form.

    Raises:
        PlainDataError: The bytes are no plain form, or break a bound.
    """
    reader = _Reader(content)
    value = reader.read_value()
    if reader.place != len(content):
        raise PlainDataError("bytes are left over")
    return value


class _Reader:
    """Reads one value after another, without recursion."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        end = self.place + size
        if end > len(self.content):
            raise PlainDataError("the bytes end early")
        taken = self.content[self.place : end]
        self.place = end
        return taken

    def take_count(self) -> int:
        """Return a number of bytes or values that can still follow, at a byte each."""
        count: int = _COUNT.unpack(self.take(4))[0]
        if count > len(self.content) - self.place:
            raise PlainDataError("the bytes end early")
        return count

    def read_value(self) -> Any:
        """Return one value, containers with all they hold."""
        frames: list[tuple[bytes, int, list[Any]]] = []
        num_nodes = 0
        while True:
            num_nodes += 1
            if num_nodes > MAX_NODES:
                raise PlainDataError(f"more than {MAX_NODES} values")
            tag = self.take(1)
            if tag in b"ltSZd":
                count = self.take_count() * (2 if tag == b"d" else 1)
                if len(frames) >= MAX_DEPTH:
                    raise PlainDataError(f"containers nested more than {MAX_DEPTH} deep")
                frames.append((tag, count, []))
            elif not frames:
                return self.read_scalar(tag)
            else:
                frames[-1][2].append(self.read_scalar(tag))
            while frames and len(frames[-1][2]) == frames[-1][1]:
                tag, _, items = frames.pop()
                value = _build(tag, items)
                if not frames:
                    return value
                frames[-1][2].append(value)

    def read_scalar(self, tag: bytes) -> Any:
        """Return a value that holds no others but numbers."""
        if tag == b"q":
            return _INT64.unpack(self.take(8))[0]
        if tag == b"s":
            try:
                return self.take(self.take_count()).decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise PlainDataError(f"no text: {error.reason}") from None
        if tag == b"f":
            return _FLOAT.unpack(self.take(8))[0]
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"b":
            return self.take(self.take_count())
        if tag == b"i":
            content = self.take(self.take_count())
            if len(content) > MAX_INT_BITS // 8 + 1:
                raise PlainDataError(f"an integer of more than {MAX_INT_BITS} bits")
            return int.from_bytes(content, "little", signed=True)
        if tag == b"c":
            return complex(*_COMPLEX.unpack(self.take(16)))
        if tag in (b"Q", b"D"):
            return array("q" if tag == b"Q" else "d", self.take(8 * self.take_count())).tolist()
        raise PlainDataError(f"unknown tag {tag!r}")


def _build(tag: bytes, items: list[Any]) -> Any:
    if tag == b"l":
        return items
    if tag == b"t":
        return tuple(items)
    keys = items[::2] if tag == b"d" else items
    _check_hashes(keys)
    built: Any = dict(zip(keys, items[1::2], strict=True)) if tag == b"d" else set(keys)
    if len(built) != len(keys):
        raise PlainDataError("a key or an element is there twice")
    return frozenset(built) if tag == b"Z" else built


def _check_hashes(keys: list[Any]) -> None:
    """Refuse keys that cannot be hashed, or so many of one hash that a table of them takes quadratic time."""
    try:
        counts = Counter(map(hash, keys))
    except TypeError:
        raise PlainDataError("a key or an element that has no hash") from None
    if counts and max(counts.values()) > MAX_EQUAL_HASHES:
        raise PlainDataError(f"more than {MAX_EQUAL_HASHES} keys of one hash")
