"""What a reward model's scores on held-out rows say of it: accuracy, calibration, length, and what its numbers mean.

Shape letters: P pairs, R reads, M members, K outputs, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posttrain.core import metrics as keys
from posttrain.core.errors import DataError
from posttrain.core.hashing import finite_or_none
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.judged import LABELS
from posttrain.statistics.calibration import measure_calibration
from posttrain.statistics.intervals import wilson_interval
from posttrain.statistics.length_bias import measure_length_bias

if TYPE_CHECKING:
    from posttrain.stages.reward_model import RewardModelConfig
    from posttrain.stages.reward_rows import Ratings, RewardRows

Floats = npt.NDArray[np.float64]
_MARGIN_BINS = 5
_RELIABILITY_BINS = 10


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reward model's raw outputs stand for; the fields are those of `models.reward_models.RewardFacts`."""

    learned: str
    outputs: tuple[str, ...]
    offsets: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    means: tuple[float, ...]
    length_slope: float | None = None
    mean_length: float | None = None
    separator: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the scores mean, figures for the metrics, and all of it for whoever reads the artifact."""

    meaning: Meaning
    metrics: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def diagnose(
    config: RewardModelConfig, rows: RewardRows, scores_MRK: Sequence[Floats], ratings: Ratings, seed: int
) -> Diagnosis:
    """Return what the members' raw outputs on some rows say.

    Args:
        config: What was learned.
        rows: Held-out rows, or those that were trained on where there are none: then the report says so.
        scores_MRK: Raw outputs of each member at all reads, in the rows' order.
        ratings: The scale of ratings.
        seed: Draws the resamples.
    """
    if config.learns == "pairwise":
        return _diagnose_pairs(config, rows, np.stack(scores_MRK)[:, :, 0], seed)
    outputs = tuple(config.attributes) if config.learns == "regression" else ("right",)
    zeros = tuple((0.0,) * len(outputs) for _ in scores_MRK)
    scales, means = tuple(ratings.scales_K.tolist()), tuple(ratings.means_K.tolist())
    separator = config.separator if config.learns == "process" else None
    meaning = Meaning(config.learns, outputs, zeros, scales, means, separator=separator)
    mean_RK = np.mean(np.stack(scores_MRK), axis=0)
    if config.learns == "process":
        return _diagnose_steps(meaning, rows, mean_RK[:, 0], seed)
    return _diagnose_ratings(meaning, rows, mean_RK * ratings.scales_K + ratings.means_K)


def _diagnose_pairs(config: RewardModelConfig, rows: RewardRows, scores_MR: Floats, seed: int) -> Diagnosis:
    pairs = [rows.pair(place) for place in rows.places]
    lengths_P2 = np.array([[len(part.ids_T) for part in pair.completions] for pair in pairs], dtype=np.float64)
    offsets = tuple((float(scores.mean()),) for scores in scores_MR)
    gaps_MP = scores_MR[:, 0::2] - scores_MR[:, 1::2]
    gaps_P = gaps_MP.mean(axis=0)
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "accuracy": _describe_accuracy(gaps_P),
        "member_accuracy": [float(_find_hits(gaps).mean()) for gaps in gaps_MP],
        "mean_margin": float(gaps_P.mean()),
        "accuracy_by_margin": _tabulate_margins(gaps_P),
    }
    figures = {keys.REWARD_MODEL_ACCURACY: report["accuracy"]["value"], keys.REWARD_MODEL_MARGIN: report["mean_margin"]}
    if config.probability is not None:
        chances_P = np.concatenate([part.read_numbers(config.probability) for part in rows.data.sources])
        report |= compare_with_bayes(gaps_P, chances_P)
        figures[keys.REWARD_MODEL_NORMALISED_ACCURACY] = report["normalised_accuracy"]
    if len(pairs) > 1:
        report["calibration"] = calibration = _measure_reliability(gaps_P, seed)
        figures[keys.REWARD_MODEL_CALIBRATION_ERROR] = calibration["error"]["value"]
    bias = _measure_length(config, rows, gaps_P, lengths_P2)
    report["length"] = bias
    slope = None if "slope" not in bias else float(bias["slope"]["value"])
    if slope is not None:
        figures |= {keys.REWARD_MODEL_LENGTH_SLOPE: slope, keys.REWARD_MODEL_LENGTH_CORRELATION: bias["correlation"]}
    mean_length = float(lengths_P2.mean())
    meaning = Meaning(
        "pairwise", ("preference",), offsets, (1.0,), (0.0,), slope, None if slope is None else mean_length
    )
    return Diagnosis(meaning, figures, report)


def _find_hits(gaps_P: Floats) -> Floats:
    """Return 1 for a pair that is ordered right, 0 for one that is not, 1/2 for a tie."""
    return (np.sign(gaps_P) + 1) / 2


def _describe_accuracy(gaps_P: Floats) -> dict[str, float]:
    hits = float(_find_hits(gaps_P).sum())
    interval = wilson_interval(round(hits), len(gaps_P))
    return {"value": hits / len(gaps_P), "low": interval.low, "high": interval.high}


def _tabulate_margins(gaps_P: Floats) -> list[dict[str, float]]:
    """Return accuracy by how far apart the model holds the two, in bins of equally many pairs."""
    table = []
    for chosen in np.array_split(np.argsort(np.abs(gaps_P), kind="stable"), min(_MARGIN_BINS, len(gaps_P))):
        margins = np.abs(gaps_P[chosen])
        sides = {"from": float(margins.min()), "to": float(margins.max()), "pairs": len(chosen)}
        table.append({**sides, **_describe_accuracy(gaps_P[chosen])})
    return table


def compare_with_bayes(gaps_P: Floats, chances_P: Floats) -> dict[str, float]:
    """Return the accuracy to be expected over labels drawn anew, the best possible one, and how much of it is reached.

    With p the true probability of a pair's label, a model that orders it so is right with probability p and else 1 - p;
    the best possible accuracy is the mean of max(p, 1 - p), a coin's 1/2:

        normalised = (accuracy - 1/2) / (best - 1/2)

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
    hits_P = _find_hits(gaps_P)
    expected = float((hits_P * chances_P + (1 - hits_P) * (1 - chances_P)).mean())
    best = float(np.maximum(chances_P, 1 - chances_P).mean())
    reached = (expected - 0.5) / (best - 0.5) if best > 0.5 else 0.0
    return {"expected_accuracy": expected, "best_accuracy": best, "normalised_accuracy": reached}


def _measure_reliability(log_odds: Floats, seed: int, labels: Floats | None = None) -> dict[str, Any]:
    """Return the calibration of probabilities; of pairs that of the side that the model prefers.

    A tie is right every other time.
    """
    if labels is None:
        outcomes = (log_odds > 0).astype(np.float64)
        ties = np.flatnonzero(log_odds == 0)
        outcomes[ties] = np.arange(len(ties)) % 2
        log_odds = np.abs(log_odds)
    else:
        outcomes = labels
    confidences = np.exp(-np.logaddexp(0.0, -log_odds))
    generator = build_numpy_generator(seed, "calibration")
    return asdict(measure_calibration(confidences, outcomes, generator, num_bins=_RELIABILITY_BINS, num_resamples=400))


def _measure_length(config: RewardModelConfig, rows: RewardRows, gaps_P: Floats, lengths_P2: Floats) -> dict[str, Any]:
    qualities = None
    if config.quality is not None:
        first, second = (
            np.concatenate([part.read_numbers(name) for part in rows.data.sources]) for name in config.quality
        )
        qualities = first - second
    try:
        found = measure_length_bias(gaps_P, lengths_P2[:, 0] - lengths_P2[:, 1], qualities)
    except DataError as error:
        return {"why_not": error.found}
    return {**asdict(found), "at_equal": "label" if qualities is None else "quality"}


def _diagnose_ratings(meaning: Meaning, rows: RewardRows, predicted_NK: Floats) -> Diagnosis:
    columns = [rows.pair(place).columns for place in rows.places]
    report: dict[str, Any] = {"rows": len(columns), "attributes": {}}
    correlations = []
    for number, name in enumerate(meaning.outputs):
        given = np.array([columns_of[name] is not None for columns_of in columns])
        ratings = np.array([columns_of[name] for columns_of in columns if columns_of[name] is not None], dtype=float)
        values = predicted_NK[given, number]
        if len(ratings) < 3 or ratings.std() == 0 or values.std() == 0:
            report["attributes"][name] = {"rows": len(ratings), "why_not": "ratings or scores are all the same"}
            continue
        correlation = float(np.corrcoef(values, ratings)[0, 1])
        error = float(((values - ratings) ** 2).mean())
        explained = 1 - error / float(ratings.var())
        report["attributes"][name] = {
            "rows": len(ratings), "correlation": correlation, "root_mean_square_error": error**0.5,
            "explained": explained,
        }  # fmt: skip
        correlations.append(correlation)
    figures = {keys.REWARD_MODEL_CORRELATION: float(np.mean(correlations))} if correlations else {}
    return Diagnosis(meaning, figures, report)


def _diagnose_steps(meaning: Meaning, rows: RewardRows, log_odds_N: Floats, seed: int) -> Diagnosis:
    labels_N = np.concatenate([rows.pair(place).columns[LABELS] for place in rows.places]).astype(np.float64)
    hits_N = (log_odds_N > 0) == (labels_N > 0.5)
    interval = wilson_interval(int(hits_N.sum()), len(hits_N))
    by_label = {
        name: finite_or_none(float(hits_N[labels_N == label].mean())) if (labels_N == label).any() else None
        for name, label in (("right", 1.0), ("wrong", 0.0))
    }
    report: dict[str, Any] = {
        "steps": len(hits_N),
        "accuracy": {"value": float(hits_N.mean()), "low": interval.low, "high": interval.high},
        "accuracy_by_label": by_label,
    }
    figures = {keys.REWARD_MODEL_ACCURACY: float(hits_N.mean())}
    if len(hits_N) > 1:
        report["calibration"] = calibration = _measure_reliability(log_odds_N, seed, labels_N)
        figures[keys.REWARD_MODEL_CALIBRATION_ERROR] = calibration["error"]["value"]
    return Diagnosis(meaning, figures, report)
