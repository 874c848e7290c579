"""Which problems a step takes, by how often the policy has solved each: those that it solves sometimes come most.

Of every problem a Beta posterior is kept, alpha successes and beta failures, which forgets: at a visit with s successes
in n tries

    alpha <- decay alpha + (1 - decay) + s          beta <- decay beta + (1 - decay) + n - s        both from 1

A problem's value is the variance of an attempt that the posterior expects, E[p (1 - p)], which bounds from below what a
policy can gain from it, and its share q of the draws mixes that with an even one, so that each keeps being drawn:

    v = alpha beta / ((alpha + beta) (alpha + beta + 1))         q = (1 - floor) v / sum v + floor / P

A wave takes its problems without repetition, each with the chance min(1, c q) whose sum is the size of the wave
(systematic sampling). Shapes: P problems.

Sources: the posterior, Qu et al. 2025, "MoPPS" (arXiv 2507.04632), section 3.2; the value, Foster et al. 2025,
"Learning to Reason at the Frontier of Learnability" (arXiv 2502.12272), and Bae et al. 2025, "Online Difficulty
Filtering" (arXiv 2504.03380), theorem 1; the mixture, Jiang et al. 2021, "Prioritized Level Replay" (arXiv 2010.03934),
whose other part is by age; the draw, Madow 1949, "On the theory of systematic sampling". Known difference: MoPPS draws
p from the posterior and takes those nearest to one half, so that some problems have no chance at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from posttrain.core.config import Config
from posttrain.core.seeds import build_numpy_generator

_CERTAIN = 1 - 1e-9
"""Chances from here on are 1: rounding could otherwise take one problem twice."""


class CurriculumSettings(Config):
    """How problems are chosen by their running pass rates.

    Args:
        floor: The share of the draws that is spread evenly: no problem has less than this times its even share.
        decay: The share of what was seen of a problem that still counts at its next visit.
    """

    floor: float = Field(0.2, gt=0, le=1)
    decay: float = Field(0.5, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a step has shown of a problem: its row, and how many of its counted tries were successes.

    Example: four completions, one right, one that the scorer could not judge: `Verdicts(7, successes=1, tries=3)`.
    """

    row: int
    successes: int
    tries: int


class PassRates:
    """The posterior of every problem's pass rate.

    Args:
        num_problems: P.
        decay: Of what was seen before, at a visit.
    """

    def __init__(self, num_problems: int, decay: float) -> None:
        self.alpha_P: npt.NDArray[np.float64] = np.ones(num_problems)
        self.beta_P: npt.NDArray[np.float64] = np.ones(num_problems)
        self._decay = decay

    def see(self, verdicts: Iterable[Verdicts]) -> None:
        """Take in what a step has shown, in order; a problem without a counted try is as it was."""
        for one in verdicts:
            if one.tries:
                for values_P, count in ((self.alpha_P, one.successes), (self.beta_P, one.tries - one.successes)):
                    values_P[one.row] = self._decay * values_P[one.row] + (1 - self._decay) + count

    def compute_shares(self, floor: float) -> npt.NDArray[np.float64]:
        """Return each problem's share of the draws, which add up to 1 and are at least floor / P."""
        total_P = self.alpha_P + self.beta_P
        value_P = self.alpha_P * self.beta_P / (total_P * (total_P + 1))
        return (1 - floor) * value_P / value_P.sum() + floor / len(value_P)


@dataclass(frozen=True, slots=True)
class Choice:
    """The problems of a wave: their rows, and how much likelier each was than if all had had the same chance.

    `effective_fraction` is (sum c)^2 / (P sum c^2) of the chances c of all P problems that could be taken: 1 where they
    are even.

    Example: two of four problems with the chances 1, 0.5, 0.25 and 0.25: rows `(0, 2)`, weights `(2.0, 0.5)`, and
    4 / (4 x 1.375) = 0.73 of the problems in effect.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    effective_fraction: float = 1.0


def compute_chances(shares_P: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Return the chance of each problem to be among those taken: in proportion to its share, at most 1, `count` in all.

    Args:
        shares_P: Not negative; those of 0 cannot be taken.
        count: Problems to take, at most as many as have a share above 0.
    """
    chances_P = np.zeros(len(shares_P))
    is_open_P = shares_P > 0
    while is_open_P.any():
        left = count - int((chances_P == 1).sum())
        chances_P[is_open_P] = left * shares_P[is_open_P] / shares_P[is_open_P].sum()
        is_certain_P = is_open_P & (chances_P >= _CERTAIN)
        if not is_certain_P.any():
            break
        chances_P[is_certain_P] = 1
        is_open_P &= ~is_certain_P
    return chances_P


def choose_problems(shares_P: npt.NDArray[np.float64], count: int, *stream: int | str) -> Choice:
    """Return `count` problems without repetition, or all that have a share where there are fewer.

    Problems are laid end to end in an order of chance, each as long as its chance; a comb of teeth 1 apart, moved by a
    number of chance, takes those that it hits.

    Args:
        shares_P: Not negative; those of 0 cannot be taken.
        count: Problems to take.
        *stream: The name of the random numbers.
    """
    open_rows = np.flatnonzero(shares_P > 0)
    count = min(count, len(open_rows))
    chances_P = compute_chances(shares_P, count)
    # Raw bits, because numpy pins those and not its shuffles.
    bits = build_numpy_generator("curriculum", *stream).bit_generator.random_raw(len(shares_P) + 1)
    order = np.argsort(bits[1:], kind="stable")
    is_hit_P = chances_P == 1
    uncertain = order[(chances_P[order] > 0) & ~is_hit_P[order]]
    if left := count - int(is_hit_P.sum()):
        ends = np.cumsum(chances_P[uncertain])
        teeth = (np.arange(left) + int(bits[0] >> 11) / 2**53) * (ends[-1] / left)
        is_hit_P[uncertain[np.minimum(np.searchsorted(ends, teeth, side="right"), len(ends) - 1)]] = True
    rows = [int(row) for row in order if is_hit_P[row]]
    even = count / max(1, len(open_rows))
    effective = chances_P.sum() ** 2 / (len(open_rows) * np.square(chances_P).sum()) if count else 1.0
    return Choice(tuple(rows), tuple(float(chances_P[row]) / even for row in rows), float(effective))
