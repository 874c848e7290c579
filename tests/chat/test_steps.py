"""Steps end where their separators say, whatever tokens hold them."""

from __future__ import annotations

import pytest

from posttrain.chat.steps import find_step_ends, split_ids


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["a", " b", "\n", "c", "\n", "<end>"], [1, 5]),
        (["a\n", "b", ".\n", "c", "<end>"], [0, 2, 4]),  # a token may hold a step's end and the separator
        (["a", "\n", "\n", "b", "<end>"], [0, 4]),  # no step of nothing
        (["only one", "<end>"], [1]),
        (["<end>"], [0]),
        (["a", " ", "\n", "b", "<end>"], [0, 4]),  # white space at a step's end is none of it
        ([], []),
    ],
)
def test_each_step_is_read_at_the_token_that_completes_it(texts: list[str], ends: list[int]) -> None:
    assert find_step_ends(texts, "\n") == ends


def test_a_separator_of_several_characters_may_lie_across_tokens() -> None:
    assert find_step_ends(["one", "\n", "\n", "two\n", "\nthree", "<end>"], "\n\n") == [0, 3, 5]


def test_a_character_of_several_tokens_stands_at_the_one_that_completes_it() -> None:
    """Bytes as tokens: the two bytes of an umlaut are one character."""
    ids = list("aüb".encode())
    texts = split_ids(ids, lambda part: bytes(part).decode(errors="replace"))
    assert texts == ["a", "", "ü", "b"]
