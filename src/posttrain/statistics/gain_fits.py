"""The fitted curve of best-of-n, R(d) = d (alpha - beta d) with d = sqrt(KL), where the data say that there is one.

Least squares give a curve for any points. It is refused where they tell of none: too few values of n or sources, gains
that are all within their noise, or points that lie off the best curve by more than theirs.

Source: Gao, Schulman and Hilton 2022 (arXiv 2210.10760), section 3.1; the refusals are this project's.

Shape letters: P problems, K values of n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Floats, encode_clusters
from posttrain.statistics.intervals import cluster_bootstrap_interval
from posttrain.statistics.over_optimisation import BootstrappedFit, bootstrap_gains

MIN_POINTS, MIN_SOURCES = 4, 20
"""Of two coefficients: two points more than they need. Of fewer sources the bootstrap's limits are too narrow."""
_LEAST_APART = 1e-3
"""Distances closer together than this are one."""
_MOST_MISFIT = 0.15
"""Of the largest gain: a curve that misses its points by more, and by more than their noise, has another form."""


@dataclass(frozen=True, slots=True)
class GainCurve:
    """A fitted curve that the data bear out.

    `furthest` is the largest distance that was measured. `is_turn_shown` says whether the curve is shown to rise at
    first and to bend (both limits above 0, at least 97.5 % of the resamples turn), and the turn, upper limit included,
    lies within what was measured; any other turn is extrapolated.
    """

    fitted: BootstrappedFit
    furthest: float
    is_turn_shown: bool

    def describe(self) -> str:
        """Return what the curve says of a turn, in a sentence."""
        turn = self.fitted.turn
        if self.fitted.beta.low <= 0:
            return "no turn is shown: a bend of 0 or below lies within the limits"
        if turn is None or self.fitted.alpha.low <= 0:
            return "falls: no rise before it is shown"
        limits = f"d = {turn.value:.2f} ({turn.low:.2f} to {turn.high:.2f})"
        if self.is_turn_shown:
            return f"turns at {limits}"
        return f"bends; its turn, {limits}, is beyond what was measured (up to d = {self.furthest:.2f})"


def fit_best_of_n(
    kls_PK: Floats,
    gains_PK: Floats,
    clusters_P: Sequence[str],
    build_generator: Callable[[], np.random.Generator],
    *,
    num_resamples: int = 2000,
) -> GainCurve:
    """Return the curve of a judge's gains, with bootstrap limits over problems.

    Args:
        kls_PK: The KL of each problem at each n, nats; d is the root of its mean over problems, taken as known.
        gains_PK: What the judge gives above n = 1.
        clusters_P: The source of each problem.
        build_generator: Gives a fresh generator.
        num_resamples: Resamples of the bootstrap.

    Raises:
        DataError: The data do not say that there is such a curve; `found` says why.
    """
    distances = np.sqrt(np.maximum(kls_PK.mean(axis=0), 0.0))
    kept = np.flatnonzero(distances > _LEAST_APART)
    apart = int((np.diff(np.sort(distances[kept])) > _LEAST_APART).sum()) + 1 if kept.size else 0
    codes = encode_clusters(list(clusters_P), len(clusters_P))
    num_sources = int(codes.max()) + 1
    if apart < MIN_POINTS:
        raise _refuse(f"{apart} distances above 0 that differ", f"at least {MIN_POINTS}", "draw more of each problem")
    if num_sources < MIN_SOURCES:
        raise _refuse(f"problems of {num_sources} sources", f"at least {MIN_SOURCES}", "take more problems")
    gains = gains_PK[:, kept]
    limits = [
        cluster_bootstrap_interval(column, codes, build_generator(), num_resamples=num_resamples) for column in gains.T
    ]
    if all(one.low <= 0 <= one.high for one in limits):
        raise _refuse(
            f"no gain at any n that differs from 0 (at the last {limits[-1].value:.3g}, "
            f"{limits[-1].low:.3g} to {limits[-1].high:.3g})",
            "a gain or a loss beyond its noise",
            "take more problems, or a way of choosing that changes the score",
        )
    fitted = bootstrap_gains(
        distances[kept], gains, "best_of_n", build_generator(), clusters_P=codes, num_resamples=num_resamples
    )
    largest = max(abs(one.value) for one in limits)
    curve = [fitted.fit.compute_gain(float(d)) for d in distances[kept]]
    is_off = any(not one.low <= gain <= one.high for gain, one in zip(curve, limits, strict=True))
    if fitted.fit.residual > _MOST_MISFIT * largest and is_off:
        raise _refuse(
            f"points {fitted.fit.residual:.3g} off the best curve in the mean, and beyond their noise",
            f"at most {_MOST_MISFIT:.0%} of the largest gain, {largest:.3g}",
            "read the points themselves: they follow another form",
        )
    furthest, turn = float(distances.max()), fitted.turn
    is_turning = min(fitted.alpha.low, fitted.beta.low) > 0 and fitted.turning_fraction >= 0.975
    return GainCurve(fitted, furthest, is_turning and turn is not None and turn.high <= furthest)


def _refuse(found: str, expected: str, cure: str) -> DataError:
    return DataError(found, expected=expected, cure=cure, place="fitted curve")
