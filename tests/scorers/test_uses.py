"""Rewards, filters and choices from outcomes: nothing that was not judged becomes a number."""

from __future__ import annotations

import asyncio

from posttrain.core.records import Outcome
from posttrain.scorers.calling import score_async
from posttrain.scorers.uses import choose_best, read_rewards, sieve
from tests.scorers.making import Told, make_item

OUTCOMES = [
    Outcome("scored", 0.2),
    Outcome("errored", 0.0, why="the judge is away", fault="harness"),
    Outcome("scored", 0.9),
    Outcome("timed_out", 0.0, fault="policy"),
    Outcome("not_applicable", 0.0),
    Outcome("scored", 0.9),
]
ITEMS = [make_item(str(index)) for index in range(len(OUTCOMES))]


def test_rewards_are_values_and_none_where_there_is_none() -> None:
    assert read_rewards(OUTCOMES) == [0.2, None, 0.9, 0.0, None, 0.9]


def test_a_filter_says_why_each_row_went() -> None:
    sieved = sieve(Told(OUTCOMES), ITEMS, at_least=0.5)
    assert sieved.kept == [2, 5]
    assert sieved.dropped[1] == "not judged: the judge is away"
    assert sieved.dropped[3] == "0 is below 0.5: timed_out"
    assert set(sieved.dropped) == {0, 1, 3, 4}


def test_the_best_is_the_first_of_equals_and_none_where_nothing_was_judged() -> None:
    completions = [completion for _, completion in ITEMS]
    assert choose_best(Told(OUTCOMES), ITEMS[0][0], completions) == 2
    assert choose_best(Told([OUTCOMES[1]]), ITEMS[0][0], completions[:1]) is None


def test_the_async_twin_returns_the_same_outcomes() -> None:
    assert asyncio.run(score_async(Told(OUTCOMES), ITEMS)) == OUTCOMES
