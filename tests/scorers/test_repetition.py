"""Measures of repetition: numbers by hand, and the same as a plain search finds."""

import random

import pytest

from posttrain.scorers.repetition import compute_compression_gain, compute_longest_repeat, compute_repeated_fraction


@pytest.mark.parametrize(
    ("units", "n", "expected"),
    [
        ("a b a b a", 2, 0.5),
        ("a b c d", 2, 0.0),
        ("a a a a", 1, 0.75),
        ("a b", 3, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repeated_ngrams_are_those_beyond_the_different_ones(units, n, expected):
    """By hand: `a b a b a` has 4 bigrams, 2 of them different, so 1 - 2/4."""
    assert compute_repeated_fraction(units.split(), n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("units", "expected"), [("a a a a", 3 / 4), ("a b c a b", 2 / 5), ("a b c", 0.0), ("a", 0.0), ("", 0.0)]
)
def test_the_longest_repeat_is_a_share_of_the_text(units, expected):
    assert compute_longest_repeat(units.split()) == pytest.approx(expected)


def test_the_longest_repeat_is_what_a_plain_search_finds():
    generator = random.Random(0)
    for _ in range(300):
        text = "".join(generator.choice("abc") for _ in range(generator.randint(0, 30)))
        longest = max(
            (
                length
                for length in range(len(text))
                for start in range(len(text) - length)
                if text.find(text[start : start + length], start + 1) >= 0
            ),
            default=0,
        )
        assert compute_longest_repeat(text) * max(len(text), 1) == pytest.approx(longest), text


def test_a_long_sequence_is_measured_in_near_linear_time():
    assert compute_longest_repeat([number % 7 for number in range(100_000)]) == pytest.approx(1 - 7 / 100_000)


def test_what_repeats_compresses_and_noise_does_not():
    noise = "".join(map(chr, random.Random(0).choices(range(0x4E00, 0x9FFF), k=500)))
    assert compute_compression_gain("the same again. " * 100) > 0.95
    assert compute_compression_gain(noise) < 0.3
    assert compute_compression_gain("") == compute_compression_gain("a") == 0.0
