"""What a reward selects for beside itself: tests that may be looked at after every step of a training run.

Completions of one problem that are paid above their siblings become likelier, so what a second judge thinks of a policy
moves, to first order, with the covariance of reward and that judgement within problems (Price 1970, "Selection and
Covariance", Nature 227, p. 520): it turns negative before the judge's mean has fallen. `compute_selection` is that
covariance without units, `compute_evidence` tests that its mean is below 0, and `compute_fall_p` that the reward is up
and the judge's mean is down.

Shape letters: K looks, P problems of a look, G completions of a problem, B sizes of a bet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Floats, read_values
from posttrain.statistics.one_sided import gap_test

BETS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the capital that are staked on each problem, below 1 so that no single one can cost all of it."""
_SAME = 1e-9


def compute_selection(rewards_G: Sequence[float] | Floats, judged_G: Sequence[float] | Floats) -> float:
    """Return the correlation of reward and judgement among the completions of one problem, in [-1, 1].

    0 where either is the same for all, or there are fewer than two: nothing is selected. Where a group's rewards are
    paid without regard to the judgement its mean is exactly 0, whatever both are distributed like, since every pairing
    of the two is then as likely.

    Args:
        rewards_G: What each completion was paid, finite.
        judged_G: What the second judge says of it, finite.

    Raises:
        ValueError: The two differ in length.
    """
    rewards, judged = np.asarray(rewards_G, dtype=np.float64), np.asarray(judged_G, dtype=np.float64)
    if rewards.shape != judged.shape:
        raise ValueError(f"{rewards.size} rewards and {judged.size} judgements")
    if rewards.size < 2 or np.ptp(rewards) <= _SAME or np.ptp(judged) <= _SAME:
        return 0.0
    first, second = rewards - rewards.mean(), judged - judged.mean()
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the looks so far say: the capital won, as a logarithm, and the look from which on most of it was won."""

    log_capital: float
    since: int


def compute_evidence(selections_KP: Sequence[Sequence[float] | Floats], num_looks: int) -> Evidence:
    """Return the evidence that selection is below 0 from some look on: large where it is.

    A gambler stakes a share b of a capital of 1 on every problem, and has it multiplied by 1 - b x for selection x.
    Where the mean of x given all before is at least 0 the capital is not expected to grow, so that the chance that it
    ever exceeds 1 / level is at most `level` (Ville 1939): the test may be looked at as often as one likes. The capital
    is split evenly over the shares of `BETS` and over the planned looks, each part staked from its own look on, so that
    a reward that turns late is found about as soon as one that is bad from the start.

        capital = 1/K sum_s 1/B sum_b product of (1 - b x) over the problems of look s and later ones so far

    Args:
        selections_KP: The selections of each look's problems, in [-1, 1].
        num_looks: K, the looks that are planned; at least as many as there are.

    Raises:
        DataError: A selection is out of range.
        ValueError: There is no look, or there are more than were planned.

    Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting" (arXiv 2010.09686);
    Shin, Ramdas and Rinaldo 2023, "E-detectors" (arXiv 2203.03532) for starts at every time. Known difference: their
    detectors bound how often they err; the capital here is one, so that the chance to err at all in the run is bounded.
    """
    if not 0 < len(selections_KP) <= num_looks:
        raise ValueError(f"{len(selections_KP)} looks of {num_looks}")
    gains_KB = np.zeros((num_looks, len(BETS)))
    for look, values in enumerate(selections_KP):
        values_P = np.asarray(values, dtype=np.float64)
        if not (np.abs(values_P) <= 1).all():
            raise DataError("a selection outside of -1 to 1", expected="correlations", cure="use compute_selection")
        gains_KB[look] = np.log1p(-np.outer(BETS, values_P)).sum(axis=1)
    # What was won since each look: 0 for those that are yet to come.
    capitals_KB = np.cumsum(gains_KB[::-1], axis=0)[::-1]
    parts_K = logsumexp(capitals_KB, axis=1)
    return Evidence(float(logsumexp(parts_K)) - math.log(capitals_KB.size), int(parts_K.argmax()))


@dataclass(frozen=True, slots=True)
class Means:
    """The mean reward and judgement of each problem of some looks, with the problems' names."""

    rewards_P: Floats
    judged_P: Floats
    problems_P: Sequence[str]


def compute_fall_p(first: Means, last: Means, allowed_drop: float = 0.0) -> float:
    """Return the one-sided p-value against a reward that is not up, or a judgement down by at most what is allowed.

    The larger of the two tests' (an intersection-union test, which needs no correction: Berger 1982). Problems differ
    between the looks, so both are tests of a gap of two means; one that occurs on both sides counts as one source.

    Args:
        first: Of the first looks.
        last: Of the last looks.
        allowed_drop: In the judgement's unit, at least 0.

    Raises:
        DataError: A side has fewer than two problems, or a value is not finite.
    """
    rise = gap_test(_side(last.rewards_P, last), _side(first.rewards_P, first), 0.0)
    drop = gap_test(_side(first.judged_P, first), _side(last.judged_P, last), allowed_drop)
    return max(rise.p_value, drop.p_value)


def _side(values_P: Floats, means: Means) -> tuple[Floats, list[str]]:
    return read_values(values_P), list(means.problems_P)
