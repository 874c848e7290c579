"""The monitor of diversity: silent on chance, alarmed where samples become alike, and honest where it cannot tell."""

from __future__ import annotations

import pytest

from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.monitors.diversity import DiversityMonitor
from posttrain.evaluation.monitors.reading import Figure, Reading
from tests.evaluation.monitors.samples import build_samples

MONITOR = DiversityMonitor(type="diversity", task="sums")
WORDS = ("red", "blue", "green", "grey", "pink", "gold")


def draw(policy: str, num_kinds: int, seed: str, problems: int = 60) -> dict[str, list]:
    """Four samples a problem, each one of `num_kinds` equally likely sentences."""
    generator = build_numpy_generator("monitor", "diversity", seed)
    picks = generator.integers(num_kinds, size=(problems, 4))
    return {"sums": build_samples(policy, [[f"it is {WORDS[k]} and {WORDS[k]} too" for k in row] for row in picks])}


def find(reading: Reading, name: str, of: str) -> Figure:
    return next(one for one in reading.figures if one.name == name and one.of == of)


def test_samples_that_become_alike_are_an_alarm() -> None:
    reading = MONITOR.read(draw("own", 2, "few"), draw("parent", 6, "many"))
    assert reading.status == "alarm"
    assert "different answers" in reading.why and "1 - self-BLEU" in reading.why
    assert find(reading, "different answers", "own").value < find(reading, "different answers", "parent").value


def test_another_draw_of_the_same_policy_is_none() -> None:
    readings = [MONITOR.read(draw("own", 4, f"a{k}"), draw("parent", 4, f"b{k}")) for k in range(10)]
    assert {reading.status for reading in readings} == {"silent"}


def test_figures_are_means_over_problems() -> None:
    """Problems with answers a, a and a, b: 1.5 answers on average; one of two pairs differs; 10 nats of 10 tokens."""
    reading = MONITOR.read({"sums": build_samples("own", [["a", "a"], ["a", "b"]])}, None)
    assert reading.status == "unmeasured"
    assert find(reading, "different answers", "own").value == 1.5
    assert find(reading, "samples that differ", "own").value == 0.5
    assert find(reading, "entropy", "own").value == 1.0


def test_one_sample_a_problem_cannot_tell() -> None:
    single = [["a"]] * 30
    reading = MONITOR.read({"sums": build_samples("own", single)}, {"sums": build_samples("parent", single)})
    assert reading.status == "unmeasured"
    assert "two samples" in reading.why


def test_a_loss_within_the_bound_is_none() -> None:
    lenient = DiversityMonitor(type="diversity", task="sums", allowed_drop=0.9)
    assert lenient.read(draw("own", 2, "few"), draw("parent", 6, "many")).status == "silent"


def test_only_the_kinds_that_are_asked_for_are_tested() -> None:
    """Sentences change, answers do not: the texts differ and their scorer found one answer."""
    one = DiversityMonitor(type="diversity", task="sums", kinds=["distinct_2"])
    reading = one.read(draw("own", 2, "few"), draw("parent", 6, "many"))
    assert [figure.name for figure in reading.figures if figure.of == "change"] == [
        "distinct-2: change by the parent's"
    ]


def test_examples_are_problems_whose_samples_agree() -> None:
    reading = MONITOR.read({"sums": build_samples("own", [["a", "a"], ["a", "b"]])}, None)
    assert [example.item_id for example in reading.examples] == ["p0"]


@pytest.mark.parametrize("keys", [{"kinds": []}, {"kinds": ["entropy"]}, {"allowed_drop": 1.0}, {"task": "A"}])
def test_keys_out_of_range_are_refused(keys: dict) -> None:
    with pytest.raises(ValueError, match="validation error"):
        DiversityMonitor(**{"type": "diversity", "task": "sums", **keys})


def test_a_policy_that_says_nothing_is_the_least_diverse() -> None:
    silent = {"sums": build_samples("own", [[""] * 4] * 60)}
    reading = MONITOR.read(silent, draw("parent", 6, "many"))
    assert reading.status == "alarm"
    assert "1 - self-BLEU: 100.0 % lost" in reading.why and "distinct-2: 100.0 % lost" in reading.why


def test_answers_of_one_word_have_no_distinct_2() -> None:
    """Without a pair of words there is nothing to divide by, which is no diversity of 1."""
    words = {"sums": build_samples("own", [["yes", "no", "yes", "no"]] * 60)}
    reading = MONITOR.read(words, {"sums": build_samples("parent", [["yes", "no", "yes", "no"]] * 60)})
    assert find(reading, "distinct-2", "own").value is None
    assert "not tested: distinct-2: 0 sources" in reading.why
