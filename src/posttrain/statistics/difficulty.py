"""How difficult problems are to a policy, and how a choice among them weighs the difficult and the easy.

A group's pass rate is the share of its completions whose reward is a success. Five bands of it: `never` (0), `hard`
(below one third), `middle`, `easy` (above two thirds), `always` (1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Band = Literal["never", "hard", "middle", "easy", "always"]
BANDS: tuple[Band, ...] = ("never", "hard", "middle", "easy", "always")


def count_successes(rewards: Sequence[float | None], solved_from: float) -> tuple[int, int]:
    """Return how many rewards are successes, and how many there are.

    Args:
        rewards: Of a group's completions; None where there is no verdict.
        solved_from: The least reward of a success.
    """
    known = [reward for reward in rewards if reward is not None]
    return sum(reward >= solved_from for reward in known), len(known)


def find_band(successes: int, tries: int) -> Band | None:
    """Return the band of a pass rate, None without a try.

    Example: of 4 tries, 0 to 4 successes are `never`, `hard`, `middle`, `easy`, `always`.
    """
    if not 0 <= successes <= tries:
        raise ValueError(f"{successes} successes in {tries} tries")
    if not tries:
        return None
    if successes in (0, tries):
        return "always" if successes else "never"
    if 3 * successes < tries:
        return "hard"
    return "easy" if 3 * successes > 2 * tries else "middle"


@dataclass(frozen=True, slots=True)
class DrawnGroup:
    """A group that was drawn: its band, its tokens, whether it is trained on, and its problem's weight in the draw.

    `weight` is how much likelier its problem was to be drawn than under even chances, above 0.
    """

    band: Band | None
    tokens: int
    is_trained_on: bool
    weight: float = 1.0


def count_tokens(groups: Sequence[DrawnGroup]) -> dict[Band, int]:
    """Return the drawn tokens of each band; groups without a verdict are in none."""
    return {band: sum(group.tokens for group in groups if group.band == band) for band in BANDS}


def compute_weights(groups: Sequence[DrawnGroup]) -> dict[Band, float]:
    """Return how many times as often a problem of each band is trained on as under even chances and without selection.

    The share of the band among groups trained on, over its share among all problems, which the drawn ones estimate with
    weights 1 / w, where w is how much likelier each was to be drawn:

        weight_b = (K_b / K) / (sum_b 1 / w / sum 1 / w)

    A band of which no group was drawn has no weight; where none is trained on, there are none at all. Weighted by the
    bands' shares among all problems the weights have the mean 1.

    Source: Hajek 1971, ratio estimator of a share from draws with unequal chances.

    Example: of four evenly drawn groups one never, two middle, one always; the middle ones are trained on: 0, 2, 0.
    """
    known = [group for group in groups if group.band is not None]
    num_trained = sum(group.is_trained_on for group in known)
    if not num_trained:
        return {}
    total = math.fsum(1 / group.weight for group in known)
    weights: dict[Band, float] = {}
    for band in BANDS:
        own = [group for group in known if group.band == band]
        if own:
            even = math.fsum(1 / group.weight for group in own) / total
            weights[band] = sum(group.is_trained_on for group in own) / num_trained / even
    return weights
