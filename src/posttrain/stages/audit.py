"""The audit of a stage that samples: a second scorer, which never rewards, judges the same completions on the way.

A look judges the completions of a step. Two tests share the level, and hold it over all looks of the stage together:
whether the reward pays within problems for what the audit finds worse (`statistics.selection.compute_evidence`; it is
seen before the audit's mean falls), and whether the reward is up and the audit's mean is down since the first looks.
What was seen lies in the stage's folder, so that a run that was killed goes on with it, and whoever has the file reads
the same (`read_looks`, `LookJudge`).

What goes wrong with it: an audit that shares the reward's faults says nothing; one that is noise is silent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from posttrain.core import metrics as keys
from posttrain.core.config import Config
from posttrain.core.durable import storage_errors
from posttrain.core.errors import StorageError
from posttrain.statistics.selection import (
    Evidence,
    Means,
    Selection,
    compute_evidence,
    compute_fall_p,
    compute_selection,
)

_LEAST_PROBLEMS = 64
"""On either side of the test of a fall, so that Student's t is near its level."""
_NUM_TESTS = 2


class AuditSettings(Config):
    """Who audits a stage that samples, how often, and what follows an alarm.

    `part` is the part of the outcomes that is read, none: their value. `problems` are judged at each look, none: all of
    the step's. `level` is the chance of an alarm, over all looks, where the reward does not work against the audit.
    """

    scorer: str | dict[str, Any]
    part: str | None = Field(None, min_length=1)
    every_steps: int = Field(1, ge=1)
    problems: int | None = Field(None, ge=2)
    level: float = Field(0.01, gt=0, le=0.2)
    allowed_drop: float = Field(0.0, ge=0, description="of the audit's mean, in its own unit")
    on_alarm: Literal["note", "stop"] = "note"

    def count_looks(self, num_steps: int) -> int:
        """Return how often a stage of so many steps is looked at: at its first step, and every so many from there."""
        return -(-num_steps // self.every_steps)


@dataclass(frozen=True, slots=True)
class Paid:
    """The completion of a look that was paid most for the least that the audit sees in it."""

    problem: str
    prompt: str
    text: str
    reward: float
    judged: float


@dataclass(frozen=True, slots=True)
class AuditLook:
    """What a look saw: reward and judgement of each completion, by problem; `step` counts from 1.

    Made by `step_audit.StepAudit`, read by `LookJudge`. Completions without a verdict on either side are left
    out. A look whose scorer failed on more than 1 % of the completions has no problems.

    Example: two problems of two completions, of which the second was paid for length: `problems=("p1", "p2"),
    rewards=((1, 0), (5, 1)), judged=((1, 0), (0, 1))`.
    """

    step: int
    policy: str
    problems: tuple[str, ...]
    rewards: tuple[tuple[float, ...], ...]
    judged: tuple[tuple[float, ...], ...]
    num_faults: int = 0
    paid: Paid | None = None

    @property
    def reward(self) -> float | None:
        """The mean reward."""
        return _mean(self.rewards)

    @property
    def value(self) -> float | None:
        """The mean of what the audit says."""
        return _mean(self.judged)

    @property
    def selection(self) -> float:
        """The mean rank correlation of reward and judgement over the problems, 0 without any."""
        found = [one.ranks for one in self.selections]
        return math.fsum(found) / max(1, len(found))

    @property
    def selections(self) -> list[Selection]:
        """What was selected in each problem."""
        return [compute_selection(*pair) for pair in zip(self.rewards, self.judged, strict=True)]


@dataclass(frozen=True, slots=True)
class AuditAlarm:
    """The first alarm of a stage: the step that was looked at, and what was seen."""

    step: int
    why: str


@dataclass(slots=True)
class LookJudge:
    """Judges looks as they come.

    Args:
        settings: The audit's.
        num_looks: Looks that are planned.
    """

    settings: AuditSettings
    num_looks: int
    looks: list[AuditLook] = field(default_factory=list)
    evidence: float = 0.0
    alarm: AuditAlarm | None = None
    _selections: list[list[Selection]] = field(default_factory=list)

    def add(self, look: AuditLook) -> None:
        """Judge one more look: `evidence` is what either test says over what an alarm needs, as logarithms."""
        self.looks.append(look)
        share = self.settings.level / _NUM_TESTS
        self._selections.append(look.selections)
        won = compute_evidence(self._selections, self.num_looks)
        needed = math.log(1 / share)
        fall, why_fall = self._compute_fall()
        needed_fall = math.log(self.num_looks / share)
        self.evidence = max(0.0, won.log_capital / needed, -math.log(max(fall, 1e-300)) / needed_fall)
        if self.alarm is None and won.log_capital >= needed:
            self.alarm = AuditAlarm(look.step, self._describe_selection(won))
        elif self.alarm is None and fall <= share / self.num_looks:
            self.alarm = AuditAlarm(look.step, why_fall)

    def _describe_selection(self, won: Evidence) -> str:
        since, count = self.looks[won.since].step, sum(len(look.problems) for look in self.looks[won.since :])
        how = ", counting a problem by how far its rewards are apart" if won.column else ""
        return (
            "within problems the reward pays for what the audit finds worse: "
            f"since step {since} they correlate by {won.mean:+.2f} over {count} problems{how}"
        )

    def _compute_fall(self) -> tuple[float, str]:
        """Return the p-value of a reward that is up and a judgement that is down, and the words for it."""
        usable = [look for look in self.looks if look.problems]
        num_first, num_last = _count_until(usable), _count_until(usable[::-1])
        if num_first + num_last > len(usable):
            return 1.0, ""
        first, last = _collect(usable[:num_first]), _collect(usable[-num_last:])
        rise = last.rewards_P.mean() - first.rewards_P.mean()
        drop = first.judged_P.mean() - last.judged_P.mean()
        why = f"the reward is up by {rise:.3g} and the audit is down by {drop:.3g} since the first {num_first} looks"
        return compute_fall_p(first, last, self.settings.allowed_drop), why

    def collect_figures(self) -> dict[str, float]:
        """Return the last look's figures by metric key."""
        last = self.looks[-1]
        figures = {keys.AUDIT_EVIDENCE: self.evidence, keys.AUDIT_ALARM: float(self.alarm is not None)}
        if last.value is not None:
            figures |= {keys.AUDIT_VALUE: last.value, keys.AUDIT_SELECTION: last.selection}
        return figures


def read_looks(path: Path) -> list[AuditLook]:
    """Return the looks that a stage kept, in order, up to a line that a crash has torn.

    Raises:
        StorageError: A line is whole and means nothing.
    """
    if not path.is_file():
        return []
    with storage_errors(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [_parse(json.loads(line)) for line in lines]
    except (TypeError, KeyError, ValueError) as error:
        raise StorageError(
            f"a look of the audit cannot be used: {error!r}",
            expected="looks as this version of posttrain writes them",
            cure="delete the file and run the same command again: steps that are taken again are looked at again",
            place=str(path),
        ) from error


def format_look(look: AuditLook) -> str:
    """Return a look as the line that keeps it."""
    return json.dumps(asdict(look), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _parse(values: dict[str, Any]) -> AuditLook:
    paid = values["paid"]
    nested = {name: tuple(tuple(map(float, group)) for group in values[name]) for name in ("rewards", "judged")}
    return AuditLook(
        int(values["step"]),
        str(values["policy"]),
        tuple(values["problems"]),
        nested["rewards"],
        nested["judged"],
        int(values["num_faults"]),
        None if paid is None else Paid(**paid),
    )


def _mean(groups: Sequence[Sequence[float]]) -> float | None:
    values = [value for group in groups for value in group]
    return math.fsum(values) / len(values) if values else None


def _count_until(looks: Sequence[AuditLook]) -> int:
    """Return how many looks from the first on have enough problems; one more than there are where all have too few."""
    total = 0
    for number, look in enumerate(looks, start=1):
        total += len(look.problems)
        if total >= _LEAST_PROBLEMS:
            return number
    return len(looks) + 1


def _collect(looks: Sequence[AuditLook]) -> Means:
    return Means(
        np.array([np.mean(group) for look in looks for group in look.rewards]),
        np.array([np.mean(group) for look in looks for group in look.judged]),
        [name for look in looks for name in look.problems],
    )
