"""Stop strings are found at the token, and cut the text at the place, of a plain search in the whole text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from posttrain.samplers.stops import StopStrings
from tests.chat.formats import build_backend

Decode = Callable[[Sequence[int]], str]

PIECES = [
    *(bytes([byte]) for byte in "aé€😀b".encode()),
    b"a", b"ab", b"ba", b"b", b" ", b"\n", b"\n\n", b"a\n", b"<e", b"nd>", b"<end>", b"",
    "é".encode(), "aé".encode() + b"\xe2", b"\x82\xaca", b"\xa9b", b"\xf0\x9f", b"\x98\x80\n", b"\xff",
]  # fmt: skip


def decode_bytes(ids: Sequence[int]) -> str:
    """A byte-level decoder: whatever is no whole character becomes U+FFFD."""
    return b"".join(PIECES[token] for token in ids).decode("utf-8", errors="replace")


def decode_with_blanks(ids: Sequence[int]) -> str:
    return " ".join("abé"[token % 3] * (token % 4) for token in ids)


def decode_of(kind: str) -> tuple[Decode, int]:
    tokenizer = Tokenizer.from_str(build_backend(kind))
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False), tokenizer.get_vocab_size()


DECODERS: dict[str, tuple[Decode, int]] = {
    "pieces of bytes": (decode_bytes, len(PIECES)),
    "blanks between": (decode_with_blanks, 12),
    **{kind: decode_of(kind) for kind in ("bytes", "legacy", "metaspace")},
}


def search_plainly(ids: list[int], texts: Sequence[str], decode: Decode) -> tuple[int, str] | None:
    """The number of tokens after which a stop string is in the text, and what stands before the earliest."""
    for count in range(1, len(ids) + 1):
        whole = decode(ids[:count])
        starts = [whole.find(text) for text in texts if text in whole]
        if starts:
            return count, whole[: min(starts)]
    return None


def search_token_by_token(ids: list[int], texts: Sequence[str], decode: Decode) -> tuple[int, str] | None:
    stops = StopStrings(texts, decode)
    for count in range(1, len(ids) + 1):
        text = stops.find_text(ids[:count])
        if text is not None:
            return count, text
    return None


@st.composite
def rows(draw: st.DrawFn, decode: Decode, size: int) -> tuple[list[int], list[str]]:
    """Ids, and stop strings of which most stand somewhere in their text."""
    few = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6))
    ids = draw(st.lists(st.sampled_from(few) if draw(st.booleans()) else st.integers(0, size - 1), max_size=60))
    whole = decode(ids)
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(whole)))
        cut = whole[start : start + draw(st.integers(1, 12))]
        texts.append(cut if cut and "\ufffd" not in cut else draw(st.text("ab é€\n<", min_size=1, max_size=4)))
    return ids, texts


@pytest.mark.parametrize("window", [1, 16])
@pytest.mark.parametrize("name", sorted(DECODERS))
def test_a_stop_string_is_found_where_a_plain_search_finds_it(
    name: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.samplers.stops._FIRST_WINDOW", window)
    decode, size = DECODERS[name]

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(rows(decode, size))
    def check(row: tuple[list[int], list[str]]) -> None:
        ids, texts = row
        assert search_token_by_token(ids, texts, decode) == search_plainly(ids, texts, decode)

    check()


def ids_of(*pieces: bytes) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def test_a_stop_string_that_spans_tokens_is_cut_off_with_what_its_last_token_adds() -> None:
    ids = ids_of(b"ab", b"a\n", b"\n\n")
    stops = StopStrings(["\n\n"], decode_bytes)
    assert stops.find_text(ids[:2]) is None
    assert stops.find_text(ids) == "aba"


def test_of_several_stop_strings_the_one_that_begins_first_ends_the_text() -> None:
    ids = ids_of(b"b", b"<end>")
    assert StopStrings(["end", "<e", "d>"], decode_bytes).find_text(ids) == "b"
    assert StopStrings(["d>", "nd"], decode_bytes).find_text(ids) == "b<e"


def test_a_character_whose_bytes_come_one_by_one_is_found_when_it_is_whole() -> None:
    ids = ids_of(b"a", b"\xf0", b"\x9f", b"\x98", b"\x80")
    stops = StopStrings(["a😀"], decode_bytes)
    assert [stops.find_text(ids[:count]) for count in range(1, 6)] == [None, None, None, None, ""]


def test_without_stop_strings_nothing_is_decoded() -> None:
    def refuse(ids: Sequence[int]) -> str:
        raise AssertionError("nothing is to be decoded")

    assert StopStrings([], refuse).find_text([1, 2, 3]) is None


def test_only_a_bounded_tail_is_decoded_until_a_stop_string_is_found() -> None:
    """2,000 tokens of which every second could complete the stop string: no call sees more than 30 of them."""
    sizes: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        sizes.append(len(ids))
        return decode_bytes(ids)

    ids = ids_of(*[b"a", b"b"] * 1000, b"<e", b"nd>", b"b")
    stops = StopStrings(["<end>b"], decode)
    for count in range(1, len(ids)):
        assert stops.find_text(ids[:count]) is None
    assert max(sizes) <= 30 and len(sizes) < 2.1 * len(ids)
    assert stops.find_text(ids) == "ab" * 1000 and sizes[-1] == len(ids)


@pytest.mark.parametrize("kind", ["legacy", "metaspace", "bytes"])
@pytest.mark.parametrize("window", [1, 2, 3, 16])
def test_characters_that_are_all_spelled_in_bytes_are_not_cut_in_two(
    kind: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder with byte fallback writes a whole run of bytes as U+FFFD where one character of it is cut."""
    monkeypatch.setattr("posttrain.samplers.stops._FIRST_WINDOW", window)
    tokenizer = Tokenizer.from_str(build_backend(kind))
    decode = DECODERS[kind][0]
    row = "aaa" + "😀é€" * 4 + "😀😀"
    ids = tokenizer.encode(row, add_special_tokens=False).ids
    assert sum("\ufffd" in decode([token]) for token in ids) > 30
    for text in ("😀é", "é€😀é", "€😀😀", "a😀é", "😀😀"):
        expected = search_plainly(ids, [text], decode)
        assert expected is not None and expected[1].endswith(decode(ids).partition(text)[0])
        assert search_token_by_token(ids, [text], decode) == expected
