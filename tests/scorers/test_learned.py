"""The scorer of reward models: what it makes of their numbers, whatever gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, ModelError
from posttrain.core.records import Completion, FinishReason, Outcome, Problem
from posttrain.kernels.readings import Reading
from posttrain.scorers.learned import LearnedScorer, LearnedUse, OpenedModel


class ByRule:
    """Output k of member m at a token of value v is (m + 1) v + 10 k; remembers what it was asked."""

    def __init__(self, members: int = 1, outputs: int = 1, poison: float | None = None) -> None:
        self.members, self.outputs, self.poison = members, outputs, poison
        self.asked: list[Reading] = []

    def score(self, readings: Sequence[Reading]) -> list[list[Any]]:
        self.asked += readings
        found = []
        for reading in readings:
            found.append([])
            for ids, places in zip(reading.completions, reading.places, strict=True):
                values = np.array(
                    [
                        [[(m + 1) * float(ids[place]) + 10 * k for k in range(self.outputs)] for place in places]
                        for m in range(self.members)
                    ]
                )
                found[-1].append(values if self.poison is None else values * self.poison)
        return found


def opened(rule: ByRule, **changes: Any) -> OpenedModel:
    def encode(items: Sequence[tuple[Problem, str]]) -> list[Any]:
        return [(np.array([1], np.int32), np.array([*map(ord, text), 0], np.int32)) for _, text in items]

    model = OpenedModel(rule, ("preference",), encode, lambda ids: "".join(map(chr, ids)))
    return replace(model, **changes)


def item(
    ids: Sequence[int], *, prompt: Sequence[int] = (7, 8), text: str = "said", reason: FinishReason = "stop"
) -> tuple[Problem, Completion]:
    prompt_ids, own_ids = np.array(prompt, np.int32), np.array(ids, np.int32)
    return Problem("p", []), Completion("p", 0, prompt_ids, own_ids, text, reason, "", 0)


def score(model: OpenedModel, *items: tuple[Problem, Completion], **use: Any) -> list[Outcome]:
    return LearnedScorer(lambda: model, LearnedUse(**use)).score(items)


def test_the_last_token_is_read_and_order_is_kept() -> None:
    rule = ByRule()
    found = score(opened(rule), item([4, 2]), item([3], prompt=[9]), item([5, 5, 6]))
    assert [outcome.value for outcome in found] == [2.0, 3.0, 6.0]
    # two prompts, of which the first is read once with both of its completions
    assert [len(reading.completions) for reading in rule.asked] == [2, 1]


def test_members_become_one_value_and_how_far_they_lie_apart() -> None:
    """Members give 2, 4, 6: mean 4, worst 2, variance 8/3, spread sqrt(8/3)."""
    model = opened(ByRule(members=3))
    [mean] = score(model, item([2]))
    [worst] = score(model, item([2]), aggregation="worst_case")
    [cautious] = score(model, item([2]), aggregation="mean_minus_variance", variance_weight=0.5)
    assert (mean.value, worst.value) == (4.0, 2.0)
    assert cautious.value == pytest.approx(4 - 0.5 * 8 / 3)
    assert mean.parts["spread"] == pytest.approx((8 / 3) ** 0.5)


def test_members_that_are_named_count_alone() -> None:
    """Members 1, 2 and 4 of some ensemble are open, and give 2, 4 and 6."""
    model = opened(ByRule(members=3), members=(1, 2, 4))
    [one] = score(model, item([2]), members=(2,))
    [two] = score(model, item([2]), members=(4, 1))
    assert (one.value, two.value) == (4.0, 4.0)
    assert "spread" not in one.parts and two.parts["spread"] == 2.0
    with pytest.raises(ModelError, match="member 0") as caught:
        score(model, item([2]), members=(0, 1))
    assert "1, 2, 4" in caught.value.expected


def test_outputs_are_averaged_by_their_weights() -> None:
    model = opened(ByRule(outputs=2), outputs=("help", "harm"))
    [even], [weighted] = score(model, item([4])), score(model, item([4]), weights={"help": 1.0, "harm": 3.0})
    assert even.value == 9.0 and weighted.value == (4 + 3 * 14) / 4
    assert weighted.parts == {"help": 4.0, "harm": 14.0}
    [difference] = score(model, item([4]), weights={"help": 1.0, "harm": -1.0})
    assert difference.value == -10.0


def test_a_fitted_length_is_taken_off() -> None:
    """0.5 a token beyond 2: a completion of 4 tokens loses 1, one of 2 nothing."""
    model = opened(ByRule(), length_slope=0.5, mean_length=2.0)
    found = score(model, item([1, 1, 1, 6]), item([1, 6]), length_penalty="fitted")
    assert [outcome.value for outcome in found] == [5.0, 6.0]
    assert [outcome.parts["penalty"] for outcome in found] == [1.0, 0.0]
    assert [outcome.value for outcome in score(model, item([1, 1, 1, 6]))] == [6.0]


def test_steps_are_read_where_they_end() -> None:
    ids = [*map(ord, "ab\nc"), 0]
    rule = ByRule()
    [outcome] = score(opened(rule, outputs=("right",), separator="\n"), item(ids), step_aggregation="last")
    assert rule.asked[0].places[0].tolist() == [1, 4]
    assert outcome.value == 0.5 and outcome.parts == {"steps": 2.0}  # log-odds 0 at the last token


def test_a_completion_that_a_stop_string_ended_gets_the_end_of_turn_that_it_stands_for() -> None:
    rule = ByRule()
    found = score(opened(rule, stop_ids=(9, 2)), item([4, 5]), item([4, 2]))
    assert [ids.tolist() for ids in rule.asked[0].completions] == [[4, 5, 9], [4, 2]]
    assert [outcome.value for outcome in found] == [9.0, 2.0]


def test_text_alone_is_encoded_by_the_model() -> None:
    rule = ByRule()
    [outcome] = score(opened(rule), item([], prompt=[], text="hi"))
    assert rule.asked[0].completions[0].tolist() == [ord("h"), ord("i"), 0] and outcome.value == 0.0


def test_ids_of_another_vocabulary_are_not_read_and_the_text_is_encoded_instead() -> None:
    rule = ByRule()
    model = opened(rule, is_own=lambda problem, completion: completion.ids[0] != 4)
    found = score(model, item([4, 2], text="hi"), item([3, 2], text="hi"))
    assert [outcome.value for outcome in found] == [0.0, 2.0]
    assert [ids.tolist() for reading in rule.asked for ids in reading.completions] == [[ord("h"), ord("i"), 0], [3, 2]]


@pytest.mark.parametrize("reason", ["length", "filtered"])
def test_what_has_no_end_of_turn_gets_the_declared_value_and_opens_no_model(reason: FinishReason) -> None:
    def refuse() -> OpenedModel:
        raise AssertionError("opened")

    scorer = LearnedScorer(refuse, LearnedUse(failed_value=-2.5))
    cut, empty = scorer.score([item([3], reason=reason), item([3], text=" ")])
    assert (cut.status, cut.value, cut.fault) == ("truncated", -2.5, "policy")
    assert (empty.status, empty.value) == ("unparsed", -2.5)
    [cancelled] = scorer.score([item([3], reason="cancelled")])
    assert cancelled.fault == "harness" and not cancelled.is_counted


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_problem(poison: float) -> None:
    with pytest.raises(ModelError, match="not finite") as caught:
        score(opened(ByRule(poison=poison)), item([3]))
    assert caught.value.place == "p"


@pytest.mark.parametrize(
    ("use", "found"), [({"weights": {"taste": 1.0}}, "weights of taste"), ({"length_penalty": "fitted"}, "not fitted")]
)
def test_what_the_model_does_not_have_is_named(use: dict[str, Any], found: str) -> None:
    with pytest.raises(ModelError, match=found):
        score(opened(ByRule()), item([3]), **use)


def test_a_completion_without_tokens_that_cannot_be_encoded_is_named() -> None:
    model = opened(ByRule(), encode=lambda items: [(np.zeros(1, np.int32), np.zeros(0, np.int32)) for _ in items])
    with pytest.raises(DataError, match="without a token"):
        score(model, item([], text="x"))
