"""Forgetting: what a stage lost of what the policies before it could do, against its parent and against the base.

Texts that are weighed (`type: perplexity`) rise in nats per token; any other task falls in its score. Six stages
that each stay within their bound against their parent may have fallen far from the base: so both are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.evidence import (
    MIN_SOURCES,
    Pair,
    UnmeasuredError,
    check_readable,
    choose_examples,
    describe_mean,
    has_part,
    list_pairs,
    pair_values,
    read_sample,
    take_items,
)
from posttrain.evaluation.monitors.keys import MonitorKeys, check_named_once
from posttrain.evaluation.monitors.reading import Example, Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.one_sided import OneSided, ratio_test, rise_test
from posttrain.statistics.pairing import cluster_name

FOOLED_BY = (
    "what no task measures; texts that occur in the stage's own training data; and a fall of one skill that another's "
    "rise within the same task makes up for"
)
NATS, TOKENS = "nats", "tokens"
_UNIT = "nats/token"


class ForgettingMonitor(MonitorKeys):
    """Reads tasks of earlier skills and texts.

    `allowed_nats` bounds the rise in nats per token of a task that weighs texts, and `allowed_drop` the fall in score
    of any other, over the parent; `allowed_nats_from_base` and `allowed_drop_from_base` those over the base.
    """

    type: Literal["forgetting"]
    tasks: Annotated[list[str], AfterValidator(check_named_once)] = Field(min_length=1)
    allowed_nats: float = Field(0.1, ge=0)
    allowed_drop: float = Field(0.05, ge=0, lt=1)
    allowed_nats_from_base: float = Field(0.2, ge=0)
    allowed_drop_from_base: float = Field(0.1, ge=0, lt=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """All tasks."""
        return tuple(self.tasks)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return what was lost since the policy before it."""
        return self.read_beside_base(own, parent, None)

    def read_beside_base(self, own: Items, parent: Items | None, base: Items | None) -> Reading:
        """Return what was lost since the policy before it, and since the base; an unreadable task is told of."""
        findings = Findings()
        for task in self.tasks:
            items = findings.take(own, task)
            if not items:
                continue
            findings.figures.append(_describe(task, items))
            findings.attempt(task, self._check, task, own, parent, is_base=False)
            # Of the first stage the base is the parent: one test is enough.
            if base is not None and (parent is None or not _is_same_policy(base, parent, task)):
                findings.attempt(task, self._check, task, own, base, is_base=True)
        findings.examples = self._choose_lost(own, parent)
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _check(self, task: str, own: Items, reference: Items | None, *, is_base: bool) -> Check:
        side = "the base" if is_base else "the parent"
        before = take_items(reference, task, side)
        pairs = list_pairs(before, take_items(own, task))
        if has_part(before, NATS):
            bound = self.allowed_nats_from_base if is_base else self.allowed_nats
            name = f"{task}: nats per token over {side}"
            phrase = f"{task} costs {{value}} more than {side}"
            return Check(name, phrase, _test_nats(pairs, task, bound), bound, unit=_UNIT)
        check_readable(before, f"{side} to {task}")
        bound = self.allowed_drop_from_base if is_base else self.allowed_drop
        values = pair_values(pairs, lambda item: item.outcome.value, task)
        test = rise_test(values, bound, is_drop=True)
        return Check(f"{task}: score over {side}", f"{task} falls by {{value}} below {side}", test, bound, sign=-1)

    def _choose_lost(self, own: Items, parent: Items | None) -> tuple[Example, ...]:
        lost = []
        for task in self.tasks:
            later = {(item.item_id, item.sample_index): item for item in own.get(task, ())}
            before = [] if parent is None else parent.get(task, ())
            pairs = [(item, later.get((item.item_id, item.sample_index))) for item in before]
            lost += [after for item, after in pairs if after is not None and after.outcome.value < item.outcome.value]
        return choose_examples(lost, lambda item: "worth less than before")


def _test_nats(pairs: Sequence[Pair], task: str, bound: float) -> OneSided:
    clusters = [cluster_name(before) for before, _ in pairs]
    if len(set(clusters)) < MIN_SOURCES:
        raise UnmeasuredError(f"{len(set(clusters))} sources of {task}, where {MIN_SOURCES} are needed")
    parts = np.array(
        [[item.outcome.parts.get(name, np.nan) for item in pair for name in (NATS, TOKENS)] for pair in pairs]
    )
    before_nats, before_tokens, nats, tokens = parts.T
    if not np.isfinite(parts).all() or (before_tokens != tokens).any():
        raise UnmeasuredError(
            f"the two cut the texts of {task} into different tokens, so that their nats do not compare"
        )
    return ratio_test(nats - before_nats, tokens, clusters, bound)


def _describe(task: str, items: Sequence[ItemResult]) -> Figure:
    counted = [item for item in items if item.outcome.is_counted]
    if not has_part(counted, NATS):
        return describe_mean(task, read_sample(counted, lambda item: item.outcome.value))
    weighed = [item for item in counted if {NATS, TOKENS} <= item.outcome.parts.keys()]
    sums = [sum(item.outcome.parts[name] for item in weighed) for name in (NATS, TOKENS)]
    value = sums[0] / sums[1] if sums[1] > 0 else None
    return Figure(f"{task}: nats per token", value, None, None, len(weighed), _UNIT)


def _is_same_policy(first: Items, second: Items, task: str) -> bool:
    hashes = [{item.policy_hash for item in side.get(task, ())} for side in (first, second)]
    return hashes[0] == hashes[1]
