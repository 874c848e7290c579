"""The win rate at equal length, on data whose answer is known."""

from __future__ import annotations

import pytest

from posttrain.core.errors import DataError
from posttrain.statistics.length_control import compute_length_controlled_win_rate


def spread(parts: list[tuple[int, float, float]]) -> tuple[list[float], list[float], list[str]]:
    """Pairs of (how many, win, length gap), each of its own source."""
    wins = [win for count, win, _ in parts for _ in range(count)]
    gaps = [gap for count, _, gap in parts for _ in range(count)]
    return wins, gaps, [f"{index}" for index in range(len(wins))]


def test_answers_of_equal_length_keep_their_win_rate() -> None:
    found = compute_length_controlled_win_rate(*spread([(300, 1.0, 0.0), (100, 0.0, 0.0)]))
    assert found.win_rate == 0.75
    assert found.controlled.value == pytest.approx(0.75, abs=1e-3)
    assert found.controlled.low == pytest.approx(0.705, abs=0.003)  # logit 1.0986 - 1.96 / sqrt(400 * 3 / 16)


def test_wins_that_length_explains_are_none() -> None:
    """Longer in 4 of 5 pairs, the longer answer wins 4 of 5 whoever wrote it.

    logit(0.8) = theta + phi t and logit(0.2) = theta - phi t give theta = 0: 0.5, where 0.8² + 0.2² = 0.68 are won.
    """
    parts = [(640, 1.0, 10.0), (160, 0.0, 10.0), (40, 1.0, -10.0), (160, 0.0, -10.0)]
    found = compute_length_controlled_win_rate(*spread(parts))
    assert found.win_rate == 0.68
    assert found.controlled.value == pytest.approx(0.5, abs=2e-3)
    assert found.length_effect > 0


def test_wins_that_length_does_not_explain_stay() -> None:
    parts = [(300, 1.0, 10.0), (100, 0.0, 10.0), (300, 1.0, -10.0), (100, 0.0, -10.0)]
    found = compute_length_controlled_win_rate(*spread(parts))
    assert found.controlled.value == pytest.approx(0.75, abs=2e-3)
    assert found.length_effect == pytest.approx(0.0, abs=1e-6)


def test_ties_are_half_a_win_and_all_wins_have_an_estimate() -> None:
    assert compute_length_controlled_win_rate(*spread([(50, 0.5, 3.0)])).controlled.value == pytest.approx(0.5)
    assert 0.99 < compute_length_controlled_win_rate(*spread([(50, 1.0, 3.0)])).controlled.value < 1


def test_sources_count_once() -> None:
    wins, gaps, clusters = spread([(300, 1.0, 0.0), (100, 0.0, 0.0)])
    alone = compute_length_controlled_win_rate(wins, gaps, clusters).controlled
    twice = compute_length_controlled_win_rate(wins * 2, gaps * 2, clusters * 2).controlled
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=1e-3)


def test_what_is_no_win_rate_is_refused() -> None:
    with pytest.raises(DataError):
        compute_length_controlled_win_rate([2.0, 0.0], [0, 0], ["a", "b"])
    with pytest.raises(DataError):
        compute_length_controlled_win_rate([1.0, 0.0], [0, 0], ["a", "a"])
