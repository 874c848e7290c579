"""The monitor of over-optimisation: proxy up and gold down, both shown, on a pair of policies and along a series."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.evidence import UnmeasuredError
from posttrain.evaluation.monitors.over_optimisation import OverOptimisationMonitor, SeriesPoint
from tests.evaluation.monitors.samples import build_item

MONITOR = OverOptimisationMonitor(type="over_optimisation", proxy="sums/proxy", gold="sums")


def draw(policy: str, proxy: float, gold: float, seed: str = "", size: int = 150) -> dict[str, list]:
    """A proxy with noise around its mean, and gold that is 1 with its chance."""
    generator = build_numpy_generator("monitor", "over", policy, seed)
    values = generator.normal(proxy, 0.5, size)
    right = generator.random(size) < gold
    return {"sums": [build_item(f"p{k}", 0, float(right[k]), policy, proxy=float(values[k])) for k in range(size)]}


def test_proxy_up_and_gold_down_is_an_alarm() -> None:
    reading = MONITOR.read(draw("own", 1.0, 0.4), draw("parent", 0.0, 0.7))
    assert reading.status == "alarm"
    assert "sums/proxy is up by" in reading.why
    assert reading.examples[0].why == "worth less than before by gold"


@pytest.mark.parametrize(("proxy", "gold"), [(1.0, 0.9), (-1.0, 0.4), (1.0, 0.7), (0.0, 0.4)])
def test_one_of_both_alone_is_none(proxy: float, gold: float) -> None:
    """Both better; both worse; gold as it was; the proxy as it was."""
    assert MONITOR.read(draw("own", proxy, gold), draw("parent", 0.0, 0.7)).status == "silent"


def test_a_drop_within_the_bound_is_none() -> None:
    lenient = OverOptimisationMonitor(type="over_optimisation", proxy="sums/proxy", gold="sums", allowed_drop=0.5)
    assert lenient.read(draw("own", 1.0, 0.4), draw("parent", 0.0, 0.7)).status == "silent"


def test_one_metric_for_both_is_refused() -> None:
    with pytest.raises(ValueError, match="one metric"):
        OverOptimisationMonitor(type="over_optimisation", proxy="sums", gold="sums")


def build_series(turn: bool) -> tuple[dict[str, list], list[SeriesPoint]]:
    """Gold of 0.4 + d (0.6 - 0.2 d), which turns at d = 1.5, or rises by 0.1 d."""
    points = []
    for look, distance in enumerate((0.7, 1.5, 2.4)):
        gain = distance * (0.6 - 0.2 * distance) if turn else 0.1 * distance
        points.append(SeriesPoint(distance**2, draw(f"look {look}", distance, 0.4 + gain, size=400)))
    return draw("start", 0.0, 0.4, size=400), points


def test_a_series_is_fitted_and_its_turn_is_an_alarm() -> None:
    start, series = build_series(turn=True)
    reading = MONITOR.read_series(start, series, "best_of_n", num_looks=3)
    assert reading.status == "alarm"
    assert "from a KL of 2.25 nats to a KL of 5.76 nats sums/proxy is up by" in reading.why
    figures = {figure.name: figure for figure in reading.figures}
    assert figures["alpha"].low < 0.6 < figures["alpha"].high
    assert figures["KL at the turn"].low < 2.25 < figures["KL at the turn"].high
    fitted = next(curve for curve in reading.curves if "fitted" in curve.name)
    assert all(math.isfinite(y) for _, y in fitted.points) and len(fitted.points) == 41
    proxy = next(curve for curve in reading.curves if curve.name == "sums/proxy")
    assert np.argmax([y for _, y in proxy.points]) == 3


def test_a_series_without_a_turn_is_silent() -> None:
    start, series = build_series(turn=False)
    assert MONITOR.read_series(start, series, "reinforcement_learning").status == "silent"


def test_a_series_of_nothing_cannot_tell() -> None:
    with pytest.raises(UnmeasuredError, match="beside the start"):
        MONITOR.read_series(draw("start", 0, 0.4), [], "best_of_n")
    with pytest.raises(UnmeasuredError, match="that all policies answered"):
        few = draw("few", 1, 0.4, size=5)
        MONITOR.read_series(draw("start", 0, 0.4), [SeriesPoint(1.0, few)], "best_of_n")


def test_a_part_with_braces_in_its_name_is_a_name() -> None:
    braced = OverOptimisationMonitor(type="over_optimisation", proxy="sums/proxy{0}", gold="sums")
    sides = [draw("own", 1.0, 0.4), draw("parent", 0.0, 0.7)]
    for side in sides:
        for item in side["sums"]:
            item.outcome.parts["proxy{0}"] = item.outcome.parts.pop("proxy")
    assert "sums/proxy{0} is up by" in braced.read(*sides).why


def test_gold_that_is_straight_has_no_turn_under_reinforcement_learning() -> None:
    start, series = build_series(turn=False)
    for shift in range(3):
        reading = MONITOR.read_series(start, series[shift:] or series, "reinforcement_learning", num_looks=3)
        assert reading.status in ("silent", "alarm")
    strict = OverOptimisationMonitor(type="over_optimisation", proxy="sums/proxy", gold="sums", allowed_drop=1.5)
    assert strict.read_series(start, build_series(turn=True)[1], "best_of_n").status == "silent"


def test_several_samples_are_folded() -> None:
    """Of two samples one is right in every other problem: pass@2 is 1/2, and the mean score 1/4."""

    def sample(policy: str, share: int) -> dict[str, list]:
        return {
            "sums": [
                build_item(f"p{k}", index, float(index == 0 and k % share == 0), policy, proxy=float(policy == "own"))
                for k in range(100)
                for index in range(2)
            ]
        }

    monitor = OverOptimisationMonitor(type="over_optimisation", proxy="sums/proxy", gold="sums/pass@2")
    own, parent = sample("own", 2), sample("parent", 1)
    reading = monitor.read(own, parent)
    figures = {(figure.name, figure.of): figure.value for figure in reading.figures}
    assert (reading.status, figures["sums/pass@2", "own"], figures["sums/pass@2", "parent"]) == ("alarm", 0.5, 1.0)
    curves = monitor.read_series(parent, [SeriesPoint(1.0, own)], "best_of_n").curves
    assert curves[1].points == ((0.0, 1.0), (1.0, 0.5))
    with pytest.raises(DataError, match="pass@3"):
        OverOptimisationMonitor(type="over_optimisation", proxy="sums/proxy", gold="sums/pass@3").read(own, parent)
