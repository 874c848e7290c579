"""What a gate found on each metric of a policy, as marks that stand beside the metric's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.metrics import STOP_RATE
from posttrain.reports.columns import Column
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.rule_results import KINDS, STATES
from posttrain.reports.run_files import STOPPED

SIGNS = {"passed": "✓", "failed": "✗", "inconclusive": "?", "unmeasured": "–"}


@dataclass(frozen=True, slots=True)
class Mark:
    """One rule on a metric: its sign, kind, state and style, and against what it was decided."""

    sign: str
    kind: str
    state: str
    style: str
    against: str

    @property
    def words(self) -> str:
        """The mark as a reader hears it: `keep against sft: passed`."""
        against = f" against {self.against}" if self.against not in ("", "parent") else ""
        return f"{self.kind}{against}: {self.state}"


Rules = Sequence[Mapping[str, Any]]


def find_rules(column: Column, stages: Sequence[Mapping[str, Any]]) -> Rules:
    """Return the rules of the last decision on a column's policy; none where its stage has no gate."""
    if column.stage is None or column.stage >= len(stages):
        return []
    attempts = [mapping_of(one) for one in list_of(mapping_of(stages[column.stage].get("gate")).get("attempts"))]
    decided = [attempt for attempt in attempts if list_of(attempt.get("decisions"))]
    own = [attempt for attempt in decided if column.policy and attempt.get("policy") == column.policy]
    chosen = own or (decided[:1] if column.is_replaced else decided[-1:])
    if not chosen:
        return []
    last = mapping_of(list_of(chosen[-1].get("decisions"))[-1])
    return [mapping_of(result) for result in list_of(last.get("results"))]


def list_marks(rules: Rules, task: str, name: str, *, is_main: bool) -> list[Mark]:
    """Return the marks of the rules that speak of a metric."""
    return [_build_mark(rule) for rule in rules if text_of(rule.get("metric")) in name_metric(task, name, is_main)]


def find_margin(rules: Rules, task: str, name: str, *, is_main: bool) -> float | None:
    """Return the loss against the parent that a keep of a metric had to rule out, None without one."""
    for rule in rules:
        is_keep = rule.get("kind") == "keep" and rule.get("against") == "parent"
        bound = number_of(mapping_of(rule.get("figures")).get("bound"))
        if is_keep and bound is not None and text_of(rule.get("metric")) in name_metric(task, name, is_main):
            return abs(bound)
    return None


def name_metric(task: str, name: str, is_main: bool) -> set[str]:
    """Return the names under which a gate may speak of a metric."""
    part = STOPPED if name == STOP_RATE else name
    return {f"{task}/{part}"} | ({task} if is_main else set())


def _build_mark(rule: Mapping[str, Any]) -> Mark:
    kind, state = text_of(rule.get("kind")), text_of(rule.get("state"))
    return Mark(
        sign=SIGNS.get(state, "·"),
        kind=kind if kind in KINDS else "rule",
        state=state if state in STATES else "unknown",
        style=STATES.get(state, "plain"),
        against=text_of(rule.get("against")),
    )
