"""Plain data: what has a form comes back the same, what has none is refused, and no bytes do harm."""

from __future__ import annotations

import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.sandbox.plain_data import (
    MAX_DEPTH,
    MAX_EQUAL_HASHES,
    MAX_INT_BITS,
    MAX_NODES,
    PlainDataError,
    PlainDataSizeError,
    decode,
    encode,
)

LARGE = 1 << 24
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.complex_numbers(allow_nan=False),
    st.binary(), st.text(st.characters(categories=("L", "Cs", "Cc", "So"))),
)  # fmt: skip
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner), st.sets(KEYS), st.frozensets(KEYS)
    ),
)


def same(left: Any, right: Any) -> bool:
    """Return whether two values have the same types throughout and are equal; floats by their bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    return bool(left == right)


@given(VALUES)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    assert same(decode(encode(value, LARGE)), value)


@given(st.lists(st.integers(-(2**70), 2**70)) | st.lists(st.floats(allow_nan=False)))
def test_lists_of_numbers_come_back_with_their_types(values: list[Any]) -> None:
    assert same(decode(encode(values * 9, LARGE)), values * 9)


def test_nan_infinities_and_the_sign_of_zero_are_kept() -> None:
    numbers = decode(encode([math.nan, math.inf, -math.inf, -0.0, 0.0, complex(math.nan, -0.0)], LARGE))
    assert math.isnan(numbers[0]) and numbers[1:3] == [math.inf, -math.inf]
    assert [math.copysign(1, number) for number in numbers[3:5]] == [-1, 1]
    assert math.isnan(numbers[5].real) and math.copysign(1, numbers[5].imag) == -1


def test_mixed_lists_keep_booleans_apart_from_integers() -> None:
    value = [True, 1, False, 0] * 4
    assert [type(item) for item in decode(encode(value, LARGE))] == [type(item) for item in value]


def test_dicts_of_the_standard_library_come_as_the_dicts_they_hold() -> None:
    for value in (Counter("aab"), OrderedDict(a=2, b=1), defaultdict(int, a=2, b=1)):
        assert same(decode(encode(value, LARGE)), {"a": 2, "b": 1})


class _Text(str):
    __slots__ = ()


class _Number(int):
    def bit_length(self) -> int:
        raise AssertionError("a method of the value was called")

    __eq__ = __hash__ = __repr__ = __index__ = bit_length  # type: ignore[assignment]


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    "value",
    [object(), _Text("a"), _Number(3), [1, _Number(3)], {_Text("a"): 1}, Pair(1, 2), deque([1]), range(3),
     Fraction(1, 2), {}.keys(), iter([]), (x for x in ()), len, type, bytearray(b"x"), memoryview(b"x"),
     NotImplemented, ...],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_types_and_subclasses_have_no_form_and_none_of_their_methods_is_called(value: Any) -> None:
    with pytest.raises(PlainDataError, match="no plain data"):
        encode(value, LARGE)


def test_shared_values_are_written_as_often_as_they_are_referred_to() -> None:
    row = [0] * 3
    assert decode(encode([row] * 3, LARGE)) == [[0, 0, 0]] * 3


def test_depth_is_bounded_and_so_are_circles() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert decode(encode(value, LARGE)) == value
    with pytest.raises(PlainDataError, match="deep"):
        encode([value], LARGE)
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(PlainDataError, match="inside themselves"):
        encode(circle, LARGE)
    with pytest.raises(PlainDataError, match="deep"):
        decode((b"l\x01\0\0\0" * (MAX_DEPTH + 1)) + b"N")


def test_the_number_of_values_is_bounded_before_a_doubling_structure_is_written_out() -> None:
    value: list[Any] = [None]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(PlainDataError, match=f"more than {MAX_NODES} values"):
        encode(value, LARGE)
    count = MAX_NODES + 1
    with pytest.raises(PlainDataError, match="values"):
        decode(b"l" + count.to_bytes(4, "little") + b"N" * count)


def test_sizes_are_bounded() -> None:
    for value in ("a" * 100, b"a" * 100, [1.5] * 100, list(range(100)), ["a"] * 100, 1 << 1000):
        with pytest.raises(PlainDataSizeError):
            encode(value, 99)


def test_integers_are_bounded_on_both_sides() -> None:
    greatest = (1 << MAX_INT_BITS) - 1
    assert decode(encode([greatest, -greatest], LARGE)) == [greatest, -greatest]
    with pytest.raises(PlainDataError, match="bits"):
        encode(greatest + 1, LARGE)
    content = bytes(MAX_INT_BITS // 8 + 2)
    with pytest.raises(PlainDataError, match="bits"):
        decode(b"i" + len(content).to_bytes(4, "little") + content)


def test_keys_of_one_hash_are_refused_before_a_table_is_built() -> None:
    keys = [number * (2**61 - 1) for number in range(MAX_EQUAL_HASHES + 1)]
    assert len({hash(key) for key in keys}) == 1
    assert decode(encode(set(keys[:-1]), LARGE)) == set(keys[:-1])
    for value in (set(keys), frozenset(keys), dict.fromkeys(keys)):
        with pytest.raises(PlainDataError, match="one hash"):
            decode(encode(value, LARGE))


@pytest.mark.parametrize(
    "content",
    [b"", b"?", b"q\0", b"l\x05\0\0\0NN", b"l\xff\xff\xff\xff", b"s\x04\0\0\0abc", b"s\x01\0\0\0\xff", b"NN",
     b"S\x01\0\0\0l\0\0\0\0", b"d\x01\0\0\0l\0\0\0\0N", b"S\x02\0\0\0NN", b"d\x02\0\0\0NNNN", b"Q\x02\0\0\0" + bytes(8),
     b"c" + bytes(15), b"i\xff\xff\xff\x7f", b"lt", b"d\x01\0\0\0N"],
    ids=repr,
)  # fmt: skip
def test_bytes_that_are_no_plain_form_are_refused(content: bytes) -> None:
    with pytest.raises(PlainDataError):
        decode(content)


@given(VALUES, st.data())
def test_damaged_bytes_give_a_value_or_a_refusal(value: Any, data: st.DataObject) -> None:
    content = bytearray(encode(value, LARGE))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(content))
    except PlainDataError:
        return
    assert decode(encode(decoded, LARGE)) is not content
