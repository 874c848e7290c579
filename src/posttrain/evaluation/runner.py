"""Measures a policy on a task: gets its answers, records every item, and sums up with intervals.

Items are appended as they are judged, so a killed evaluation goes on where it stopped, and what a policy has answered
is never asked again. Texts are not kept in memory. Above 1 % of harness faults there is no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.protocols import Progress
from posttrain.core.records import ItemResult, Problem
from posttrain.evaluation.answering import Answerer
from posttrain.evaluation.figures import CUT_TOKENS
from posttrain.evaluation.item_columns import ItemColumns
from posttrain.evaluation.items import (
    ItemKey,
    append_items,
    drop_texts,
    item_key,
    iterate_items,
    keep_items,
)
from posttrain.evaluation.problem_store import ProblemView, list_clusters, list_ids

MAX_ROWS_TOGETHER = 4
"""Rows of a cluster that a choice of rows keeps together: a question in two orders, or asked twice in both."""


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

    A smaller choice is part of every larger one, so that more items may be drawn later. Rows of a cluster of at most
    MAX_ROWS_TOGETHER are chosen one after another, so that a question in both orders keeps both, but for the last one
    that there is room for. Rows of larger clusters are chosen singly: so many of one template would say little.

    Raises:
        DataError: There is no problem, or two share an id.
    """
    ids = list_ids(problems)
    repeated = [] if len(set(ids)) == len(ids) else [name for name, count in Counter(ids).items() if count > 1]
    if repeated or not problems:
        raise DataError(
            f"problem id {repeated[0]!r} occurs more than once" if repeated else "no problem to evaluate",
            expected="at least one problem, each with an id of its own",
            cure="give every row another id" if repeated else "choose a source and a range that hold rows",
            place=name,
        )
    if first is None or first >= len(problems):
        return MeasuredTask(name, task_hash, problems)
    clusters = list_clusters(problems)
    sizes = Counter(clusters)

    def rank(index: int) -> tuple[str, str]:
        own, cluster = hash_text(task_hash, ids[index]), clusters[index]
        is_kept = cluster and 1 < sizes[cluster] <= MAX_ROWS_TOGETHER
        return (hash_text(task_hash, "cluster", cluster) if is_kept else own), own

    return MeasuredTask(name, task_hash, ProblemView(problems, sorted(sorted(range(len(ids)), key=rank)[:first])))


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
    known = _Known(task, answerer)
    known.read(items_path)
    keep_items(items_path, lambda item: None if item.outcome.fault == "harness" else known.find_rank(item))
    waiting = [place for place in range(len(task.problems)) if not known.items.has(place * answerer.num_samples)]
    if waiting:
        _ask(task, ProblemView(task.problems, waiting), answerer, items_path, known, progress)
    # In the order of the problems, so that the file is the same however often it was interrupted.
    keep_items(items_path, known.find_rank)
    _tell_of_cuts(task, known.items, progress)
    return answerer.summarise(known.items)


class _Known:
    """What is known of a task's items: those of the problems that are asked, and which others the file holds.

    A place is kept for each sample of each problem; the others come after them, in the order of their names.
    """

    def __init__(self, task: MeasuredTask, answerer: Answerer) -> None:
        ids = list_ids(task.problems)
        self.items = ItemColumns(task.hash, answerer.policy_hash, ids, answerer.num_samples)
        self._names = (task.hash, answerer.policy_hash)
        self._num_samples = answerer.num_samples
        self._places: Mapping[str, int] = {name: place for place, name in enumerate(ids)}
        self._others: dict[ItemKey, int] = {}

    def find_rank(self, item: ItemResult) -> int | None:
        """Return where an item stands in the file; None for one that is not known."""
        if (item.task_hash, item.policy_hash) != self._names:
            return None
        place = self._find_place(item_key(item))
        if place is None:
            return self._others.get(item_key(item))
        return place if self.items.has(place) else None

    def put(self, item: ItemResult) -> None:
        """Keep an item of a problem that is asked."""
        place = self._find_place(item_key(item))
        if place is None:
            raise ValueError(f"the answerer gave an item of {item.item_id!r}, which was not asked")
        self.items.put(place, drop_texts(item))

    def read(self, path: Path) -> None:
        """Read the items that need no asking: a harness fault deserves another try, and so do missing samples."""
        others: set[ItemKey] = set()
        for item in iterate_items(path):
            if (item.task_hash, item.policy_hash) != self._names or item.outcome.fault == "harness":
                continue
            place = self._find_place(item_key(item))
            if place is None:
                others.add(item_key(item))
            elif not self.items.has(place):  # of a repeated key the file keeps the first too
                self.items.put(place, drop_texts(item))
        for start in range(0, len(self.items), self._num_samples):
            samples = range(start, start + self._num_samples)
            if not all(map(self.items.has, samples)):
                for place in samples:
                    self.items.remove(place)
        counts = Counter(name for name, _ in others)
        whole = sorted(key for key in others if counts[key[0]] == self._num_samples)
        self._others = {key: len(self.items) + rank for rank, key in enumerate(whole)}

    def _find_place(self, key: ItemKey) -> int | None:
        name, sample = key
        if name not in self._places or sample >= self._num_samples:
            return None
        return self._places[name] * self._num_samples + sample


# many parameters: what is asked of whom, and where it goes
def _ask(
    task: MeasuredTask,
    waiting: Sequence[Problem],
    answerer: Answerer,
    items_path: Path,
    known: _Known,
    progress: Progress,
) -> None:
    """Get the answers to the waiting problems, record each, and add it to what is known."""
    progress.start(f"evaluate {task.name}", len(known.items), unit="item")
    try:
        tally = _Tally(known.items.present())
        progress.advance(len(known.items) - len(waiting) * answerer.num_samples)
        for items in answerer.answer(waiting, task.hash):
            append_items(items_path, items)
            for item in items:
                known.put(item)
            tally.add(items)
            progress.advance(len(items), **{answerer.metric_name: tally.mean})
    finally:
        progress.finish()


def _tell_of_cuts(task: MeasuredTask, items: ItemColumns, progress: Progress) -> None:
    num_cut = items.count_part(CUT_TOKENS)
    if num_cut:
        progress.note(
            f"{task.name}: {num_cut:,} of {len(items):,} prompts were longer than the model's context and were cut "
            "from the left"
        )


class _Tally:
    """The mean of what is counted, 0 where nothing is yet: what a progress bar shows."""

    def __init__(self, items: Iterable[ItemResult]) -> None:
        self.total, self.count = 0.0, 0
        self.add(items)

    def add(self, items: Iterable[ItemResult]) -> None:
        for item in items:
            if item.outcome.is_counted:
                self.total, self.count = self.total + item.outcome.value, self.count + 1

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)


def mean_value(items: Iterable[ItemResult]) -> float:
    """Return the mean of what is counted, 0 where nothing is."""
    return _Tally(items).mean
