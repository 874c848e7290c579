"""Power of paired gates: how likely they pass, fail or stay undecided, and how many items that takes.

A rule over paired differences passes where the score test shows the difference to be above `pass_above`, fails where it
does not pass and the test shows the difference to be below `fail_below`, and is undecided otherwise. A keep with
margin m has `pass_above = -m`, `fail_below = 0`; an improvement by d has both at d.

Chances are sums over all tables of 0/1 pairs with a stated share of discordant ones (Tango's statistic, exactly), and
for more than 20,000 effective pairs the normal approximation. For other values the mean squared difference stands for
the share, which keeps the variance right and nothing else: take it as an approximation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, ndtr, ndtri, xlogy

from posttrain.statistics.bounded_mean import compute_tango_score, critical_value
from posttrain.statistics.clusters import Floats

MAX_ITEMS = 1_000_000
"""A number of items above this is answered by None."""
_MAX_EXACT_PAIRS = 20_000
_NEGLIGIBLE = 1e-15


@dataclass(frozen=True, slots=True)
class PairedDesign:
    """A rule, the items that it is applied to, and what is assumed of them.

    `discordance` is the share of pairs that differ, in (0, 1], at least as large as the size of `change`, the true
    difference after less before. `level` is one-sided. `design_effect` divides the items, and `items_per_cluster`
    gives the degrees of freedom.

    Example: a keep with a margin of 8 points over 550 items of which 15 % differ, nothing having changed:
    `keep_design(0.08, num_items=550, discordance=0.15)`.
    """

    pass_above: float
    fail_below: float
    num_items: int
    discordance: float
    change: float = 0.0
    level: float = 0.05
    design_effect: float = 1.0
    items_per_cluster: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.discordance <= 1 and abs(self.change) <= self.discordance):
            raise ValueError(f"a share of {self.discordance} pairs that differ, with a change of {self.change}")
        if self.num_items < 1 or not 0 < self.level < 0.5 or self.design_effect < 1 or self.items_per_cluster < 1:
            raise ValueError(f"a design that cannot be: {self}")


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely a rule passes, fails, or stays undecided; they sum to 1."""

    passed: float
    failed: float
    inconclusive: float


@dataclass(frozen=True, slots=True)
class JointPower:
    """How likely all keeps of a gate pass where nothing has changed.

    `product` holds if they are independent, and is a lower bound if they are positively dependent; `bonferroni`
    (1 less the sum of the chances to miss) is a lower bound whatever the dependence.
    """

    product: float
    bonferroni: float


def keep_design(margin: float, *, num_items: int, discordance: float, level: float = 0.05) -> PairedDesign:
    """Return the design of a keep where nothing has changed and items are independent."""
    return PairedDesign(-margin, 0.0, num_items, discordance, level=level)


def compute_chances(design: PairedDesign) -> Chances:
    """Return how likely the rule passes, fails and stays undecided under the design's assumptions."""
    num_pairs = max(1, math.floor(design.num_items / design.design_effect + 1e-9))
    num_clusters = max(2.0, design.num_items / design.items_per_cluster)
    freedom = num_clusters - 1 if design.items_per_cluster > 1 else math.inf
    quantile = critical_value(design.level, freedom)
    compute = _compute_exactly if num_pairs <= _MAX_EXACT_PAIRS else _compute_nearly
    passed, failed = compute(design, num_pairs, quantile)
    return Chances(passed, failed, max(0.0, 1 - passed - failed))


def non_inferiority_power(
    *,
    discordance: float,
    margin: float,
    num_items: int,
    level: float = 0.05,
    design_effect: float = 1.0,
    items_per_cluster: float = 1.0,
) -> float:
    """Return the chance that a keep passes where nothing has changed.

    Args:
        discordance: Share of pairs that differ, in (0, 1].
        margin: The loss to be ruled out, as a fraction.
        num_items: Pairs.
        level: One-sided.
        design_effect: What clustering multiplies the variance by, at least 1.
        items_per_cluster: On average, at least 1.
    """
    design = keep_design(margin, num_items=num_items, discordance=discordance, level=level)
    design = dataclasses.replace(design, design_effect=design_effect, items_per_cluster=items_per_cluster)
    return compute_chances(design).passed


def items_for_power(
    design: PairedDesign, power: float, *, event: Callable[[Chances], float] = lambda chances: chances.passed
) -> int | None:
    """Return the number of items that gives an event a chance of `power`, or None above a million.

    The chance of discrete data rises in a sawtooth; the number is where bisection finds it reached, which may be a few
    items beside the first such.

    Args:
        design: The rule and assumptions; its own number of items is not used.
        power: In (0, 1).
        event: Which chance is meant: to pass, by default.
    """

    def is_reached(num_items: int) -> bool:
        return event(compute_chances(dataclasses.replace(design, num_items=num_items))) >= power

    if not 0 < power < 1:
        raise ValueError(f"a power of {power}")
    above = 1
    while not is_reached(above):
        above *= 2
        if above > 2 * MAX_ITEMS:
            return None
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        above, below = (middle, below) if is_reached(middle) else (above, middle)
    return above if above <= MAX_ITEMS else None


def items_to_decide(design: PairedDesign, power: float) -> int | None:
    """Return the number of items with which the rule would be decided rightly with a chance of `power`, or None.

    To pass is right where the change is above `pass_above`, to fail where it is below `fail_below`; between the two
    (part of a keep's margin lost) both are.

    Args:
        design: The rule, with the change and discordance that were seen: the answer holds if they are the true ones.
        power: In (0, 1).
    """
    is_pass_right, is_fail_right = design.change > design.pass_above, design.change < design.fail_below
    return items_for_power(
        design, power, event=lambda chances: is_pass_right * chances.passed + is_fail_right * chances.failed
    )


def items_to_decide_mean(
    *, distance: float, variance: float, level: float, power: float, design_effect: float = 1.0
) -> int | None:
    """Return the number of items with which a mean at a distance from a bound would be shown to lie on its side.

    `(z_level + z_power)² variance design_effect / distance²`, the normal approximation; None above a million.
    """
    if distance == 0:
        return None
    quantiles = critical_value(level) + float(ndtri(power))
    needed = math.ceil(quantiles**2 * variance * design_effect / distance**2)
    return max(1, needed) if needed <= MAX_ITEMS else None


def compute_joint_power(powers: Sequence[float]) -> JointPower | None:
    """Return the chance that all keeps pass from the chance of each; None without one.

    Source: Berger, Technometrics 24 (1982), p. 295: that all must pass is an intersection-union test, so each is tested
    at the full level, and what suffers is the power.
    """
    if not powers:
        return None
    return JointPower(math.prod(powers), max(0.0, 1 - sum(1 - power for power in powers)))


def _compute_exactly(design: PairedDesign, num_pairs: int, quantile: float) -> tuple[float, float]:
    """Return the chances to pass and to fail, summed over all numbers of better and worse pairs."""
    share_better, share_worse = ((design.discordance + sign * design.change) / 2 for sign in (1, -1))
    better, worse = np.meshgrid(_list_likely(num_pairs, share_better), _list_likely(num_pairs, share_worse))
    same = num_pairs - better - worse
    better, worse, same = better[same >= 0], worse[same >= 0], same[same >= 0]
    logs = gammaln(num_pairs + 1) - gammaln(better + 1) - gammaln(worse + 1) - gammaln(same + 1)
    share_same = max(0.0, 1 - design.discordance)
    logs = logs + xlogy(better, share_better) + xlogy(worse, share_worse) + xlogy(same, share_same)
    chance = np.exp(logs)
    kept = chance > _NEGLIGIBLE
    better, worse, chance = better[kept], worse[kept], chance[kept]
    is_passed = compute_tango_score(better, worse, num_pairs, design.pass_above) > quantile
    is_below = compute_tango_score(better, worse, num_pairs, design.fail_below) < -quantile
    return float(chance[is_passed].sum()), float(chance[is_below & ~is_passed].sum())


def _list_likely(num_trials: int, chance: float) -> Floats:
    """Return the numbers of successes whose probability is not negligible."""
    spread = 8 * math.sqrt(num_trials * chance * (1 - chance)) + 8
    low = max(0, math.floor(num_trials * chance - spread))
    high = min(num_trials, math.ceil(num_trials * chance + spread))
    return np.arange(low, high + 1, dtype=np.float64)


def _compute_nearly(design: PairedDesign, num_pairs: int, quantile: float) -> tuple[float, float]:
    """Return the chances to pass and to fail with the mean difference taken for normal."""
    root = math.sqrt(num_pairs)
    better, worse = ((design.discordance + sign * design.change) / 2 for sign in (1, -1))
    spread = math.sqrt(max(design.discordance - design.change**2, 1e-300))

    def find_edge(bound: float, target: float) -> float:
        # sqrt(n) (mean - bound) / sd0 reaches the target, sd0 taken where the mean is the true one.
        score = float(compute_tango_score(better, worse, 1.0, bound))
        deviation = spread if design.change == bound else (design.change - bound) / score
        return bound + target * deviation / root

    pass_edge = find_edge(design.pass_above, quantile)
    fail_edge = min(pass_edge, find_edge(design.fail_below, -quantile))
    passed = float(ndtr((design.change - pass_edge) * root / spread))
    failed = float(ndtr((fail_edge - design.change) * root / spread))
    return passed, failed
