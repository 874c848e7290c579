"""Best-of-n: n independent samples, of which the one of the largest score is taken, the first of equals.

Which of equals comes first is a fair draw, so only the level matters that a score belongs to. With F the chance of a
score up to a level's and F- that of a lower one, the level is taken with `F^n - F-^n`, and within it the sampler's own
distribution stands as it was:

    q(y) = p(y) (F^n - F-^n) / (F - F-)         KL(q || p) = sum over levels of q(level) log(q(level) / p(level))

No tie: `q(y) = p(y) n u^(n-1)` with u the rank of y, uniform on [0, 1], and the KL is `log n - (n - 1) / n`. Ties make
it smaller. A verifier that accepts with chance p has two levels, and the KL goes to `-log p`.

The bound holds for every rule that takes one of n independent samples, majority vote among them: a set A of texts is
taken at most where a sample lies in it, with `1 - (1 - p(A))^n`, so that the density q / p is majorised by n u^(n-1),
and the KL is convex in the density.

Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; Beirami et al. 2024, "Theoretical guarantees on the
best-of-n alignment policy" (arXiv 2401.01879), theorem 1 for the bound. Known difference: they bound best-of-n alone.

Shape letters: Y texts of a finite set, N samples of a problem, K sizes 1 to K of what is chosen from, P problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.statistics.clusters import Codes, Floats

_DECIMALS = 9
"""Scores that agree to so many decimals are equal: sums of parts may differ in the last bits."""


def compute_best_of_n(chances_Y: npt.ArrayLike, scores_Y: npt.ArrayLike, n: int) -> Floats:
    """Return the exact distribution of best-of-n over a finite set of texts.

    Args:
        chances_Y: The sampler's probability of each text, at least 0, summing to 1.
        scores_Y: Finite; equal ones tie.
        n: Samples, at least 1.

    Raises:
        ValueError: The numbers do not fit.
    """
    chances, codes = _read_set(chances_Y, scores_Y, n)
    levels = np.bincount(codes, weights=chances)
    upto = np.minimum(np.cumsum(levels), 1.0)
    upto[-1] = 1.0
    taken = upto**n - np.concatenate([[0.0], upto[:-1]]) ** n
    return chances * np.divide(taken, levels, out=np.zeros_like(levels), where=levels > 0)[codes]


def compute_exact_kl(chances_Y: npt.ArrayLike, scores_Y: npt.ArrayLike, n: int) -> float:
    """Return the exact KL in nats of best-of-n from its sampler, over a finite set of texts (`compute_best_of_n`)."""
    chances = np.asarray(chances_Y, dtype=np.float64)
    return compute_divergence(compute_best_of_n(chances, scores_Y, n), chances)


def compute_divergence(chosen_Y: Floats, chances_Y: Floats) -> float:
    """Return KL(chosen || chances) = sum of q log(q / p) in nats, 0 log 0 being 0; infinite where p alone is 0."""
    held = chosen_Y > 0
    with np.errstate(divide="ignore"):
        return max(0.0, float(np.sum(chosen_Y[held] * np.log(chosen_Y[held] / chances_Y[held]))))


def weigh_best(scores_N: npt.ArrayLike, most: int) -> Floats:
    """Return the chance of each sample to be the best of a random subset of k, for k from 1 to `most`, ties shared.

    With `hi` samples up to its score and `lo` below it, a level is taken with `(C(hi, k) - C(lo, k)) / C(N, k)`. The
    weights times any values of the samples are the unbiased estimate of what best-of-k is expected to have of them:
    its own score (`pass_at_k.compute_best_of_k`), or what a second judge says of the one that was taken.

    Args:
        scores_N: Of completions drawn independently, finite.
        most: The largest k, 1 to N.

    Returns:
        Weights [K, N]; each row sums to 1.

    Raises:
        ValueError: The numbers do not fit.

    Source: the U-statistic of the maximum (Hoeffding, Annals of Mathematical Statistics 19 (1948), p. 293).
    """
    codes, sizes = _read_samples(scores_N, most)
    num_samples = codes.size
    upto = np.cumsum(sizes)
    taken_KL = np.empty((most, sizes.size))
    held = np.ones(sizes.size + 1)  # C(hi, k) / C(N, k), of no level first
    counts = np.concatenate([[0], upto])
    for k in range(most):
        held = held * np.maximum(0, counts - k) / (num_samples - k)
        taken_KL[k] = np.diff(held)
    weights: Floats = (taken_KL / sizes)[:, codes]
    return weights


def find_repeated(scores_P: Sequence[npt.ArrayLike]) -> frozenset[float]:
    """Return the scores, rounded, that occur more than once among the samples of all problems: where ties happen.

    A score that is never met twice may be taken for one of a continuum.
    """
    counts = Counter(float(score) for scores in scores_P for score in _round(np.asarray(scores, dtype=np.float64)))
    return frozenset(score for score, count in counts.items() if count > 1)


def estimate_best_kl(scores_N: npt.ArrayLike, most: int, repeated: frozenset[float] | None = None) -> Floats:
    """Return the measured KL in nats of best-of-k from the sampler on one problem, for k from 1 to `most`.

    Ranks among N samples stand for the levels' chances. A score of `repeated` is a level of its own, with
    `(b^k - a^k) log((b^k - a^k) / (b - a))` between its ranks a and b; any other is part of a continuum, with the
    integral of `k u^(k-1) log(k u^(k-1))` from a to b. So it is the bound where nothing ties, and Beirami's estimate,
    or a verifier's exact KL at its observed share, where all does.

    It is no unbiased estimate, since shares are estimated: of a verifier that accepts a tenth, 64 samples give 0.64
    nats in the mean at k = 8 in place of 0.67, and 1.33 at k = 16 in place of 1.42.

    Args:
        scores_N: Of completions drawn independently, finite.
        most: The largest k, 1 to N.
        repeated: Scores that tie (`find_repeated`); None: those that occur twice here.

    Raises:
        ValueError: The numbers do not fit.
    """
    codes, sizes = _read_samples(scores_N, most)
    known = find_repeated([scores_N]) if repeated is None else repeated
    levels = np.unique(_round(np.asarray(scores_N, dtype=np.float64)))
    is_tied = np.array([score in known for score in levels.tolist()])
    high = np.cumsum(sizes) / codes.size
    low = np.concatenate([[0.0], high[:-1]])
    found = np.empty(most)
    for k in range(1, most + 1):
        taken = high**k - low**k
        tied = taken * np.log(np.maximum(taken, 1e-300) / (high - low))
        found[k - 1] = np.where(is_tied, tied, _integrate(high, k) - _integrate(low, k)).sum()
    return np.maximum(found, 0.0)


def _integrate(ranks: Floats, k: int) -> Floats:
    """Return the integral of k u^(k-1) log(k u^(k-1)) from 0 to each rank."""
    powers = ranks**k
    logs = np.log(np.maximum(ranks, 1e-300))
    return powers * np.log(k) + (k - 1) * (powers * logs - powers / k)


def _round(scores: Floats) -> Floats:
    rounded: Floats = np.round(scores, _DECIMALS) + 0.0  # no negative zero
    return rounded


def _read_samples(scores_N: npt.ArrayLike, most: int) -> tuple[Codes, Codes]:
    """Return the level of each sample, from the lowest score, and the number of samples in each."""
    scores = np.asarray(scores_N, dtype=np.float64)
    if scores.ndim != 1 or not 1 <= most <= scores.size or not np.isfinite(scores).all():
        raise ValueError(f"the best of {most} among {scores.size} scores: finite, and k from 1 to the number drawn")
    _, codes, sizes = np.unique(_round(scores), return_inverse=True, return_counts=True)
    return codes.astype(np.int64), sizes.astype(np.int64)


def _read_set(chances_Y: npt.ArrayLike, scores_Y: npt.ArrayLike, n: int) -> tuple[Floats, Codes]:
    chances, scores = np.asarray(chances_Y, dtype=np.float64), np.asarray(scores_Y, dtype=np.float64)
    if n < 1 or chances.ndim != 1 or chances.shape != scores.shape or not np.isfinite(scores).all():
        raise ValueError(f"best of {n} over {chances.size} chances and {scores.size} scores")
    if (chances < 0).any() or abs(chances.sum() - 1) > 1e-9:
        raise ValueError(f"chances that sum to {chances.sum():g}: they are at least 0 and sum to 1")
    return chances, np.unique(_round(scores), return_inverse=True)[1].astype(np.int64)
