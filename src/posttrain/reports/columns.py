"""What a run measured, in its order: the base, then what each stage made, each with what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.reports.raw_values import list_of, mapping_of, text_of
from posttrain.reports.run_files import BASE, label_stage, remark_stage


@dataclass(frozen=True, slots=True)
class Column:
    """One policy that was measured.

    `label` is its name in run.json and `remark` why it is no step on the way to the last policy (`replaced`,
    `rolled back`, `on hold`), mostly empty. `before` is the place of the column that its stage started from, None for
    the base; `stage` the place of its stage in run.json, None where it has none there.

    Example: what a repair replaced is `Column("polish, as trained", "replaced", "9f...", before=1, stage=1)`.
    """

    label: str
    remark: str
    policy: str
    before: int | None
    stage: int | None

    @property
    def heading(self) -> str:
        """The label without what the remark says already."""
        return self.label.removesuffix(", as trained") if self.is_replaced else self.label

    @property
    def is_replaced(self) -> bool:
        """Whether a repair put another policy in its place."""
        return self.remark == "replaced"

    @property
    def answerer(self) -> str:
        """Whose answers these are: `base`, `after sft`, `after polish, rolled back`."""
        label = self.heading if self.label == BASE else f"after {self.heading}"
        return f"{label}, {self.remark}" if self.remark else label


def list_columns(run: Mapping[str, Any]) -> list[Column]:
    """Return what run.json holds metrics of, in the order of the run; the base stands first, measured or not.

    What a repair replaced stands before its stage, as `sft, as trained`.
    """
    entries = [mapping_of(entry) for entry in list_of(run.get("stages"))]
    metrics = [mapping_of(entry) for entry in list_of(run.get("metrics"))]
    measured = list(dict.fromkeys(text_of(metric.get("stage")) for metric in metrics))
    found: dict[str, tuple[str, int | None]] = {BASE: ("", None)}
    for place, entry in enumerate(entries):
        label = label_stage(entry)
        if label:
            found |= {name: ("replaced", place) for name in measured if name.startswith(f"{label}, ")}
        if label in measured:
            found.setdefault(label, (remark_stage(entry), place))
    found |= {name: ("", None) for name in measured if name not in found}
    policies = _find_policies(run, metrics, entries)
    columns: list[Column] = []
    for label, (remark, stage) in found.items():
        started = text_of(mapping_of(entries[stage].get("inputs")).get("policy")) if stage is not None else ""
        before = _find_before(columns, started, stage)
        columns.append(Column(label, remark, policies.get(label, ""), before, stage))
    return columns


def find_last(columns: Sequence[Column]) -> int:
    """Return the place of the policy that the run passed on last; 0, the base, where no stage was measured."""
    return max(place for place, column in enumerate(columns) if not column.remark)


def _find_before(columns: Sequence[Column], started: str, stage: int | None) -> int | None:
    """Return the column that a stage started from: the one with its input's hash, else the last that was passed on."""
    earlier = [place for place, column in enumerate(columns) if stage is None or column.stage != stage]
    same = [place for place in earlier if started and columns[place].policy == started]
    passed = [place for place in earlier if not columns[place].remark]
    return same[-1] if same else passed[-1] if passed else None


def _find_policies(
    run: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the hash of each column's policy: what its metrics say, else what its stage made."""
    policies: dict[str, str] = {}
    for metric in metrics:
        if isinstance(metric.get("policy"), str):
            policies.setdefault(text_of(metric.get("stage")), text_of(metric["policy"]))
    for entry in entries:
        policies.setdefault(label_stage(entry), text_of(mapping_of(entry.get("outputs")).get("policy")))
    for artifact in map(mapping_of, list_of(run.get("artifacts"))):
        if artifact.get("stage") == BASE:
            policies.setdefault(BASE, text_of(artifact.get("hash")))
    return policies
