"""The monitor of collapse: entropy and unique accepted solutions against parent and base, whatever pass@1 does."""

from __future__ import annotations

import pytest

from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.collapse import CollapseMonitor
from tests.evaluation.monitors.samples import build_samples

MONITOR = CollapseMonitor(type="collapse", task="sums")


def draw(policy: str, share_right: float, num_ways: int, seed: str, nats: float = 10.0) -> dict[str, list]:
    """Six samples a problem, right in one of `num_ways` equally likely ways."""
    generator = build_numpy_generator("monitor", "collapse", seed)
    ways = generator.integers(num_ways, size=(60, 6))
    is_right = generator.random((60, 6)) < share_right
    texts = [
        [f"right {way}" if right else f"wrong {way}" for way, right in zip(*row, strict=True)]
        for row in zip(ways, is_right, strict=True)
    ]
    return {"sums": build_samples(policy, texts, right="right", nats=nats)}


def test_a_policy_that_is_right_in_one_way_only_has_collapsed_though_pass_at_1_rises() -> None:
    reading = MONITOR.read(draw("own", 0.9, 1, "one way"), draw("parent", 0.5, 20, "many ways"))
    assert reading.status == "alarm"
    assert "unique accepted solutions" in reading.why and "entropy" not in reading.why
    first = [figure.value for figure in reading.figures if figure.name == "pass@1"]
    assert first[0] > first[1]
    assert reading.examples[0].why == "the only accepted solution found"


def test_a_policy_that_loses_its_entropy_has_collapsed() -> None:
    reading = MONITOR.read(draw("own", 0.5, 20, "a", nats=5.0), draw("parent", 0.5, 20, "b", nats=10.0))
    assert reading.status == "alarm"
    assert "50.0 % of the parent's entropy lost" in reading.why


def test_another_draw_of_the_same_policy_is_none() -> None:
    readings = [MONITOR.read(draw("own", 0.5, 20, f"a{k}"), draw("parent", 0.5, 20, f"b{k}")) for k in range(10)]
    assert {reading.status for reading in readings} == {"silent"}


def test_a_fall_by_small_steps_is_seen_from_the_base() -> None:
    """A fifth less than the parent's is allowed; half of the base's is not."""
    strict = CollapseMonitor(type="collapse", task="sums", allowed_drop_from_base=0.4)
    own, parent = draw("own", 0.5, 20, "a", nats=5.0), draw("parent", 0.5, 20, "b", nats=6.0)
    base = draw("base", 0.5, 20, "c", nats=10.0)
    assert strict.read_beside_base(own, parent, None).status == "silent"
    reading = strict.read_beside_base(own, parent, base)
    assert reading.status == "alarm" and "the base's entropy" in reading.why
    trend = next(figure for figure in reading.figures if figure.name == "entropy by stage")
    assert trend.value == pytest.approx(-0.25)  # 1, 0.6, 0.5 nats a token: (0.5 - 1) / 2 a stage
    assert reading.curves[0].points == ((0.0, 1.0), (1.0, pytest.approx(0.6)), (2.0, 0.5))


def test_headroom_is_what_more_samples_add() -> None:
    """One of two right: pass@2 = 1 and pass@1 = 1/2; none right adds none: 0.25 on average."""
    reading = MONITOR.read({"sums": build_samples("own", [["right", "wrong"], ["wrong", "w"]], right="right")}, None)
    figures = {figure.name: figure.value for figure in reading.figures}
    assert figures["headroom: pass@n - pass@1"] == 0.25
    assert figures["unique accepted solutions"] == 0.5


def test_a_parent_that_finds_nothing_says_nothing_of_solutions() -> None:
    reading = MONITOR.read(draw("own", 0.5, 5, "a"), draw("parent", 0.0, 5, "b"))
    assert reading.status == "silent"
    assert "not tested: unique accepted solutions" in reading.why
