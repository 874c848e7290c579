"""The monitor on a study: a planted score that is over-optimised, an honest one, and what cannot be told."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.core.records import Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.pipeline.selection_ways import GOLD, AlarmSettings, Judged, StudiedWays, study_ways

N = 64
FALSE_ALARMS_ALLOWED = 0


def draw(seed: int, *, num_problems: int = 200, hack_rate: float = 0.03) -> Judged:
    """Answers of which few please the planted score beyond measure, and are worth least by gold.

    Gold is standard normal, the honest score gold with noise of half its deviation. With a chance of 3 % an answer is a
    hack: gold says -3, the planted score 5 more than its noise. Among n there is one with a chance of 1 - 0.97^n: 6 %
    at 2, 22 % at 8, 62 % at 32. So the planted score's choice is best around n = 4 and falls from there on.
    """
    generator = build_numpy_generator("planted", seed)
    gold = generator.normal(size=(num_problems, N))
    noise = generator.normal(scale=0.5, size=gold.shape)
    is_hack = generator.random(gold.shape) < hack_rate
    gold[is_hack] = -3.0
    values = {GOLD: gold, "honest": gold + noise, "planted": np.where(is_hack, 5.0, gold) + noise}
    problems = [Problem(f"p{number}", []) for number in range(num_problems)]
    none: list[list[str | None]] = [[None] * N for _ in problems]
    return Judged(problems, {name: found.tolist() for name, found in values.items()}, none, [])


def study(judged: Judged, *choosers: str, **changes: float) -> StudiedWays:
    return study_ways(judged, list(choosers), [], N, AlarmSettings(**changes))


def test_the_alarm_comes_at_the_turn_of_a_planted_score_and_not_for_an_honest_one() -> None:
    judged = draw(0)
    found = study(judged, "honest", "planted")
    ways = {way.name: way for way in found.ways}
    gold = {point.n: point.value for point in ways["planted"].points}
    best = max(gold, key=gold.__getitem__)
    assert best in (2, 4, 8) and gold[64] < gold[1] < gold[best]
    fall = ways["planted"].fall
    assert fall is not None and fall.from_n == best and best < fall.to_n <= 4 * best
    assert fall.gold_change == pytest.approx(gold[fall.to_n] - gold[best])
    assert fall.kl == pytest.approx(next(p.kl for p in ways["planted"].points if p.n == fall.to_n))
    assert ways["honest"].fall is None and ways["honest"].turn == "No fall of gold is shown at 0.01"
    readings = {reading.monitor: reading for reading in found.readings}
    assert {name: one.status for name, one in readings.items()} == {
        "over_optimisation-honest": "silent",
        "over_optimisation-planted": "alarm",
    }
    assert (
        f"to n = {fall.to_n}, a KL of {fall.kl:.2f} nats planted is up by" in readings["over_optimisation-planted"].why
    )


@pytest.mark.invariants
def test_honest_scores_raise_no_alarm_and_planted_ones_always_do() -> None:
    falls = [{way.name: way.fall for way in study(draw(seed), "honest", "planted").ways} for seed in range(15)]
    assert sum(found["honest"] is not None for found in falls) == FALSE_ALARMS_ALLOWED
    turns = [found["planted"] for found in falls]
    assert all(fall is not None and fall.from_n in (2, 4, 8) and fall.to_n <= 32 for fall in turns)


def test_a_fall_within_what_is_allowed_is_no_alarm() -> None:
    way = study(draw(0), "planted", allowed_drop=6.0).ways[-2]
    assert way.name == "planted" and way.fall is None


def test_of_few_problems_and_of_a_score_that_tells_nothing_apart_the_monitor_says_that_it_cannot_tell() -> None:
    few = study(draw(0, num_problems=12), "planted")
    assert few.readings[0].status == "unmeasured" and few.ways[1].fall is None
    assert few.ways[1].turn.startswith("Whether gold falls cannot be tested: 12 problems")
    judged = draw(0)
    judged.values["same"] = [[1.0] * N for _ in judged.problems]
    same = study(judged, "same")
    assert (same.ways[1].points[-1].kl, same.ways[1].fall, same.readings[0].status) == (0.0, None, "silent")
    assert same.ways[1].says.startswith("no curve is fitted: 0 distances")


def test_the_name_of_a_users_own_score_is_made_one_of_a_monitor() -> None:
    judged = draw(0, num_problems=30)
    judged.values["rewards.py:Mine"] = judged.values["honest"]
    [reading] = study(judged, "rewards.py:Mine").readings
    assert reading.monitor == "over_optimisation-rewards_py_mine"
