"""Over-optimisation: a proxy goes on rising as the policy leaves its start while the true reward turns.

With d = sqrt(KL(policy || start)), KL in nats:

    best of n:               R(d) = d (alpha - beta d)          turns at d = alpha / (2 beta)
    reinforcement learning:  R(d) = d (alpha - beta log d)      turns at d = exp(alpha / beta - 1)

R is the gain over the start, so R(0) = 0. Both forms are linear in alpha and beta and fitted by least squares.

Source: Gao, Schulman and Hilton 2022, "Scaling Laws for Reward Model Overoptimization" (arXiv 2210.10760), section 3.1.
Known difference: they fit alpha of the RL form from small d alone; here both come of one fit.

Shape letters: P problems, L looks (policies at growing KL).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.statistics.bounded_mean import p_value_above, p_value_below
from posttrain.statistics.clusters import Codes, Floats, encode_clusters
from posttrain.statistics.intervals import Interval
from posttrain.statistics.paired import summarise_difference
from posttrain.statistics.pairing import Pairs, build_pairs

Form = Literal["best_of_n", "reinforcement_learning"]
_ROUNDING = 1e-9
_MOST_BEYOND = 100.0
"""A turn at more than so many times the last distance is none that the points tell of."""


def compute_best_of_n_kl(n: int) -> float:
    """Return the KL of best-of-n from the policy that is drawn from, in nats: `log n - (n - 1) / n`.

    Exact where no two samples tie; with ties an upper bound.

    Raises:
        ValueError: n is below 1.

    Source: Stiennon et al. 2020 (arXiv 2009.01325), appendix G.3; Beirami et al. 2024 (arXiv 2401.01879) for the bound.
    """
    if n < 1:
        raise ValueError(f"best of {n}")
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True, slots=True)
class GainFit:
    """A fitted curve of gains: its two coefficients, where it turns, and its misfit.

    `turn` is None where the curve rises for ever, or turns at more than 100 times the last distance only.

    `residual` is the root mean squared distance of the points from the curve.
    """

    form: Form
    alpha: float
    beta: float
    turn: float | None
    residual: float

    def compute_gain(self, distance: float) -> float:
        """Return R at d = sqrt(KL) >= 0."""
        return float(_build_columns(np.array([distance]), self.form)[0] @ (self.alpha, self.beta))


@dataclass(frozen=True, slots=True)
class BootstrappedFit:
    """A fit with bootstrap limits over problems.

    `turn` is None where the curve of all problems does not turn; `turning_fraction` is the share of resamples that do,
    from which the turn's limits are.
    """

    fit: GainFit
    alpha: Interval
    beta: Interval
    turn: Interval | None
    turning_fraction: float


def fit_gains(distances_L: npt.ArrayLike, gains_L: npt.ArrayLike, form: Form) -> GainFit:
    """Return the least-squares fit of gains over d.

    Args:
        distances_L: sqrt of the KL in nats of each policy, above 0; at least two that differ.
        gains_L: Mean reward of each less that of the start.
        form: What made the policies.

    Raises:
        DataError: There are too few points, or values out of range.
    """
    distances, gains = np.asarray(distances_L, dtype=np.float64), np.asarray(gains_L, dtype=np.float64)
    _check_distances(distances, gains.shape)
    return _fit(distances, gains, form)


# many parameters: what was measured, of which sources, and how these are drawn again
def bootstrap_gains(
    distances_L: npt.ArrayLike,
    gains_PL: npt.ArrayLike,
    form: Form,
    generator: np.random.Generator,
    *,
    clusters_P: Sequence[str] | Sequence[int] | Codes | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> BootstrappedFit:
    """Return the fit with percentile bootstrap limits: problems are drawn again, clusters as a whole.

    Args:
        distances_L: As `fit_gains`.
        gains_PL: Reward of each problem under each policy less that under the start.
        form: What made the policies.
        generator: Draws the resamples.
        clusters_P: The name of each problem's cluster; None: problems are independent.
        level: Confidence, in (0, 1).
        num_resamples: Resamples, at least 1.

    Raises:
        DataError: As `fit_gains`, or all problems share one cluster.
    """
    distances, gains = np.asarray(distances_L, dtype=np.float64), np.asarray(gains_PL, dtype=np.float64)
    _check_distances(distances, gains.shape[1:])
    codes = np.arange(len(gains)) if clusters_P is None else encode_clusters(clusters_P, len(gains))
    size = int(codes.max()) + 1
    if size < 2:
        raise DataError("problems of one source", expected="at least two sources", cure="evaluate more problems")
    sums_CL = np.zeros((size, gains.shape[1]))
    np.add.at(sums_CL, codes, gains)
    sizes_C = np.bincount(codes).astype(np.float64)
    fit = _fit(distances, gains.mean(axis=0), form)
    drawn, turns = np.empty((num_resamples, 2)), []
    for index in range(num_resamples):
        chosen = generator.integers(size, size=size)
        again = _fit(distances, sums_CL[chosen].sum(axis=0) / sizes_C[chosen].sum(), form)
        drawn[index] = again.alpha, again.beta
        turns += [again.turn] if again.turn is not None else []
    tails = [(1 - level) / 2, (1 + level) / 2]
    (alpha_low, beta_low), (alpha_high, beta_high) = np.quantile(drawn, tails, axis=0).tolist()
    turn = Interval(fit.turn, *np.quantile(turns, tails).tolist()) if turns and fit.turn is not None else None
    return BootstrappedFit(
        fit,
        Interval(fit.alpha, alpha_low, alpha_high),
        Interval(fit.beta, beta_low, beta_high),
        turn,
        len(turns) / num_resamples,
    )


@dataclass(frozen=True, slots=True)
class Divergence:
    """A look at which the proxy is up and the gold reward down against an earlier one.

    `look` and `against` count from 0, the start. `p_value` is the larger of the two sides'; `level` is what it is held
    against.
    """

    look: int
    against: int
    proxy_change: float
    gold_change: float
    p_value: float
    level: float


def compute_look_level(level: float, look: int, *, num_looks: int | None = None) -> float:
    """Return the level at which one look tests, so that all looks together err with `level` at most.

    `level / L` where the number of looks is known beforehand, else `6 level / (pi² k²)` at look k, whose sum over all k
    is `level` (Bonferroni: no look needs to know of another).

    Args:
        level: Of all looks, in (0, 1).
        look: k, from 1.
        num_looks: L, at least k; None: not known.

    Raises:
        ValueError: A number is out of range.
    """
    if not 0 < level < 1 or look < 1 or (num_looks is not None and num_looks < look):
        raise ValueError(f"look {look} of {num_looks} at level {level}")
    return level / num_looks if num_looks is not None else level * 6 / (math.pi * look) ** 2


def find_divergence(
    proxy_LP: npt.ArrayLike,
    gold_LP: npt.ArrayLike,
    *,
    clusters_P: Sequence[str] | Sequence[int] | Codes | None = None,
    level: float = 0.01,
    num_looks: int | None = None,
    min_drop: float = 0.0,
) -> Divergence | None:
    """Return the first look at which the proxy is shown to be up and gold down against an earlier look, or None.

    Each look is compared with every earlier one, the start included: both one-sided paired score tests must reject
    (an intersection-union test, which needs no correction), at `compute_look_level / (earlier looks)`. Comparing with
    all earlier looks, and not with the start alone, is what finds the turn itself; dividing by their number pays for
    having the best of them chosen.

    Args:
        proxy_LP: The proxy of each problem at each look; look 0 is the start, looks are in order of their KL.
        gold_LP: The true reward, or a differently built judge's, of the same problems.
        clusters_P: The name of each problem's cluster; None: problems are independent.
        level: Chance of an alarm in the whole series where gold never falls while the proxy rises.
        num_looks: Looks after the start that were planned; None: not known.
        min_drop: Gold must be down by more than this, in its own unit.

    Raises:
        DataError: The two differ in shape, there is no look after the start, or all problems share one cluster.
    """
    proxy, gold = np.asarray(proxy_LP, dtype=np.float64), np.asarray(gold_LP, dtype=np.float64)
    if proxy.shape != gold.shape or proxy.ndim != 2 or len(proxy) < 2:
        raise DataError(
            f"a proxy of shape {proxy.shape} and gold of shape {gold.shape}",
            expected="both of every problem, at the start and at one look or more",
            cure="judge the same problems by both at every look",
        )
    for look in range(1, len(proxy)):
        share = compute_look_level(level, look, num_looks=num_looks) / look
        found: list[Divergence] = []
        for earlier in range(look):
            proxy_pairs = build_pairs(proxy[earlier], proxy[look], clusters_P)
            gold_pairs = build_pairs(gold[earlier], gold[look], clusters_P)
            p_value = max(compute_rise_p(proxy_pairs), compute_drop_p(gold_pairs, min_drop))
            changes = [float(pairs.differences_N.mean()) for pairs in (proxy_pairs, gold_pairs)]
            found.append(Divergence(look, earlier, changes[0], changes[1], p_value, share))
        clearest = min(found, key=lambda one: one.p_value)
        if clearest.p_value <= share:
            return clearest
    return None


def compute_rise_p(pairs: Pairs, bound: float = 0.0) -> float:
    """Return the one-sided p-value against a rise of at most `bound`: small where a larger one is shown.

    Raises:
        DataError: All pairs share one cluster.
    """
    sample = summarise_difference(pairs)
    # Beyond the end of the range nothing can lie, so that nothing can be shown to.
    return p_value_above(sample, bound) if bound <= sample.high else 1.0


def compute_drop_p(pairs: Pairs, bound: float = 0.0) -> float:
    """Return the one-sided p-value against a drop of at most `bound`, as `compute_rise_p`."""
    sample = summarise_difference(pairs)
    return p_value_below(sample, -bound) if -bound >= sample.low else 1.0


def _check_distances(distances_L: Floats, shape: tuple[int, ...]) -> None:
    is_usable = distances_L.ndim == 1 and shape == distances_L.shape and np.isfinite(distances_L).all()
    if not is_usable or (distances_L <= 0).any() or np.unique(distances_L).size < 2:
        raise DataError(
            f"{distances_L.size} distances and gains of shape {shape}",
            expected="one gain for each distance, and two distances that differ, above 0",
            cure="leave the start out, and measure policies at two values of the KL or more",
        )


def _build_columns(distances_L: Floats, form: Form) -> Floats:
    bends = distances_L if form == "best_of_n" else np.log(np.maximum(distances_L, 1e-300))
    return np.stack([distances_L, -distances_L * bends], axis=-1)


def _fit(distances_L: Floats, gains_L: Floats, form: Form) -> GainFit:
    columns = _build_columns(distances_L, form)
    (alpha, beta), *_ = np.linalg.lstsq(columns, gains_L, rcond=None)
    misfit = gains_L - columns @ (alpha, beta)
    residual = math.sqrt(float(misfit @ misfit) / misfit.size)
    turn = _find_turn(float(alpha), float(beta), form, _MOST_BEYOND * float(distances_L.max()))
    return GainFit(form, float(alpha), float(beta), turn, residual)


def _find_turn(alpha: float, beta: float, form: Form, furthest: float) -> float | None:
    """Return the d of the maximum; None where the curve has none above 0 and up to the furthest d."""
    if beta <= _ROUNDING * abs(alpha):
        return None
    if form == "best_of_n":
        turn = alpha / (2 * beta)
    else:
        exponent = alpha / beta - 1
        turn = math.exp(exponent) if exponent <= math.log(furthest) else math.inf
    return turn if 0 < turn <= furthest else None
