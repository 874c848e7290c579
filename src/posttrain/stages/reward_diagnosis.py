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
from posttrain.stages.reward_ordering import (
    compare_members,
    compare_with_bayes,
    describe_accuracy,
    find_hits,
    order_by_quality,
    order_by_ratings,
    tabulate_margins,
)
from posttrain.statistics.calibration import measure_calibration
from posttrain.statistics.intervals import wilson_interval
from posttrain.statistics.length_bias import LengthBias, measure_length_bias

if TYPE_CHECKING:
    from posttrain.stages.reward_model import RewardModelConfig
    from posttrain.stages.reward_rows import Ratings, RewardRows

Floats = npt.NDArray[np.float64]
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
        "accuracy": describe_accuracy(gaps_P),
        "member_accuracy": [float(find_hits(gaps).mean()) for gaps in gaps_MP],
        "mean_margin": float(gaps_P.mean()),
        "accuracy_by_margin": tabulate_margins(gaps_P),
    }
    figures = {keys.REWARD_MODEL_ACCURACY: report["accuracy"]["value"], keys.REWARD_MODEL_MARGIN: report["mean_margin"]}
    chances_P = None if config.probability is None else _read_column(rows, config.probability)
    if chances_P is not None:
        report |= compare_with_bayes(gaps_P, chances_P)
        figures[keys.REWARD_MODEL_NORMALISED_ACCURACY] = report["normalised_accuracy"]
    if len(pairs) > 1:
        report["calibration"] = calibration = _measure_reliability(gaps_P, seed)
        figures[keys.REWARD_MODEL_CALIBRATION_ERROR] = calibration["error"]["value"]
    bias = _describe_length(config, rows, gaps_MP, lengths_P2[:, 0] - lengths_P2[:, 1])
    report |= bias
    if len(gaps_MP) > 1:
        report["ensemble_gain"] = compare_members(gaps_MP, chances_P)
    length = bias["length"]
    slope = None if "slope" not in length else float(length["slope"]["value"])
    if slope is not None:
        figures |= {keys.REWARD_MODEL_LENGTH_SLOPE: slope, keys.REWARD_MODEL_LENGTH_CORRELATION: length["correlation"]}
    mean_length = float(lengths_P2.mean())
    meaning = Meaning(
        "pairwise", ("preference",), offsets, (1.0,), (0.0,), slope, None if slope is None else mean_length
    )
    return Diagnosis(meaning, figures, report)


def _read_column(rows: RewardRows, name: str) -> Floats:
    return np.concatenate([part.read_numbers(name) for part in rows.data.sources])


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


def _describe_length(config: RewardModelConfig, rows: RewardRows, gaps_MP: Floats, lengths_P: Floats) -> dict[str, Any]:
    """Return what length earns, what is left once that is taken off, and a warning where it earns too much."""
    gaps_P, qualities_P, found = gaps_MP.mean(axis=0), None, {}
    if config.quality is not None:
        qualities_P = _read_column(rows, config.quality[0]) - _read_column(rows, config.quality[1])
        found["quality_accuracy"] = order_by_quality(gaps_P, qualities_P)
    try:
        bias = measure_length_bias(gaps_P, lengths_P, qualities_P)
        slopes = [measure_length_bias(gaps, lengths_P, qualities_P).slope.value for gaps in gaps_MP]
    except DataError as error:
        return {**found, "length": {"why_not": error.found}, "warnings": []}
    rest_P = gaps_P - bias.slope.value * lengths_P
    without: dict[str, Any] = {"accuracy": describe_accuracy(rest_P)}
    if qualities_P is not None:
        without["quality_accuracy"] = order_by_quality(rest_P, qualities_P)
    at_equal = "label" if qualities_P is None else "quality"
    length = {**asdict(bias), "at_equal": at_equal, "member_slopes": slopes, "without": without}
    return {**found, "length": length, "warnings": warn_of_length(bias, at_equal, config.max_length_correlation)}


def warn_of_length(bias: LengthBias, at_equal: str, bound: float) -> list[str]:
    """Return what is to be said of a score that pays for length: a line, or none.

    Said where the slope is shown to be above 0 and the partial correlation is over the bound. A score that charges for
    length is not warned of: what is optimised against it ends at a short answer, and against the other nowhere.
    """
    if bias.slope.low <= 0 or bias.correlation <= bound:
        return []
    slope = bias.slope
    return [
        f"length pays: one more token earns {slope.value:.3g} ({slope.low:.3g} to {slope.high:.3g}) at equal "
        f"{at_equal}, a partial correlation of {bias.correlation:.2f}, where at most {bound:.2f} is allowed. A policy "
        "that is optimised against it grows longer: give 'length_penalty: fitted' to its scorer, or look at the labels"
    ]


def _diagnose_ratings(meaning: Meaning, rows: RewardRows, predicted_NK: Floats) -> Diagnosis:
    pairs = [rows.pair(place) for place in rows.places]
    columns, prompts = [pair.columns for pair in pairs], [pair.prompt.ids_T.tobytes() for pair in pairs]
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
        named = [prompt for prompt, is_given in zip(prompts, given, strict=True) if is_given]
        if ordering := order_by_ratings(values, ratings, named):
            report["attributes"][name]["ordering"] = ordering
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
