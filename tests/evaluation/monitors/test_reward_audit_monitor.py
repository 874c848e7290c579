"""The audit of a reward: what pays for length is told from what pays for being right at length."""

from __future__ import annotations

import pytest

from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.evidence import UnmeasuredError
from posttrain.evaluation.monitors.reward_audit import RewardAuditMonitor
from tests.evaluation.monitors.samples import build_item

MONITOR = RewardAuditMonitor(type="reward_audit", task="sums", components=["correct", "style"])


# many parameters: whose items, how many, what is right, and what is paid for
def draw(
    policy: str,
    right: float,
    *,
    count: int = 200,
    pay_length: float = 0.0,
    style: float = 0.0,
    longer_if_right: float = 0.0,
) -> dict[str, list]:
    generator = build_numpy_generator("monitor", "audit", policy)
    items = []
    for number in range(count):
        correct = float(generator.random() < right)
        length = 20 + 10 * generator.random() + longer_if_right * correct
        manner = style + generator.random()
        reward = correct + 0.5 * manner + pay_length * length
        parts = {"correct": correct, "style": manner, "drawn_tokens": length}
        items.append(build_item(f"p{number}", 0, reward, policy, "a b c d a b c d", **parts))
    return {"sums": items}


def test_a_reward_that_pays_for_length_is_an_alarm() -> None:
    reading = MONITOR.read(draw("own", 0.5, pay_length=0.2), None)
    assert reading.status == "alarm"
    assert "goes with length" in reading.why


def test_right_answers_that_are_longer_are_none() -> None:
    """Over all items reward and length go together; among right and among wrong ones they do not."""
    reading = MONITOR.read(draw("own", 0.5, longer_if_right=30), draw("parent", 0.5, longer_if_right=30))
    figures = {figure.name: figure.value for figure in reading.figures}
    assert reading.status == "silent"
    assert figures["correlation of reward and length, overall (Spearman)"] > 0.5
    assert abs(figures["correlation of reward and length, at equal correctness (Spearman)"]) < 0.3


def test_a_reward_that_rises_while_correctness_falls_is_an_alarm() -> None:
    reading = MONITOR.read(draw("own", 0.3, style=2.0), draw("parent", 0.6))
    assert reading.status == "alarm"
    assert "the reward is up" in reading.why


def test_a_reward_that_rises_with_correctness_is_none() -> None:
    assert MONITOR.read(draw("own", 0.8), draw("parent", 0.4)).status == "silent"


def test_shares_of_the_variance_sum_to_1() -> None:
    """Correctness has a variance of 1/4, half of a uniform style one of 1/48: 12 of 13 parts."""
    reading = MONITOR.read(draw("own", 0.5), None)
    shares = {figure.name: figure.value for figure in reading.figures if figure.name.startswith("share of")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["share of correct in the reward's variance"] == pytest.approx(12 / 13, abs=0.03)
    assert shares["share of the rest in the reward's variance"] == pytest.approx(0, abs=1e-9)


def test_repetition_and_outliers_are_shown() -> None:
    """a b c d a b c d has five 4-grams, four of them different: a fifth repeats."""
    own = draw("own", 0.5)
    own["sums"][7] = build_item("p7", 0, 9.0, "own", "well paid", correct=0.0, style=1.0, drawn_tokens=20.0)
    reading = MONITOR.read(own, None)
    repeated = next(figure for figure in reading.figures if figure.name.startswith("repeated"))
    assert repeated.value == pytest.approx(0.2 * 199 / 200)
    assert reading.examples[0].text == "well paid"
    assert "against the mean of other answers" in reading.examples[0].why


def test_a_reward_that_does_not_vary_says_so() -> None:
    items = [build_item(f"p{k}", 0, 1.0, "own", "x", correct=1.0, drawn_tokens=float(k)) for k in range(30)]
    reading = RewardAuditMonitor(type="reward_audit", task="sums", components=["correct"]).read({"sums": items}, None)
    assert reading.status == "unmeasured"
    assert "does not vary" in reading.why


def test_items_that_do_not_say_what_is_right_cannot_tell() -> None:
    items = [build_item(f"p{k}", 0, 1.0, "own", "x", drawn_tokens=3.0) for k in range(30)]
    with pytest.raises(UnmeasuredError, match="'correct'"):
        MONITOR.read({"sums": items}, None)


def test_a_reward_that_rises_for_nothing_is_an_alarm_though_correctness_stays() -> None:
    """The same items are right on both sides, so that a gain of 2 points is ruled out and a fall is not shown."""
    own, parent = draw("one", 0.5, count=800, style=2.0), draw("one", 0.5, count=800)
    assert MONITOR.read(own, parent).status == "alarm"
    strict = RewardAuditMonitor(type="reward_audit", task="sums", least_gain=0.0)
    assert strict.read(own, parent).status == "silent"


def test_a_component_that_no_outcome_has_is_said_to_be_missing() -> None:
    reading = RewardAuditMonitor(type="reward_audit", task="sums", components=["correct", "stlye"]).read(
        draw("own", 0.5), None
    )
    assert "no outcome has the part 'stlye'" in reading.why
