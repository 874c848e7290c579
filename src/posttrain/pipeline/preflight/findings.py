"""What a check found, and the one error that names all that was refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.core.errors import RefusedError

Status = Literal["passed", "refused", "overridden", "skipped"]
Figure = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found of one stage or task.

    Made by the checks of this folder, kept in `run.json` under `preflight`, read by reports. `stage` is a round's
    label or `evaluate.<task>`, `name` what `--override` takes. A refused one that is not `is_overridable` cannot be
    let through: the stage could not be run.

    Example: a stage's rows of which one in ten is too long: `Finding("sft", "truncation", "refused", "40 of 400 rows
    (10.0%) have more than 512 tokens ...", "at most 0.5% ...", "raise max_length ...", {"rows": 40, ...})`.
    """

    stage: str
    name: str
    status: Status
    found: str
    expected: str = ""
    cure: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    is_overridable: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON-like values; a figure that is not finite is null."""
        return {
            "stage": self.stage,
            "name": self.name,
            "status": self.status,
            "found": self.found,
            "expected": self.expected,
            "cure": self.cure,
            "figures": {name: _make_plain(value) for name, value in self.figures.items()},
        }


def _make_plain(value: Figure) -> Figure:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def build_refusal(findings: Sequence[Finding]) -> RefusedError:
    """Return the error of one or more refused findings: each with what was expected, its cure, and how to pass it."""
    if len(findings) == 1:
        (finding,) = findings
        cure = "; ".join(part for part in (finding.cure, _describe_override(finding)) if part)
        place = f"{finding.stage}: {finding.name}"
        return RefusedError(finding.found, expected=finding.expected, cure=cure, place=place)
    lines = [f"{len(findings)} checks refused this"]
    for finding in findings:
        lines += [f"  {finding.stage}: {finding.name}: {finding.found}", f"    expected: {finding.expected}"]
        lines += [f"    cure: {finding.cure}"] if finding.cure else []
        lines += [f"    {override}" for override in [_describe_override(finding)] if override]
    return RefusedError("\n".join(lines), expected="every check to pass, or to be overridden", place="preflight")


def _describe_override(finding: Finding) -> str:
    if not finding.is_overridable:
        return ""
    stage = finding.stage.split(" (round ")[0]
    return f"or go on all the same with --override {stage}:{finding.name}"
