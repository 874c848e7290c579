"""What a reward selects for beside itself: tests that may be looked at after every step of a training run.

Completions of one problem that are paid above their siblings become likelier, so what a second judge thinks of a policy
moves, to first order, with the covariance of reward and that judgement within problems (Price 1970, "Selection and
Covariance", Nature 227, p. 520): it turns negative before the judge's mean has fallen. `compute_selection` is that
covariance without units, `compute_evidence` tests that its mean is below 0, and `compute_fall_p` that the reward is up
and the judge's mean is down.

Shape letters: K looks, P problems of a look, G completions of a problem, C ways to weigh them, B sizes of a bet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from posttrain.statistics.clusters import Floats, read_values
from posttrain.statistics.one_sided import gap_test
from posttrain.statistics.reward_audit import rank_values

BETS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the capital that are staked on each problem, below 1 so that no single one can cost all of it."""
_MOST_AT_STAKE, _RECENT = 0.8, 256
"""The quantile of the spreads of so many earlier problems at which a problem's stake is full."""
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Selection:
    """How reward and judgement go together among the completions of one problem.

    `ranks` and `values` are Spearman's and Pearson's correlation, 0 where either is the same for all or there are fewer
    than two; `spread` is the standard deviation of the rewards.

    Example: rewards `[0, 1, 2]` and judgements `[4, 1, 0]`: `ranks=-1, values=-0.961, spread=0.816`.
    """

    ranks: float
    values: float
    spread: float


def compute_selection(rewards_G: Sequence[float] | Floats, judged_G: Sequence[float] | Floats) -> Selection:
    """Return what the reward selects in one problem.

    Where completions are paid without regard to the judgement, both correlations have the mean 0 exactly, whatever the
    two are distributed like, since every pairing of them is then as likely.

    Args:
        rewards_G: What each completion was paid, finite.
        judged_G: What the second judge says of it, finite.

    Raises:
        ValueError: The two differ in length.
    """
    rewards, judged = np.asarray(rewards_G, dtype=np.float64), np.asarray(judged_G, dtype=np.float64)
    if rewards.shape != judged.shape:
        raise ValueError(f"{rewards.size} rewards and {judged.size} judgements")
    spread = float(rewards.std()) if rewards.size else 0.0
    if rewards.size < 2 or np.ptp(rewards) <= _SAME or np.ptp(judged) <= _SAME:
        return Selection(0.0, 0.0, spread)
    return Selection(_correlate(rank_values(rewards), rank_values(judged)), _correlate(rewards, judged), spread)


def _correlate(first_G: Floats, second_G: Floats) -> float:
    first, second = first_G - first_G.mean(), second_G - second_G.mean()
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1.0, 1.0))


def weigh_selections(selections_KP: Sequence[Sequence[Selection]]) -> list[tuple[Floats, Floats]]:
    """Return for each look the rank correlations, and the correlations times what is at stake, in [-1, 1].

    What is at stake in a problem is the spread of its rewards over a large one of the problems of earlier looks, at
    most 1 (of the first look: over its largest), so that judgements have no say in it: problems with much at stake move
    a policy more where advantages are not divided by their deviation.
    """
    found: list[tuple[Floats, Floats]] = []
    seen: list[float] = []
    for selections in selections_KP:
        spreads_P = np.array([one.spread for one in selections], dtype=np.float64)
        full = float(np.quantile(seen[-_RECENT:], _MOST_AT_STAKE)) if seen else float(spreads_P.max(initial=0.0))
        stakes_P = np.minimum(1.0, spreads_P / max(full, _SAME))
        ranks_P = np.array([one.ranks for one in selections], dtype=np.float64)
        found.append((ranks_P, stakes_P * np.array([one.values for one in selections], dtype=np.float64)))
        seen += spreads_P.tolist()
    return found


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the looks so far say: the capital, as a logarithm, and where most of it was won.

    `since` is the look from which on, `column` 0 of rank correlations and 1 of those by stake, `mean` that column's
    mean since then.
    """

    log_capital: float
    since: int
    column: int
    mean: float


def compute_evidence(selections_KP: Sequence[Sequence[Selection]], num_looks: int) -> Evidence:
    """Return the evidence that selection is below 0 from some look on: large where it is.

    A gambler stakes a share b of a capital of 1 on every problem, and has it multiplied by 1 - b x for selection x.
    Where the mean of x given all before is at least 0 the capital is not expected to grow, so that the chance that it
    ever exceeds 1 / level is at most `level` (Ville 1939): the test may be looked at as often as one likes. The capital
    is split evenly over the two columns of `weigh_selections`, the shares of `BETS` and the planned looks, each part
    staked from its own look on, so that a reward that turns late is found about as soon as one that is bad at once.

        capital = mean over column, look s and share b of the product of (1 - b x) over the problems since look s

    Args:
        selections_KP: The selections of each look's problems.
        num_looks: K, the looks that are planned; at least as many as there are.

    Raises:
        ValueError: There is no look, or there are more than were planned.

    Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting" (arXiv 2010.09686);
    Shin, Ramdas and Rinaldo 2023, "E-detectors" (arXiv 2203.03532) for starts at every time. Known difference: their
    detectors bound how often they err; the capital here is one, so that the chance to err at all in the run is bounded.
    """
    if not 0 < len(selections_KP) <= num_looks:
        raise ValueError(f"{len(selections_KP)} looks of {num_looks}")
    weighed_K = weigh_selections(selections_KP)
    gains_KCB = np.zeros((num_looks, 2, len(BETS)))
    for look, columns in enumerate(weighed_K):
        for column, values_P in enumerate(columns):
            gains_KCB[look, column] = np.log1p(-np.outer(BETS, values_P)).sum(axis=1)
    # What was won since each look: 0 for those that are yet to come.
    capitals_KCB = np.cumsum(gains_KCB[::-1], axis=0)[::-1]
    parts_KC = logsumexp(capitals_KCB, axis=2)
    since, column = (int(place) for place in np.unravel_index(parts_KC.argmax(), parts_KC.shape))
    later = np.concatenate([columns[column] for columns in weighed_K[since:]] or [np.zeros(0)])
    total = float(logsumexp(parts_KC)) - math.log(capitals_KCB.size)
    return Evidence(total, since, column, float(later.mean()) if later.size else 0.0)


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
