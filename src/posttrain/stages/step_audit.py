"""Looking at the steps of a stage that samples, with a scorer that never rewards (`stages.audit` judges the looks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from posttrain.core.durable import append_line, write_lines
from posttrain.core.errors import RefusedError
from posttrain.core.protocols import Scorer
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Group, Outcome
from posttrain.stages.audit import AuditLook, AuditSettings, LookJudge, Paid, format_look, read_looks
from posttrain.statistics.clusters import Floats
from posttrain.training.distributed import Ranks

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class AuditParts:
    """What an audit is carried out with: its scorer, the stage's name, whether an alarm may stop the stage, the ranks.

    The first rank judges and keeps the looks; all know what it found.
    """

    scorer: Scorer
    stage: str
    may_stop: bool
    ranks: Ranks = field(default_factory=Ranks)


class StepAudit:
    """Looks at the steps of a stage.

    Args:
        settings: The audit's.
        parts: Its scorer, and who is audited.
        path: Where looks are kept.
        num_steps: Steps of the stage.
        note: Told of an alarm, and of looks that could not be taken.

    Raises:
        StorageError: What was kept cannot be read.
    """

    # many parameters: the fields of one audit
    def __init__(
        self, settings: AuditSettings, parts: AuditParts, path: Path, num_steps: int, note: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.parts = parts
        self.path = path
        self._note = note
        self._num_looks = settings.count_looks(num_steps)
        self._judge = LookJudge(settings, max(1, self._num_looks))
        for look in self._on_first_rank(lambda: _mend(path)):
            self._judge.add(look)

    @property
    def should_stop(self) -> bool:
        """Whether an alarm was raised that stops the stage."""
        return self.parts.may_stop and self._judge.alarm is not None

    def look(self, step: int, groups: Sequence[Group]) -> None:
        """Judge the completions of a step, counted from 0, where the step is one that is looked at.

        Raises:
            RefusedError: No outcome has the part that is read.
            StorageError: The look cannot be kept.
        """
        if step % self.settings.every_steps or not groups:
            return
        policy = groups[0].rollouts[0].last.policy_hash
        known = {one.step: one.policy for one in self._judge.looks}
        if known.get(step + 1) == policy:
            return
        kept = [one for one in self._judge.looks if one.step <= step]
        if len(kept) < len(self._judge.looks):  # steps that are taken again, and not by the same policy
            self._on_first_rank(lambda: write_lines(self.path, map(format_look, kept)))
            self._judge = LookJudge(self.settings, self._judge.num_looks)
            for one in kept:
                self._judge.add(one)
        found = self._on_first_rank(lambda: self._take(step + 1, policy, groups[: self.settings.problems]))
        self._on_first_rank(lambda: append_line(self.path, format_look(found)))
        was_silent = self._judge.alarm is None
        self._judge.add(found)
        if was_silent and self._judge.alarm is not None:
            self._note(f"ALARM audit of {self.parts.stage} at step {step + 1}: {self._judge.alarm.why}")

    def collect_figures(self) -> dict[str, float]:
        """Return the figures of the last look, by metric key."""
        return self._judge.collect_figures() if self._judge.looks else {}

    def refuse(self) -> RefusedError:
        """Return the error that ends a stage whose audit raised an alarm."""
        alarm = self._judge.alarm
        assert alarm is not None  # asked only where should_stop holds
        return RefusedError(
            f"the audit raised an alarm at step {alarm.step}: {alarm.why}",
            expected="no alarm of an audit whose 'on_alarm' is stop",
            cure="look in the report at what was paid and mend the reward; or go on against it from the last "
            f"checkpoint, with --override audit:{self.parts.stage}, which is recorded",
            place=f"{self.parts.stage}: audit",
        )

    def _on_first_rank(self, action: Callable[[], Value]) -> Value:
        """Return what `action` gives on the first rank, on every rank; what stops it stops all."""
        is_first = self.parts.ranks.is_writer
        return cast("Value", self.parts.ranks.gather(lambda: action() if is_first else None)[0])

    def _take(self, step: int, policy: str, groups: Sequence[Group]) -> AuditLook:
        items = [(group.problem, rollout.last) for group in groups for rollout in group.rollouts]
        outcomes = self.parts.scorer.score(items)
        faults = [outcome for outcome in outcomes if outcome.fault == "harness"]
        if len(faults) > MAX_HARNESS_FAULT_FRACTION * len(outcomes):
            self._note(
                f"the audit of {self.parts.stage} has no look at step {step}: its scorer failed on {len(faults)} of "
                f"{len(outcomes)} completions: {faults[0].why}"
            )
            return AuditLook(step, policy, (), (), (), len(faults))
        self._check_part(outcomes)
        values = [_read(outcome, self.settings.part) for outcome in outcomes]
        judged = iter(values)
        pairs = [
            (
                group.problem.problem_id,
                [
                    (reward, value)
                    for reward, value in zip(group.rewards, [next(judged) for _ in group.rollouts], strict=True)
                    if reward is not None and value is not None
                ],
            )
            for group in groups
        ]
        known = [(name, both) for name, both in pairs if both]
        return AuditLook(
            step,
            policy,
            tuple(name for name, _ in known),
            tuple(tuple(reward for reward, _ in both) for _, both in known),
            tuple(tuple(value for _, value in both) for _, both in known),
            len(faults),
            _find_most_paid(groups, values),
        )

    def _check_part(self, outcomes: Sequence[Outcome]) -> None:
        part = self.settings.part
        counted = [outcome for outcome in outcomes if outcome.is_counted]
        if part is not None and counted and not any(part in outcome.parts for outcome in counted):
            known = sorted({name for outcome in counted for name in outcome.parts})
            raise RefusedError(
                f"no outcome of the audit's scorer has the part '{part}'",
                expected=f"one of {', '.join(known)}" if known else "a scorer whose outcomes have parts",
                cure="correct 'part', or leave it out: the outcome's value is read then",
                place=f"{self.parts.stage}: audit: part",
            )


def _mend(path: Path) -> list[AuditLook]:
    """Return the looks that are kept, and take a torn end off the file, behind which nothing could be written."""
    looks = read_looks(path)
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        write_lines(path, map(format_look, looks))
    return looks


def _read(outcome: Outcome, part: str | None) -> float | None:
    if not outcome.is_counted:
        return None
    return outcome.value if part is None else outcome.parts.get(part)


def _find_most_paid(groups: Sequence[Group], values: Sequence[float | None]) -> Paid | None:
    """Return the completion whose reward stands highest above its judgement, each by its deviation over all."""
    rollouts = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
    found = [
        (*one, value)
        for one, value in zip(rollouts, values, strict=True)
        if one[1].outcome.is_counted and value is not None
    ]
    if not found:
        return None
    gaps = _standardise([one[1].outcome.value for one in found]) - _standardise([one[2] for one in found])
    problem, rollout, value = found[int(gaps.argmax())]
    prompt = str(problem.messages[-1]["content"])
    return Paid(problem.problem_id, prompt, rollout.last.text, rollout.outcome.value, value)


def _standardise(values: Sequence[float]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    spread = array.std()
    return (array - array.mean()) / spread if spread > 0 else np.zeros_like(array)
