"""The user's own scoring code: what it is given, what it may return, and that it breaks nothing but its own scores."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.functions import FunctionScorer, GuardedScorer
from tests.scorers.making import make_item


def items(*texts: str, **columns: list[Any]) -> list[tuple[Problem, Completion]]:
    """Items with the given completions; a column's value for each, and MISSING for a row that lacks it."""
    made = []
    for index, text in enumerate(texts):
        own = {name: values[index] for name, values in columns.items() if values[index] is not MISSING}
        ids = np.array([ord(letter) for letter in text], np.int32)
        problem = Problem(f"p{index}", [{"role": "user", "content": f"question {index}"}], own)
        made.append((problem, Completion(problem.problem_id, 0, np.array([1], np.int32), ids, text, "stop", "h", 0)))
    return made


MISSING = object()


def score(function: Callable[..., Any], given: list[tuple[Problem, Completion]]) -> list[Outcome]:
    return FunctionScorer("mine", function).score(given)


def whys(outcomes: list[Outcome]) -> set[str]:
    """The reasons of outcomes that are all faults of the harness."""
    assert {(outcome.status, outcome.fault, outcome.value) for outcome in outcomes} == {("errored", "harness", 0.0)}
    return {outcome.why for outcome in outcomes}


def test_prompts_texts_ids_and_columns_come_by_name_and_in_order() -> None:
    seen: dict[str, Any] = {}

    def function(**arguments: Any) -> list[float]:
        seen.update(arguments)
        return [1.0, 2.0]

    outcomes = score(function, items("ab", "c", answer=["x", "y"], level=[MISSING, 3]))
    assert outcomes == [Outcome("scored", 1.0), Outcome("scored", 2.0)]
    assert seen == {
        "prompts": [[{"role": "user", "content": "question 0"}], [{"role": "user", "content": "question 1"}]],
        "completions": ["ab", "c"],
        "completion_ids": [[97, 98], [99]],
        "answer": ["x", "y"],
        "level": [None, 3],
    }


def test_a_function_names_only_what_it_uses_in_any_order() -> None:
    def function(answer: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [float(text == wanted) for text, wanted in zip(completions, answer, strict=True)]

    assert [o.value for o in score(function, items("a", "b", answer=["a", "a"]))] == [1.0, 0.0]


def test_a_column_with_the_name_of_an_argument_does_not_take_its_place() -> None:
    outcomes = score(lambda completions, **_: [float(len(c)) for c in completions], items("abc", completions=["x"]))
    assert outcomes == [Outcome("scored", 3.0)]


def test_a_coroutine_is_awaited_with_and_without_a_running_event_loop() -> None:
    async def function(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]

    async def inside() -> list[Outcome]:
        return score(function, items("a", "bb"))

    expected = [Outcome("scored", 1.0), Outcome("scored", 2.0)]
    assert score(function, items("a", "bb")) == expected
    assert asyncio.run(inside()) == expected


def test_a_coroutine_that_raises_is_a_fault_with_and_without_a_running_event_loop() -> None:
    async def function(**_: Any) -> list[float]:
        raise LookupError("no table")

    async def leaves(**_: Any) -> list[float]:
        raise SystemExit(0)

    async def inside(chosen: Callable[..., Any]) -> list[Outcome]:
        return score(chosen, items("a"))

    for chosen, word in ((function, "mine raised LookupError: no table"), (leaves, "mine raised SystemExit: 0")):
        assert whys(score(chosen, items("a"))) == {word}
        assert whys(asyncio.run(inside(chosen))) == {word}


def test_none_says_that_the_function_does_not_apply_to_a_row() -> None:
    outcomes = score(lambda **arguments: [1.0, None], items("a", "b"))
    found = [(outcome.status, outcome.fault, outcome.is_counted) for outcome in outcomes]
    assert found == [("scored", None, True), ("not_applicable", None, False)]
    assert "does not apply" in outcomes[1].why


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1.0), (0, 0.0), (-2.5, -2.5), (np.float32(0.5), 0.5), (np.int64(3), 3.0), (torch.tensor(0.25), 0.25)],
)
def test_any_finite_number_is_a_score(value: Any, expected: float) -> None:
    outcome = score(lambda **_: [value], items("a"))[0]
    assert outcome == Outcome("scored", expected) and type(outcome.value) is float


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, "1", [1.0], {}, 10**400, np.array([1, 2]), torch.tensor([1, 2]), np.float32("nan"), 1j],
)
def test_what_is_no_finite_number_is_a_fault_of_that_item_alone(value: Any) -> None:
    outcomes = score(lambda **_: [1.0, value, 0.5], items("a", "b", "c"))
    assert [outcome.value for outcome in (outcomes[0], outcomes[2])] == [1.0, 0.5]
    (why,) = whys(outcomes[1:2])
    assert why.startswith("mine returned ")


@pytest.mark.parametrize(("count", "found"), [(0, "0 values for 2"), (1, "1 values for 2"), (3, "3 values for 2")])
def test_another_number_of_values_than_items_scores_none_of_them(count: int, found: str) -> None:
    assert whys(score(lambda **_: [1.0] * count, items("a", "b"))) == {f"mine returned {found} items"}


@pytest.mark.parametrize("returned", [None, 3.0, print])
def test_a_result_that_is_no_list_is_a_fault(returned: Any) -> None:
    (why,) = whys(score(lambda **_: returned, items("a", "b")))
    assert why.startswith("mine raised TypeError")


def test_what_a_function_raises_is_a_fault_of_every_item_and_never_escapes() -> None:
    for error in (ValueError("no"), SystemExit(0), RecursionError("deep"), AssertionError()):

        def function(error: BaseException = error, **_: Any) -> list[float]:
            raise error

        (why,) = whys(score(function, items("a", "b")))
        assert why == f"mine raised {type(error).__name__}: {error}"


def test_an_interrupt_is_no_score() -> None:
    def function(**_: Any) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(function, items("a"))


def test_a_value_that_cannot_even_be_shown_is_a_fault() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    assert whys(score(lambda **_: [Hostile()], items("a"))) == {
        "mine returned an object of Hostile, which is no finite number"
    }


def test_no_items_need_no_call() -> None:
    assert score(lambda **_: 1 / 0, []) == []


def test_a_scorer_object_gives_outcomes_and_its_mistakes_are_faults() -> None:
    good = [Outcome("scored", 1.0, parts={"a": 0.5}), Outcome("unparsed", 0.0, fault="policy")]
    assert GuardedScorer("own", lambda given: good).score(items("a", "b")) == good
    bad = [0.5, None, Outcome("scored", math.nan), Outcome("scored", 1.0, parts={"a": math.inf})]
    faults = GuardedScorer("own", lambda given: bad).score(items("a", "b", "c", "d"))
    assert all(why.endswith("which is no Outcome with finite values") for why in whys(faults))

    async def later(given: Any) -> list[Outcome]:
        return good

    assert GuardedScorer("own", later).score(items("a", "b")) == good
    assert whys(GuardedScorer("own", lambda given: good).score(items("a"))) == {"own returned 2 values for 1 items"}


def test_a_call_that_hangs_costs_its_deadline_and_those_after_it_nothing() -> None:
    release = threading.Event()
    calls = []

    def hang(completions: list[str], **columns: Any) -> list[float]:
        calls.append(len(completions))
        release.wait()
        return [1.0] * len(completions)

    scorer = FunctionScorer("hang", hang, timeout_seconds=0.05)
    items = [make_item("a"), make_item("b")]
    for _ in range(3):
        outcomes = scorer.score(items)
        assert [outcome.fault for outcome in outcomes] == ["harness", "harness"]
        assert "did not return within 0.05 s" in outcomes[0].why
    assert calls == [2]
    release.set()
    hung = scorer._hung
    assert hung is not None
    hung.join(5)
    patient = FunctionScorer("hang", hang, timeout_seconds=5.0)
    assert [outcome.value for outcome in patient.score(items)] == [1.0, 1.0]


def test_what_is_raised_within_the_time_is_reported_as_ever() -> None:
    def fail(**columns: Any) -> list[float]:
        raise KeyError("gold")

    (outcome,) = FunctionScorer("fail", fail, timeout_seconds=5.0).score([make_item("a")])
    assert (outcome.status, outcome.fault) == ("errored", "harness")
    assert "raised KeyError" in outcome.why
