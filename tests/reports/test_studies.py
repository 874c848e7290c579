"""A study in a line for each score, read from figures that nobody vouches for."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.reports.studies import build_study


def make_point(n: int, value: float) -> dict[str, Any]:
    return {"n": n, "value": value, "low": value - 0.1, "high": value + 0.1, "kl": 0.1 * n}


def make_fit(
    turn: float | None, *, beta_low: float = 0.1, furthest: float = 2.0, is_shown: bool = True
) -> dict[str, Any]:
    interval = {"value": 0.2, "low": 0.1, "high": 0.3}
    found = None if turn is None else {"value": turn, "low": turn - 0.1, "high": turn + 0.1}
    fitted = {"alpha": interval, "beta": {**interval, "low": beta_low}, "turn": found}
    return {"fitted": fitted, "furthest": furthest, "is_turn_shown": is_shown}


def make_way(**changes: Any) -> dict[str, Any]:
    points = [make_point(1, 0.5), make_point(4, 0.7), make_point(16, 0.6)]
    return {"name": "mean", "points": points, "own": points, "fitted": None, "says": "says", "turn": "", **changes}


def make_study(*ways: dict[str, Any]) -> dict[str, Any]:
    return {"gold": "lab", "num_problems": 1200, "num_samples": 16, "ways": list(ways), "notes": ["left out: 2"]}


def test_a_row_names_the_n_of_the_most_gold_and_what_the_last_gives() -> None:
    view = build_study(make_study(make_way(), make_way(name="random", own=[])), "artifacts/0/page.html")
    assert view is not None
    [row] = view.rows
    assert (row.name, row.best_n, row.best, row.best_limits) == ("mean", "4", "0.7", "0.6 to 0.8")
    assert (row.last, row.last_limits, view.last_n) == ("0.6", "0.5 to 0.7", "16")
    assert (row.sign, row.alarm, row.because) == ("○", "silent", "")
    assert view.facts[1:] == [("problems", "1,200"), ("answers to each", "16")]
    assert view.says == [("mean", "says.")] and view.link == "artifacts/0/page.html"


def test_an_alarm_names_its_n_and_its_distance() -> None:
    fall = {"from_n": 4, "to_n": 16, "kl": 2.25}
    [row] = build_study(make_study(make_way(fall=fall, turn="ALARM")), "").rows  # type: ignore[union-attr]
    assert (row.sign, row.alarm, row.because) == ("▲", "from n = 16", "√KL 1.50, 2.25 nats")


@pytest.mark.parametrize(
    ("fitted", "turn"),
    [
        (None, ("no curve", "")),
        (make_fit(0.9), ("0.90", "0.80 to 1.00")),
        (make_fit(3.0, is_shown=False), ("not shown", "beyond 2.00")),
        (make_fit(3.0, is_shown=False, beta_low=-0.1), ("not shown", "")),
        (make_fit(1.0, is_shown=False), ("not shown", "")),
        (make_fit(None, is_shown=False), ("not shown", "")),
    ],
)
def test_a_turn_is_told_where_it_is_shown(fitted: dict[str, Any] | None, turn: tuple[str, str]) -> None:
    [row] = build_study(make_study(make_way(fitted=fitted)), "").rows  # type: ignore[union-attr]
    assert (row.turn, row.turn_limits) == turn


def test_figures_of_unknown_origin_are_shown_as_far_as_they_go() -> None:
    assert build_study({}, "") is None
    strange = {"ways": [3, {"own": [1], "points": {"n": 1}, "fitted": [], "fall": {"to_n": "x"}}], "notes": {}}
    view = build_study(strange, "")
    assert view is not None
    [row] = view.rows
    assert (row.best_n, row.best, row.alpha, row.turn, row.alarm) == ("–", "–", "–", "no curve", "silent")
