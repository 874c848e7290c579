"""From tests to a reading: which of a monitor's figures lie above their bounds, at its level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.evidence import UnmeasuredError, has_part, take_items
from posttrain.evaluation.monitors.keys import MonitorKeys
from posttrain.evaluation.monitors.reading import Curve, Example, Figure, Items, Reading, Status
from posttrain.statistics.one_sided import OneSided

LEAST_RESAMPLES, MOST_RESAMPLES = 4000, 100_000
_BEYOND_LEVEL = 20
"""How many resamples are drawn for each that may lie on the wrong side where a test rejects."""


def count_resamples(level: float, num_tests: int) -> int:
    """Return how many resamples a bootstrap test draws so that it can reject at its share of a level.

    Args:
        level: Of all tests of the monitor together.
        num_tests: How many they are at most.

    Raises:
        UnmeasuredError: Not even `MOST_RESAMPLES` can say: the smallest p-value of B resamples is 1 / (1 + B).
    """
    if level * (1 + MOST_RESAMPLES) < num_tests:
        raise UnmeasuredError(
            f"a level of {level:g} over {num_tests} tests is below what {MOST_RESAMPLES:,} resamples can say "
            f"({num_tests / (1 + MOST_RESAMPLES):.1g})"
        )
    return min(MOST_RESAMPLES, max(LEAST_RESAMPLES, math.ceil(_BEYOND_LEVEL * num_tests / level)))


@dataclass(frozen=True, slots=True)
class Check:
    """One test of a monitor: what is asked, and the answer where there is one.

    `phrase` says in words what lies above the bound; `{value}` in it is written in the unit. `sign` is
    -1 for a drop, which is tested as a rise of the loss and shown as a change below 0.
    """

    name: str
    phrase: str
    test: OneSided
    bound: float
    unit: str = "fraction"
    is_change: bool = True
    sign: int = 1

    def to_figure(self) -> Figure:
        """Return the figure that is held against the bound."""
        limits = sorted((self.sign * self.test.low, self.sign * self.test.high))
        return Figure(
            name=self.name,
            value=self.sign * self.test.value,
            low=limits[0],
            high=limits[1],
            n=self.test.num_items,
            unit=self.unit,
            of="change" if self.is_change else "own",
            bound=self.sign * self.bound,
        )

    def describe(self) -> str:
        """Return in words what was found, and what is allowed."""
        return (
            f"{self.phrase.replace('{value}', write_amount(self.test.value, self.unit))}, where at most "
            f"{write_amount(self.bound, self.unit)} is allowed"
        )


def write_amount(value: float, unit: str) -> str:
    """Return a number with its unit in words: fractions as per cent."""
    return f"{100 * value:.1f} %" if unit == "fraction" else f"{value:.3g} {unit}"


@dataclass(slots=True)
class Findings:
    """What a monitor gathers while it reads: checks, what could not be checked, figures, curves, examples."""

    checks: list[Check] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    examples: tuple[Example, ...] = ()

    def attempt(self, what: str, check: Callable[..., Check], *arguments: Any, **named: Any) -> None:
        """Make a check with these arguments, or note what is missing for it."""
        try:
            self.checks.append(check(*arguments, **named))
        except DataError as error:
            text = f"{what}: {error.found}"
            if text not in self.missing:
                self.missing.append(text)

    def take(self, own: Items, task: str, part: str | None = None) -> list[ItemResult]:
        """Return the policy's items of one task of several; none where it cannot be read, which is noted.

        Args:
            own: The policy's items.
            task: Whose items are wanted.
            part: What an outcome must have at least once; None: nothing.
        """
        try:
            items = take_items(own, task)
            if part is not None and not has_part(items, part):
                raise UnmeasuredError(f"no outcome has the part {part!r}")
        except DataError as error:
            self.missing.append(f"{task}: {error.found}")
            return []
        return items


def conclude(
    monitor: MonitorKeys, tasks: Sequence[str], findings: Findings, *, fooled_by: str, summary: str = ""
) -> Reading:
    """Return the reading of a monitor: an alarm where a test rejects at the level over the number of tests.

    So the chance of an alarm is at most the level if every figure lies within its bound (Bonferroni); where no test
    could be made, nothing is said.

    Args:
        monitor: Whose reading it is.
        tasks: What it read.
        findings: What it gathered.
        fooled_by: What would fool it.
        summary: What it saw, in words.
    """
    checks, missing = findings.checks, findings.missing
    level = monitor.level / max(1, len(checks))
    alarms = [check for check in checks if check.test.p_value <= level]
    status: Status = "alarm" if alarms else "silent" if checks else "unmeasured"
    if alarms:
        why = "; ".join(check.describe() for check in alarms)
    elif checks:
        why = f"nothing beyond its bound is shown, by {len(checks)} test{'s' if len(checks) > 1 else ''}"
    else:
        why = "; ".join(missing) or "nothing to test"
    if checks and missing:
        why += f"; not tested: {'; '.join(missing)}"
    return Reading(
        monitor=monitor.label,
        tasks=tuple(tasks),
        status=status,
        why=f"{why}. {summary}" if summary else why,
        figures=(*(check.to_figure() for check in checks), *findings.figures),
        level=monitor.level,
        fooled_by=fooled_by,
        curves=tuple(findings.curves),
        examples=findings.examples,
    )
