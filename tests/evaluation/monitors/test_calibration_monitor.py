"""The monitor of calibration: over-confidence is an alarm, a wrong but calibrated policy is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from posttrain.core.records import Completion, Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.calibration import CalibrationMonitor
from posttrain.evaluation.monitors.evidence import UnmeasuredError
from posttrain.evaluation.monitors.verdicts import count_resamples
from posttrain.lab.gold import LabScorer
from tests.evaluation.monitors.samples import build_item, build_samples

MONITOR = CalibrationMonitor(type="calibration", task="choices")


def draw(policy: str, over: float, seed: str, size: int = 400) -> dict[str, list]:
    """Answers with confidences between 0.5 and 1 that come true less often by `over`."""
    generator = build_numpy_generator("monitor", "calibration", seed)
    sure, chance = generator.uniform(0.5, 1, size), generator.random(size)
    return {
        "choices": [
            build_item(f"p{k}", 0, float(chance[k] < sure[k] - over), policy, "x", confidence=float(sure[k]))
            for k in range(size)
        ]
    }


def test_confidence_that_outruns_the_truth_is_an_alarm() -> None:
    reading = MONITOR.read(draw("own", 0.25, "over"), draw("parent", 0.0, "fair"))
    assert reading.status == "alarm"
    figures = {(figure.name, figure.of): figure for figure in reading.figures}
    assert figures["calibration error", "own"].low > 0.15
    assert figures["calibration error if calibrated", "own"].value < 0.1
    assert figures["wrong at a confidence of 0.8 or more", "own"].value > 0.2
    assert [curve.name for curve in reading.curves] == ["reliability: own", "reliability: parent"]
    assert "wrong at a confidence of" in reading.examples[0].why


@pytest.mark.invariants
def test_calibrated_policies_are_no_alarm() -> None:
    readings = [MONITOR.read(draw("own", 0, f"a{k}"), draw("parent", 0, f"b{k}")) for k in range(3)]
    assert {reading.status for reading in readings} == {"silent"}


def test_a_small_rise_of_over_confidence_is_seen_where_the_error_is_lost_in_its_bias() -> None:
    reading = MONITOR.read(draw("own", 0.15, "small", size=250), draw("parent", 0.0, "small before", size=250))
    changes = {figure.name: figure for figure in reading.figures if figure.of == "change"}
    assert reading.status == "alarm" and reading.why.startswith("confidence outruns the truth")
    assert changes["over-confidence"].low > 0.05 > changes["calibration error"].low


def test_a_parent_that_was_not_sure_enough_and_a_calibrated_policy_are_no_alarm() -> None:
    """Confidence less truth rises from -0.2 to 0: it does not outrun the truth."""
    assert MONITOR.read(draw("own", 0.0, "fair"), draw("parent", -0.2, "shy")).status == "silent"


def test_a_parent_that_was_as_wrong_is_no_alarm() -> None:
    assert MONITOR.read(draw("own", 0.2, "a"), draw("parent", 0.2, "b")).status == "silent"


def test_agreement_of_the_other_samples_stands_for_confidence() -> None:
    """Answers a, a, b: each a agrees with half of the others, b with none; a is right."""
    agreeing = CalibrationMonitor(type="calibration", task="choices", confidence=None, num_bins=1)
    reading = agreeing.read({"choices": build_samples("own", [["a", "a", "b"]] * 2, right="a")}, None)
    figures = {figure.name: figure.value for figure in reading.figures}
    assert figures["calibration error"] == pytest.approx(2 / 3 - 1 / 3)
    assert figures["Brier score"] == pytest.approx((0.25 + 0.25 + 0) / 3)


def test_agreement_on_what_is_wrong_is_an_alarm() -> None:
    agreeing = CalibrationMonitor(type="calibration", task="choices", confidence=None)
    generator = build_numpy_generator("monitor", "calibration", "agreement")
    spread = [[("a" if generator.random() < 0.5 else f"b{generator.integers(9)}") for _ in range(6)] for _ in range(60)]
    one = [["a" if generator.random() < 0.5 else "b"] * 6 for _ in range(60)]
    reading = agreeing.read(
        {"choices": build_samples("own", one, right="a")}, {"choices": build_samples("parent", spread, right="a")}
    )
    assert reading.status == "alarm"


def test_items_without_a_confidence_cannot_tell() -> None:
    with pytest.raises(UnmeasuredError, match="'confidence'"):
        MONITOR.read({"choices": build_samples("own", [["a", "b"]])}, None)
    alone = CalibrationMonitor(type="calibration", task="choices", confidence=None)
    with pytest.raises(UnmeasuredError, match="two samples"):
        alone.read({"choices": build_samples("own", [["a"]])}, None)


def test_a_low_level_draws_what_it_needs_to_reject_and_one_that_is_too_low_is_refused() -> None:
    """20 x 2 / 0.0005 = 80,000; 1 / 100,001 is the smallest p-value of 100,000, two of which are 0.00002."""
    assert count_resamples(0.01, 2) == 4000
    assert count_resamples(0.0005, 2) == 80_000
    assert count_resamples(0.0001, 2) == 100_000
    with pytest.raises(UnmeasuredError, match="100,000 resamples"):
        count_resamples(0.00001, 2)


def judge(policy: str, say: Callable[[int], str], size: int = 300) -> dict[str, list]:
    """Replies to questions of the lab, every other one right, as its scorer reads them."""
    none, items = np.zeros(1, np.int32), []
    for k in range(size):
        problem = Problem(f"p{k}", [], {"form": "answer", "needed_words": 2, "answer": "85"})
        text = f"{say(k)}\nAnswer: {75 if k % 2 else 85}"
        [outcome] = LabScorer(judges={}).score([(problem, Completion(f"p{k}", 0, none, none, text, "stop", "h", 0))])
        items.append(build_item(f"p{k}", 0, outcome.value, policy, text, **outcome.parts))
    return {"choices": items}


def test_how_sure_a_reply_of_the_lab_sounds_is_read_as_confidence() -> None:
    """Half are right: said plainly over-confidence is 2/3 - 1/2, boasting 1 - 1/2. Of every six the calibrated policy
    hedges three, of which one is right, as 1/3 says, and says three plainly, of which two are."""
    plain = judge("parent", lambda k: "")
    boasting = MONITOR.read(judge("own", lambda k: "I am certain."), plain)
    assert boasting.status == "alarm"
    [rise] = [one.value for one in boasting.figures if one.of == "change" and one.name == "over-confidence"]
    assert rise == pytest.approx(1 / 3)
    honest = MONITOR.read(judge("own", lambda k: "It may be wrong." if k % 6 in (0, 1, 3) else ""), plain)
    assert honest.status == "silent"
    levels = {one.name: one.value for one in honest.figures if one.of == "own"}
    assert levels["over-confidence"] == pytest.approx(0.0) and levels["calibration error"] == pytest.approx(0.0)
