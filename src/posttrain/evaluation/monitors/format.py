"""Form: answers that cannot be read, are cut, do not stop, or lose the form that is asked for, against the parent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from posttrain.core.records import ItemResult
from posttrain.evaluation.figures import STOPPED
from posttrain.evaluation.monitors.evidence import (
    choose_examples,
    describe_mean,
    has_part,
    list_pairs,
    pair_values,
    read_part,
    read_sample,
    read_status,
    take_items,
)
from posttrain.evaluation.monitors.keys import MonitorKeys, check_named_once
from posttrain.evaluation.monitors.reading import Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.one_sided import rise_test

FOOLED_BY = (
    "a policy that keeps the form of the tasks that are read and loses it elsewhere, a scorer that reads an answer "
    "out of anything, and form that is kept around empty answers"
)
Read = Callable[[ItemResult], float | None]


class FormatMonitor(MonitorKeys):
    """Reads whether answers stop, can be read, and keep their form.

    `part` is a part of the outcomes that is 1 where the form is kept; tasks whose outcomes have no such part are read
    without it. `allowed` bounds every rise and fall.
    """

    type: Literal["format"]
    tasks: Annotated[list[str], AfterValidator(check_named_once)] = Field(min_length=1)
    part: str = Field("format", min_length=1)
    allowed: float = Field(0.02, ge=0, lt=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """All tasks."""
        return tuple(self.tasks)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return how form stands, against the policy before it.

        Raises:
            UnmeasuredError: A task was not measured.
        """
        findings = Findings()
        broken: list[ItemResult] = []
        for task in self.tasks:
            items = take_items(own, task)
            for what, is_drop, read in self._list_kinds(items):
                name = f"{task}: {what}"
                findings.attempt(task, self._check, name, task, is_drop, read, own, parent)
                findings.figures.append(describe_mean(name, read_sample(items, read)))
            broken += [item for item in items if item.outcome.fault == "policy"]
        findings.examples = choose_examples(broken, lambda item: f"{item.outcome.status}: {item.outcome.why}")
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _list_kinds(self, items: Sequence[ItemResult]) -> list[tuple[str, bool, Read]]:
        """Return what is read of a task's items: a name, whether a drop is the failure, and how it is read."""
        kinds: list[tuple[str, bool, Read]] = [
            (status, False, read_status(status)) for status in ("unparsed", "truncated")
        ]
        return kinds + [(part, True, read_part(part)) for part in (STOPPED, self.part) if has_part(items, part)]

    # many parameters: what is read of which task, which way is worse, and both sides
    def _check(self, name: str, task: str, is_drop: bool, read: Read, own: Items, parent: Items | None) -> Check:
        pairs = list_pairs(take_items(parent, task, "the parent"), take_items(own, task))
        test = rise_test(pair_values(pairs, read, f"{task} with that part"), self.allowed, is_drop=is_drop)
        phrase = f"{name}, {'falls' if is_drop else 'rises'} by {{value}}"
        return Check(name, phrase, test, self.allowed, sign=-1 if is_drop else 1)
