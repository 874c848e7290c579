"""Selection curves: what is expected of one answer chosen among n, for several n and ways of choosing, from N drawn.

One drawing gives every n up to N: for each problem the unbiased estimate over all subsets of n (`best_of_n.weigh_best`,
`majority.weigh_majority`), and over problems the mean with cluster bootstrap limits. All points of a study draw the
same problems again, so that their limits move together. Where each problem's estimate is 0 or 1 (of n = N, right or
wrong) the limits are Korn and Graubard's: a bootstrap of equal values would have none.

Shape letters: P problems, N samples of a problem, K values of n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.core.errors import DataError
from posttrain.statistics.best_of_n import estimate_best_kl, find_repeated, weigh_best
from posttrain.statistics.clusters import Codes, Floats, encode_clusters
from posttrain.statistics.intervals import Interval, cluster_bootstrap_interval, korn_graubard_interval
from posttrain.statistics.majority import estimate_majority_kl, weigh_majority


@dataclass(frozen=True, slots=True)
class Choosing:
    """A way to choose among samples: by the largest of `scores_P`, by the vote of `answers_P`, or at random.

    Made by whoever had the samples judged, read by `trace_curve`.

    Example: `Choosing("verifier", scores_P=[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])` for two problems of three samples.
    """

    name: str
    scores_P: Sequence[Sequence[float]] | None = None
    answers_P: Sequence[Sequence[str | None]] | None = None


@dataclass(frozen=True, slots=True)
class SelectionCurve:
    """What one way of choosing is expected to give on each problem.

    `values_PK` has, by the name of who judges, what the chosen sample is worth; `kls_PK` the KL from the sampler, nats.
    """

    name: str
    ns: tuple[int, ...]
    values_PK: Mapping[str, Floats]
    kls_PK: Floats

    @property
    def mean_kls_K(self) -> Floats:
        """The KL over problems."""
        means: Floats = self.kls_PK.mean(axis=0)
        return means

    def gains_PK(self, judge: str) -> Floats:
        """Return what choosing adds, against a sample taken at random, which n = 1 is.

        Raises:
            ValueError: The curve does not begin with n = 1.
        """
        if self.ns[0] != 1:
            raise ValueError(f"a curve that begins with n = {self.ns[0]} says nothing of gains")
        return self.values_PK[judge] - self.values_PK[judge][:, :1]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One n of a curve: a mean over problems with its limits, and what it is above n = 1 with those of the difference.

    Limits are None where all problems are of one source.
    """

    n: int
    kl: float
    value: float
    low: float | None
    high: float | None
    gain: float
    gain_low: float | None
    gain_high: float | None


def list_powers(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... up to the most, which is the last whatever it is."""
    powers = [1 << place for place in range(most.bit_length()) if 1 << place < most]
    return (*powers, most)


def trace_curve(
    choosing: Choosing,
    judged: Mapping[str, Sequence[Sequence[float]]],
    ns: Sequence[int],
    build_generator: Callable[[], np.random.Generator],
) -> SelectionCurve:
    """Return the curve of one way of choosing.

    Args:
        choosing: How.
        judged: By the name of who judges, what each sample of each problem is worth.
        ns: Ascending, from 1 up to the fewest samples that a problem has.
        build_generator: Gives a fresh generator, for the KL of votes.

    Raises:
        DataError: There is no problem, or one has fewer samples than the largest n.
    """
    sizes = [len(samples) for samples in next(iter(judged.values()))]
    most = max(ns)
    if not sizes or min(sizes) < most:
        raise DataError(
            f"{min(sizes)} samples of a problem" if sizes else "no problem",
            expected=f"at least {most} samples of every problem",
            cure="draw more of each, or ask for a smaller n",
            place=choosing.name,
        )
    picked = np.array(ns) - 1
    repeated = find_repeated(choosing.scores_P) if choosing.scores_P is not None else None
    values: dict[str, list[Floats]] = {name: [] for name in judged}
    kls: list[Floats] = []
    generator = build_generator()
    for problem, size in enumerate(sizes):
        if choosing.scores_P is not None:
            scores = choosing.scores_P[problem]
            weights, kl = weigh_best(scores, most)[picked], estimate_best_kl(scores, most, repeated)[picked]
        elif choosing.answers_P is not None:
            answers = choosing.answers_P[problem]
            weights, kl = weigh_majority(answers, most)[picked], estimate_majority_kl(answers, ns, generator)
        else:
            weights, kl = np.full((len(ns), size), 1 / size), np.zeros(len(ns))
        for name, samples in judged.items():
            values[name].append(weights @ np.asarray(samples[problem], dtype=np.float64))
        kls.append(kl)
    return SelectionCurve(
        choosing.name, tuple(ns), {name: np.stack(found) for name, found in values.items()}, np.stack(kls)
    )


def summarise_curve(
    curve: SelectionCurve,
    judge: str,
    clusters_P: Sequence[str],
    build_generator: Callable[[], np.random.Generator],
    *,
    num_resamples: int = 2000,
) -> list[CurvePoint]:
    """Return the points of a curve, one an n.

    Args:
        curve: What is expected on each problem.
        judge: Whose judgement is shown.
        clusters_P: The source of each problem.
        build_generator: Gives a fresh generator in one state, so that all points draw the same problems again.
        num_resamples: Resamples of the bootstrap.
    """
    codes = encode_clusters(list(clusters_P), len(clusters_P))
    points = []
    for place, n in enumerate(curve.ns):
        values, gains = curve.values_PK[judge][:, place], curve.gains_PK(judge)[:, place]
        value = _limit(values, codes, build_generator(), num_resamples, is_value=True)
        gain = _limit(gains, codes, build_generator(), num_resamples)
        points.append(CurvePoint(n, float(curve.mean_kls_K[place]), *value, *gain))
    return points


def _limit(
    values_P: Floats,
    codes_P: Codes,
    generator: np.random.Generator,
    num_resamples: int,
    *,
    is_value: bool = False,
) -> tuple[float, float | None, float | None]:
    if int(codes_P.max()) == 0:
        return float(values_P.mean()), None, None
    found: Interval
    if is_value and np.isin(values_P, (0.0, 1.0)).all():
        found = korn_graubard_interval(values_P, codes_P)
    else:
        found = cluster_bootstrap_interval(values_P, codes_P, generator, num_resamples=num_resamples)
    return found.value, found.low, found.high
