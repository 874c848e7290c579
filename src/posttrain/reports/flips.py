"""What each stage lost and gained, item by item, against the policy that it started from.

All that changed is counted; a few are shown with their texts, chosen by the hash of their names and not by charm.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from posttrain.reports.columns import list_columns
from posttrain.reports.item_tables import ItemTable, match_items
from posttrain.reports.numbers import format_count
from posttrain.reports.run_files import RunFiles
from posttrain.reports.samples import Sample, build_sample

NUM_SHOWN = 2
"""Of each kind, stage and task."""


@dataclass(frozen=True, slots=True)
class FlipTask:
    """What became of the items of one task: counts of all, and some of those that are lost and gained."""

    task: str
    num_lost: int
    num_gained: int
    counts: str
    lost: list[Sample]
    gained: list[Sample]


@dataclass(frozen=True, slots=True)
class FlipStage:
    """One stage's flips, by task, and against whom; a stage that changed nothing has no tasks."""

    label: str
    against: str
    tasks: list[FlipTask]

    @property
    def summary(self) -> str:
        """All tasks in a line: `questions −3 +17 · tools −23 +1`."""
        return " · ".join(f"{task.task} −{task.num_lost} +{task.num_gained}" for task in self.tasks)


def build_flips(files: RunFiles) -> list[FlipStage]:
    """Return what every stage lost and gained, in the order of the run."""
    columns, stages = list_columns(files.run), []
    for column in columns:
        if column.before is None:
            continue
        before = columns[column.before]
        tables, earlier = files.items.get(column.label, {}), files.items.get(before.label, {})
        tasks = [
            _build_task(task, (before.answerer, earlier[task]), (column.answerer, table))
            for task, table in tables.items()
            if task in earlier and earlier[task].path != table.path
        ]
        if any(task.num_lost or task.num_gained for task in tasks):
            changed = [task for task in tasks if task.num_lost or task.num_gained]
            stages.append(FlipStage(column.answerer, before.answerer, changed))
    return stages


def _build_task(task: str, before: tuple[str, ItemTable], after: tuple[str, ItemTable]) -> FlipTask:
    first, second = match_items(before[1], after[1])
    changes = after[1].read_values()[second] - before[1].read_values()[first]
    lost, gained = np.flatnonzero(changes < 0), np.flatnonzero(changes > 0)
    keys = list(after[1].places)
    is_text = after[1].has_part("nats")  # nobody answered: a text was weighed
    cards = []
    for changed in (lost, gained):
        ranked = sorted(changed.tolist(), key=lambda index: hashlib.sha256(keys[int(second[index])]).digest())
        cards.append([
            build_sample([
                (before[0], before[1].read_item(int(first[index]))),
                (after[0], after[1].read_item(int(second[index]))),
            ])
            for index in ranked[: 0 if is_text else NUM_SHOWN]
        ])  # fmt: skip
    num_same = int((changes == 0).sum())
    num_masked = int(np.isnan(changes).sum())
    counts = f"{lost.size} lost, {gained.size} gained, {format_count(num_same)} the same"
    return FlipTask(
        task=task,
        num_lost=int(lost.size),
        num_gained=int(gained.size),
        counts=counts + (f"; {num_masked} masked" if num_masked else ""),
        lost=cards[0],
        gained=cards[1],
    )
