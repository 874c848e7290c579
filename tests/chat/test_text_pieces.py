"""Text that is shown while it is drawn: whole characters, nothing of a stop string, and in the end all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from posttrain.chat.text_pieces import TextPieces


def decode_bytes(ids: Sequence[int]) -> str:
    """A tokenizer of bytes, as byte fallback is."""
    return bytes(ids).decode("utf-8", "replace")


def stream(text: str, *stops: str) -> list[str]:
    """The pieces of a text of bytes that ends before a stop string, and the rest."""
    pieces = TextPieces(decode_bytes, stop_ids=(0,), stop_strings=stops)
    ended = min([found for stop in stops if (found := text.find(stop)) >= 0], default=len(text))
    shown = [pieces.push([token]) for token in [*text.encode(), 0]]
    shown.append(pieces.finish(text[:ended]))
    assert "".join(shown) == pieces.shown == text[:ended]
    return shown


def test_a_character_of_several_tokens_is_shown_when_it_is_whole() -> None:
    assert stream("aé東🙂") == ["a", "", "é", "", "", "東", "", "", "", "🙂", "", ""]


def test_what_may_become_a_stop_string_is_held_back_and_shown_if_it_does_not() -> None:
    assert stream("a ENx", "END") == ["a", " ", "", "", "ENx", "", ""]
    assert stream("a ENDx", "END") == ["a", " ", "", "", "", "", "", ""]
    assert stream("a EN", "END")[-1] == "EN"  # cut at the cap: the beginning of a stop string is text


@pytest.mark.parametrize("seed", range(20))
def test_all_pieces_are_the_text_however_it_is_cut(seed: int) -> None:
    random = np.random.default_rng(seed)
    text = "".join(random.choice(list("abé東🙂\n"), 40))
    stream(text, *("".join(random.choice(list("abé\n"), random.integers(1, 4))) for _ in range(3)))


def test_bytes_that_are_no_character_are_shown_as_they_are_decoded_and_end_nothing() -> None:
    pieces = TextPieces(decode_bytes)
    shown = "".join(pieces.push([token]) for token in [0xE6, *([0xFF] * 20), *b"ok"])
    assert shown + pieces.finish(decode_bytes([0xE6, *([0xFF] * 20), *b"ok"])) == "\ufffd" * 21 + "ok"
