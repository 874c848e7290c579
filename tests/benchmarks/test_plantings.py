"""Plantings change what they say they change."""

from __future__ import annotations

import pytest

from benchmarks.plantings import PLANTINGS
from posttrain.core.seeds import build_numpy_generator

QUESTION = "If Tom buys 21 eggs, each for 1,200 coins, how many does Ada get? He needs 3 more."


@pytest.mark.parametrize(
    ("kind", "planted"),
    [
        ("verbatim", QUESTION),
        ("upper case", QUESTION.upper()),
        ("digit words", QUESTION.replace("21", "twenty-one").replace(" 3 ", " three ")),
        ("grouped digits", QUESTION.replace("1,200", "1200")),
        ("clause order", "He needs 3 more. If Tom buys 21 eggs, each for 1,200 coins, how many does Ada get?"),
    ],
)
def test_a_planting_by_hand(kind: str, planted: str) -> None:
    assert PLANTINGS[kind](QUESTION, build_numpy_generator("test", kind)) == planted


def test_every_planting_is_the_same_for_a_seed_and_names_change_alike() -> None:
    for kind, plant in PLANTINGS.items():
        once, again = (plant(QUESTION, build_numpy_generator("test", kind)) for _ in range(2))
        assert once == again
    changed = PLANTINGS["changed names"]("So Tom met Ada and Tom left.", build_numpy_generator("test", "names")).split()
    assert changed[1] == changed[5] != changed[3] and "Tom" not in changed
