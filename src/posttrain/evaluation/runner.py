"""Measures a policy on a task: gets its answers, records every item, and sums up with intervals.

Items are appended as they are judged, so a killed evaluation goes on where it stopped, and what a policy has answered
is never asked again. Texts are not kept in memory. Above 1 % of harness faults there is no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.protocols import Progress
from posttrain.core.records import ItemResult, Problem
from posttrain.evaluation.answering import Answerer
from posttrain.evaluation.items import (
    ItemKey,
    append_items,
    drop_texts,
    item_key,
    iterate_items,
    keep_items,
)


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """A task as it is measured: its name by content, its problems, and how many of them are asked.

    Made by `choose_problems`. `problems` are those that are asked, in the order of the rows.
    """

    name: str
    hash: str
    problems: Sequence[Problem]


def choose_problems(name: str, task_hash: str, problems: Sequence[Problem], first: int | None = None) -> MeasuredTask:
    """Return a task with all of its problems, or a fixed random choice of so many.

    A smaller choice is part of every larger one, so that more items may be drawn later.

    Raises:
        DataError: There is no problem, or two share an id.
    """
    repeated = [name for name, count in Counter(problem.problem_id for problem in problems).items() if count > 1]
    if repeated or not problems:
        raise DataError(
            f"problem id {repeated[0]!r} occurs more than once" if repeated else "no problem to evaluate",
            expected="at least one problem, each with an id of its own",
            cure="give every row another id" if repeated else "choose a source and a range that hold rows",
            place=name,
        )
    if first is None or first >= len(problems):
        return MeasuredTask(name, task_hash, problems)
    order = sorted(range(len(problems)), key=lambda index: hash_text(task_hash, problems[index].problem_id))
    return MeasuredTask(name, task_hash, [problems[index] for index in sorted(order[:first])])


def run_task(task: MeasuredTask, answerer: Answerer, items_path: Path, progress: Progress) -> list[dict[str, Any]]:
    """Return a task's metrics, having asked what the item file does not hold.

    Args:
        task: What to ask.
        answerer: Answers and judges.
        items_path: One JSON line an item; those of the same task, policy and samples that are there are not asked
            again, harness faults are, and any others are removed unless they are of other problems of this task.
        progress: Shows how far it has come.

    Returns:
        Dictionaries of task, name, value, low, high (95 % limits), n, clusters, method, and outcomes: items by
        status, and the `harness` faults. These and what is `not_applicable` are left out of n.

    Raises:
        RefusedError: The answerer's sampler holds another policy, or the harness failed on over 1 % of the items.
        StorageError: The item file is torn before its last line, or cannot be written.
    """
    known = _read_known(items_path, task.hash, answerer)
    ranks = {
        (problem.problem_id, sample): rank * answerer.num_samples + sample
        for rank, problem in enumerate(task.problems)
        for sample in range(answerer.num_samples)
    }
    others = {key: len(ranks) + place for place, key in enumerate(sorted(known.keys() - ranks.keys()))}
    keep_items(items_path, {key: rank for key, rank in (ranks | others).items() if key in known})
    results = {key: item for key, item in known.items() if key in ranks}
    waiting = [problem for problem in task.problems if (problem.problem_id, 0) not in results]
    if waiting:
        _ask(task, waiting, answerer, items_path, results, progress)
    # In the order of the problems, so that the file is the same however often it was interrupted.
    keep_items(items_path, ranks | others)
    return answerer.summarise([results[key] for key in ranks])


# many parameters: what is asked of whom, and where it goes
def _ask(
    task: MeasuredTask,
    waiting: Sequence[Problem],
    answerer: Answerer,
    items_path: Path,
    results: dict[ItemKey, ItemResult],
    progress: Progress,
) -> None:
    """Get the answers to the waiting problems, record each, and add it to the results."""
    progress.start(f"evaluate {task.name}", len(task.problems) * answerer.num_samples, unit="item")
    try:
        progress.advance(len(results))
        tally = _Tally(results.values())
        for items in answerer.answer(waiting, task.hash):
            append_items(items_path, items)
            results.update({item_key(item): drop_texts(item) for item in items})
            tally.add(items)
            progress.advance(len(items), **{answerer.metric_name: tally.mean})
    finally:
        progress.finish()


def _read_known(path: Path, task_hash: str, answerer: Answerer) -> dict[ItemKey, ItemResult]:
    """Return the items that need no asking: a harness fault deserves another try, and so do missing samples."""
    found: dict[ItemKey, ItemResult] = {}
    for item in iterate_items(path):
        is_mine = (item.task_hash, item.policy_hash) == (task_hash, answerer.policy_hash)
        if is_mine and item.outcome.fault != "harness":
            found.setdefault(item_key(item), drop_texts(item))  # of a repeated key the file keeps the first too
    samples = Counter(name for name, _ in found)
    return {key: item for key, item in found.items() if samples[key[0]] == answerer.num_samples}


class _Tally:
    """The mean of what is counted, 0 where nothing is yet: what a progress bar shows."""

    def __init__(self, items: Iterable[ItemResult]) -> None:
        self.total, self.count = 0.0, 0
        self.add(items)

    def add(self, items: Iterable[ItemResult]) -> None:
        values = [item.outcome.value for item in items if item.outcome.is_counted]
        self.total, self.count = self.total + sum(values), self.count + len(values)

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)


def mean_value(items: Iterable[ItemResult]) -> float:
    """Return the mean of what is counted, 0 where nothing is."""
    return _Tally(items).mean
