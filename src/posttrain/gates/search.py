"""Choosing among candidates of a repair, from what a gate would say of them on development rows.

The clearance of a rule is how far it passes, in standard errors of a normal estimate: the quantile of its p-value, or,
where limits decide (floors, ceilings), the distance of the estimate from the bound over what the limits say an error
is. That of a candidate is the least of its rules'; it ranks candidates, and whether one passes is the gate's to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from posttrain.gates.results import RuleResult

_LEAST_P = 1e-15


def compute_clearance(results: Sequence[RuleResult]) -> float:
    """Return the least clearance of the rules, in standard errors; minus infinity where one is unmeasured.

    Args:
        results: One candidate's, at least one.
    """
    return min((_clear(result) for result in results), default=-math.inf)


def _clear(result: RuleResult) -> float:
    figures = result.figures
    if figures is None:
        return -math.inf
    if figures.p_value is not None:
        # A p-value of 0 or 1 is one that a float cannot tell from it.
        return -NormalDist().inv_cdf(min(max(figures.p_value, _LEAST_P), 1 - _LEAST_P))
    is_ceiling = result.kind == "ceiling"
    distance = figures.bound - figures.estimate if is_ceiling else figures.estimate - figures.bound
    width = figures.high - figures.estimate if is_ceiling else figures.estimate - figures.low
    return needed_clearance(figures.level) * distance / max(width, _LEAST_P)


def needed_clearance(level: float) -> float:
    """Return the clearance at which a rule passes at a one-sided level, if its estimate is normal."""
    return NormalDist().inv_cdf(1 - level)


def choose_candidate(clearances: Sequence[float], passes: Sequence[bool], *, prefers_first: bool = False) -> int | None:
    """Return the place of the candidate to decide on, or None where none can be measured.

    One that the gate would promote goes before any that it would not.

    Args:
        clearances: One for each candidate.
        passes: Whether the gate would promote it.
        prefers_first: Whether the first that would pass is taken, since candidates come in the order of what the
            stage keeps of its training; else the one that clears by most.
    """
    usable = [index for index, value in enumerate(clearances) if value > -math.inf]
    passing = [index for index in usable if passes[index]]
    if prefers_first and passing:
        return passing[0]
    return max(passing or usable, key=lambda index: clearances[index], default=None)
