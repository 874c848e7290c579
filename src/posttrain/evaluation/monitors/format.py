"""Form: answers that cannot be read, are cut, do not stop, or lose the form that is asked for, against the parent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from posttrain.core.records import ItemResult
from posttrain.evaluation.figures import STOPPED
from posttrain.evaluation.monitors.evidence import (
    Pair,
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


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is read of a task's items: its name, whether a fall of it is the failure, and how it is read."""

    what: str
    is_drop: bool
    read: Read


class FormatMonitor(MonitorKeys):
    """Reads whether answers stop, can be read, and keep their form.

    `part` is a part of the outcomes that is 1 where the form is kept; tasks whose outcomes on neither side have such a
    part are read without it, and an answer that has none where the other side's has one did not keep it. `allowed`
    bounds every rise and fall.
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
        """Return how form stands, against the policy before it; what is wrong with a task is told beside the others."""
        findings = Findings()
        broken: list[ItemResult] = []
        is_found = False
        for task in self.tasks:
            items = findings.take(own, task)
            if not items:
                continue
            before = () if parent is None else parent.get(task, ())
            kinds = self._list_kinds([*items, *before])
            is_found = is_found or any(kind.what == self.part for kind in kinds)
            for kind in kinds:
                findings.attempt(task, self._check, kind, task, own, parent)
                findings.figures.append(describe_mean(f"{task}: {kind.what}", read_sample(items, kind.read)))
            broken += [item for item in items if item.outcome.fault == "policy"]
        if not is_found and "part" in self.model_fields_set:
            findings.missing.append(f"no outcome of a task has the part {self.part!r}")
        findings.examples = choose_examples(broken, lambda item: f"{item.outcome.status}: {item.outcome.why}")
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _list_kinds(self, items: Sequence[ItemResult]) -> list[_Kind]:
        """Return what is read of a task, given its items of both sides."""
        kinds = [_Kind(status, False, read_status(status)) for status in ("unparsed", "truncated")]
        parts = dict.fromkeys((STOPPED, self.part))
        return kinds + [_Kind(part, True, read_part(part)) for part in parts if has_part(items, part)]

    def _check(self, kind: _Kind, task: str, own: Items, parent: Items | None) -> Check:
        name, is_drop, read = f"{task}: {kind.what}", kind.is_drop, kind.read
        pairs = list_pairs(take_items(parent, task, "the parent"), take_items(own, task))
        if kind.what == self.part:
            pairs, read = _fill_in(pairs, read)
        test = rise_test(pair_values(pairs, read, f"{task} with that part"), self.allowed, is_drop=is_drop)
        phrase = f"{name}, {'falls' if is_drop else 'rises'} by {{value}}"
        return Check(name, phrase, test, self.allowed, sign=-1 if is_drop else 1)


def _fill_in(pairs: Sequence[Pair], read: Read) -> tuple[list[Pair], Read]:
    """Return the pairs of which a side has a part, and what reads it as 0 of the other: no form was found there."""
    kept = [pair for pair in pairs if any(read(item) is not None for item in pair)]
    return kept, lambda item: read(item) or 0.0
