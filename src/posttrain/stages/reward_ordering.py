"""How often scores put completions of one prompt in their right order, and how much of what is possible that is.

Shape letters: P pairs, N rows, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.statistics.intervals import clustered_interval, wilson_interval

Floats = npt.NDArray[np.float64]
_MARGIN_BINS = 5


def find_hits(gaps_P: Floats) -> Floats:
    """Return 1 for a pair that is ordered right, 0 for one that is not, 1/2 for a tie."""
    return (np.sign(gaps_P) + 1) / 2


def describe_accuracy(gaps_P: Floats) -> dict[str, float]:
    """Return the share of pairs that are ordered right, with Wilson's limits.

    Args:
        gaps_P: Score of the better completion less that of the other, at least one.
    """
    hits = float(find_hits(gaps_P).sum())
    interval = wilson_interval(round(hits), len(gaps_P))
    return {"value": hits / len(gaps_P), "low": interval.low, "high": interval.high}


def tabulate_margins(gaps_P: Floats) -> list[dict[str, float]]:
    """Return accuracy by how far apart the model holds the two, in bins of equally many pairs."""
    table = []
    for chosen in np.array_split(np.argsort(np.abs(gaps_P), kind="stable"), min(_MARGIN_BINS, len(gaps_P))):
        margins = np.abs(gaps_P[chosen])
        sides = {"from": float(margins.min()), "to": float(margins.max()), "pairs": len(chosen)}
        table.append({**sides, **describe_accuracy(gaps_P[chosen])})
    return table


def expect_hits(gaps_P: Floats, chances_P: Floats) -> Floats:
    """Return the probability that a label drawn anew agrees with the order of the scores."""
    hits_P = find_hits(gaps_P)
    return hits_P * chances_P + (1 - hits_P) * (1 - chances_P)


def compare_with_bayes(gaps_P: Floats, chances_P: Floats) -> dict[str, Any]:
    """Return the accuracy to be expected over labels drawn anew, the best possible one, and how much of it is reached.

    With p the true probability of a pair's label, a model that orders it so is right with probability p and else 1 - p;
    the best possible accuracy is the mean of max(p, 1 - p), a coin's 1/2:

        normalised = (accuracy - 1/2) / (best - 1/2)

    Its limits are those of a ratio of two means (linearised, Student's t); they have no width where every pair is
    ordered as the better label has it.

    Args:
        gaps_P: Score of the chosen less that of the rejected.
        chances_P: p, in [0, 1].

    Raises:
        DataError: A probability out of range.
    """
    if chances_P.min() < 0 or chances_P.max() > 1:
        raise DataError(
            f"probabilities from {chances_P.min():g} to {chances_P.max():g}",
            expected="the probability of each pair's label, in [0, 1]",
            cure="name another column, or leave 'probability' out",
            place="probability",
        )
    expected_P, best_P = expect_hits(gaps_P, chances_P), np.maximum(chances_P, 1 - chances_P)
    room = float(best_P.mean()) - 0.5
    reached = (float(expected_P.mean()) - 0.5) / room if room > 0 else 0.0
    found: dict[str, Any] = {
        "expected_accuracy": float(expected_P.mean()),
        "best_accuracy": float(best_P.mean()),
        "normalised_accuracy": reached,
    }
    if room > 0 and len(gaps_P) > 1:
        rests_P = expected_P - 0.5 - reached * (best_P - 0.5)
        limits = clustered_interval(rests_P, np.arange(len(rests_P)))
        reach = (limits.high - limits.value) / room
        found["normalised_limits"] = {"low": reached - reach, "high": reached + reach}
    return found


def order_by_quality(gaps_P: Floats, qualities_P: Floats) -> dict[str, float] | None:
    """Return how often the better completion has the higher score, of pairs that differ in quality; None without any.

    Args:
        gaps_P: Score of one completion less that of the other.
        qualities_P: True quality of one less that of the other.
    """
    told = qualities_P != 0
    if not told.any():
        return None
    return {"pairs": int(told.sum()), **describe_accuracy(gaps_P[told] * np.sign(qualities_P[told]))}


def order_by_ratings(values_N: Floats, ratings_N: Floats, prompts_N: Sequence[bytes]) -> dict[str, float] | None:
    """Return how often, of two completions of one prompt, the one with the higher rating has the higher value.

    Every two completions of a prompt whose ratings differ are a pair; None where there is none. The limits take pairs
    of one prompt together (cluster-robust); where each prompt has one pair they are Wilson's.

    Args:
        values_N: What the model says.
        ratings_N: What is true.
        prompts_N: The prompt of each.
    """
    members: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts_N):
        members.setdefault(prompt, []).append(index)
    hits, names = [], []
    for number, chosen in enumerate(members.values()):
        first, second = np.triu_indices(len(chosen), 1)
        values, ratings = values_N[chosen], ratings_N[chosen]
        wanted = np.sign(ratings[first] - ratings[second])
        found = find_hits((values[first] - values[second]) * wanted)[wanted != 0]
        hits += found.tolist()
        names += [number] * len(found)
    if not hits:
        return None
    num_prompts = len(set(names))
    if num_prompts == len(names) or num_prompts < 2:
        limits = wilson_interval(round(sum(hits)), len(hits))
    else:
        limits = clustered_interval(hits, names)
    value = sum(hits) / len(hits)
    return {"pairs": len(hits), "prompts": num_prompts, **asdict(limits), "value": value}


def compare_members(gaps_MP: Floats, chances_P: Floats | None) -> dict[str, float] | None:
    """Return by how much the members' mean score orders more pairs right than a member does on average.

    Paired over the same pairs; where the labels' probabilities are known, over labels drawn anew. None for fewer than
    two pairs.
    """
    if gaps_MP.shape[1] < 2:
        return None

    def hit(gaps_P: Floats) -> Floats:
        return find_hits(gaps_P) if chances_P is None else expect_hits(gaps_P, chances_P)

    gains_P = hit(gaps_MP.mean(axis=0)) - np.mean([hit(gaps_P) for gaps_P in gaps_MP], axis=0)
    return asdict(clustered_interval(gains_P, np.arange(len(gains_P))))
