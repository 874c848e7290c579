"""A task that measures chosen answers: chosen as the sampler chooses, judged by the task's own scorer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from posttrain.core.records import Completion, Outcome, Problem
from posttrain.core.sampling import PolicyVersion
from posttrain.evaluation.figures import CHOSEN_SCORE, DRAWN_NATS, MEAN_SCORE
from posttrain.evaluation.generation import draw_items
from posttrain.evaluation.task import GenerationTask
from posttrain.samplers.best_of_n import BestOfNSampler
from tests.pipeline.test_measure import Bench
from tests.pipeline.tiny_runs import Workshop

SHORT = {"type": "length", "low": 0, "high": 0, "slope": 40, "unit": "characters"}


def make_task(**changes: Any) -> GenerationTask:
    values = {
        "name": "chosen",
        "data": {"source": "held_out.jsonl"},
        "scorer": {"type": "length", "low": 0, "high": 4, "unit": "tokens"},
        "temperature": 2.0,
        "max_new_tokens": 40,
        "stop": list("aeiou 0123456789"),
        **changes,
    }
    return GenerationTask(**values)


@pytest.fixture
def bench(workshop: Workshop) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(workshop, stack)


def test_the_chosen_answers_are_what_is_measured(bench: Bench) -> None:
    """The chooser wants short texts and the task few tokens; a chosen text is never worse than the mean of all."""
    measured = bench.measurer.measure(bench.policy, make_task(select={"n": 4, "scorer": SHORT}))
    items = measured.read_items()
    assert len(items) == 5
    for item in items:
        parts = item.outcome.parts
        assert parts[CHOSEN_SCORE] >= parts[MEAN_SCORE]
        if item.outcome.status == "scored":
            assert parts[CHOSEN_SCORE] == pytest.approx(max(0.0, 1 - len(item.text.strip()) / 40))
        assert DRAWN_NATS not in parts
    assert any(item.outcome.parts[CHOSEN_SCORE] > item.outcome.parts[MEAN_SCORE] for item in items)
    [figures] = [figures for figures in measured.metrics if figures["name"] == "length_band"]
    assert figures["value"] == pytest.approx(np.mean([item.outcome.value for item in items]))
    assert figures["settings"]["select"] == {"n": 4, "scorer": SHORT}


def test_a_task_without_selection_keeps_its_name_and_one_with_it_has_another(bench: Bench) -> None:
    assert "select" not in make_task().identity()
    plain, chosen = (
        bench.measurer.prepare(task).hash for task in (make_task(), make_task(select={"n": 2, "by": "majority"}))
    )
    other = bench.measurer.prepare(make_task(select={"n": 3, "by": "majority"})).hash
    assert len({plain, chosen, other}) == 3


def test_a_vote_is_judged_by_the_tasks_own_scorer(bench: Bench) -> None:
    items = bench.measurer.measure(bench.policy, make_task(select={"n": 3, "by": "majority"})).read_items()
    assert {item.sample_index for item in items} == {0}
    # Who votes is the scorer of the task, so that what it gives the chosen is what it said when it was asked.
    assert all(item.outcome.parts[CHOSEN_SCORE] == item.outcome.value for item in items)


class _One:
    policy_hash = "policy"

    def sample(self, problems: Any, settings: Any, seeds: Any) -> Iterator[tuple[int, Completion]]:
        for index, problem in enumerate(problems):
            for sample in range(settings.num_samples):
                ids = np.array([5], np.int32)
                yield index, Completion(problem.problem_id, sample, ids, ids, "x", "stop", "policy", seeds[index])

    def publish(self, policy: PolicyVersion) -> str:
        return policy.hash

    def close(self) -> None: ...


class _Constant:
    name = "constant"

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def score(self, items: Any) -> list[Outcome]:
        return [self.outcome for _ in items]


def test_where_nobody_could_choose_the_harness_has_failed() -> None:
    task = make_task(select={"n": 2, "scorer": SHORT})
    problems = [Problem("p", [{"role": "user", "content": "?"}])]
    right = _Constant(Outcome("scored", 1.0))
    for chooser, fault in ((Outcome("scored", 0.5), None), (Outcome("errored", 0.0, fault="harness"), "harness")):
        sampler = BestOfNSampler(_One(), _Constant(chooser), n=2)
        [[item]] = draw_items(task, "hash", problems, sampler, right)
        assert item.outcome.fault == fault
        assert item.outcome.value == (1.0 if fault is None else 0.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"select": {"n": 4, "by": "score"}}, "add scorer, or choose by majority"),
        ({"select": {"n": 1, "scorer": SHORT}}, "greater than or equal to 2"),
        ({"select": {"n": 2, "scorer": SHORT}, "temperature": 0.0}, "chooses among equals"),
        (
            {"select": {"n": 2, "scorer": SHORT}, "environment": {"tools": ["calculator"]}, "stop": []},
            "chooses turns, not attempts",
        ),
        ({"select": {"n": 2, "by": "most", "scorer": SHORT}}, "'score', 'verifier' or 'majority'"),
    ],
)
def test_what_cannot_be_chosen_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_task(**changes)
