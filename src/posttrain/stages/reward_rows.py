"""The rows of a reward model: what is read of each, with which weight and constants, and the batches of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError, TrainingError
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.judged import LABELS, PLACES
from posttrain.data.packing import deal, pack, pack_padded
from posttrain.data.pairs import PairData, PairRows, RenderedPair
from posttrain.kernels.layouts import Layout
from posttrain.kernels.readings import Reading, count_tokens
from posttrain.objectives.reward_model import IS_GIVEN, LABEL, MARGIN, TARGET
from posttrain.training.batches import build_empty_micro_batch
from posttrain.training.reward_policy import RewardRow, build_reward_batch
from posttrain.training.step import StepBatch

if TYPE_CHECKING:
    from posttrain.stages.reward_model import RewardModelConfig
    from posttrain.training.distributed import Ranks

Floats = npt.NDArray[np.float64]
Place = tuple[int, int]
"""A row: the number of its source, and its own within it."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Means and standard deviations of the training rows' ratings, one of each attribute; none of other data."""

    means_K: Floats
    scales_K: Floats


def fit_ratings(config: RewardModelConfig, train: PairData) -> Ratings:
    """Return what puts ratings on a common scale, having checked that labels tell rows apart.

    Raises:
        DataError: All ratings of an attribute, or all labels of steps, are the same; a margin is no number or below 0.
    """
    if config.learns == "pairwise":
        for rows in train.sources if config.margin is not None else []:
            _check_margins(rows, str(config.margin))
        return Ratings(np.zeros(1), np.ones(1))
    if config.learns == "process":
        labels = {label for columns in _iterate_columns(train) for label in columns[LABELS]}
        if len(labels) < 2:
            raise _all_the_same("labels of steps", labels, "labels")
        return Ratings(np.zeros(1), np.ones(1))
    found: list[list[float]] = [[] for _ in config.attributes]
    for columns in _iterate_columns(train):
        for values, name in zip(found, config.attributes, strict=True):
            if columns[name] is not None:
                values.append(float(columns[name]))
    for values, name in zip(found, config.attributes, strict=True):
        if len(set(values)) < 2:
            raise _all_the_same(f"ratings of '{name}'", set(values), name)
    return Ratings(np.array([np.mean(values) for values in found]), np.array([np.std(values) for values in found]))


def _iterate_columns(data: PairData) -> Iterator[Mapping[str, Any]]:
    """Yield the kept columns of every row, in order, without its tokens."""
    for rows in data.sources:
        yield from (rows.columns[index] for index in range(len(rows)))


def check_rows(config: RewardModelConfig, train: PairData, validation: PairData | None) -> None:
    """Check what is read of rows beside their tokens before anything is trained; validation rows are diagnosed by them.

    Raises:
        DataError: As `fit_ratings`; a margin, quality or probability of those rows is no number, or out of range.
    """
    fit_ratings(config, train)
    for rows in (validation or train).sources:
        if config.margin is not None and validation is not None:
            _check_margins(rows, config.margin)
        for name in config.quality or []:
            rows.read_numbers(name)
        if config.probability is not None:
            _check_probabilities(rows, config.probability)


def _check_probabilities(rows: PairRows, column: str) -> None:
    chances = rows.read_numbers(column)
    outside = np.flatnonzero((chances < 0) | (chances > 1))
    if len(outside):
        raise DataError(
            f"a probability of {chances[outside[0]]:g} in the column '{column}'",
            expected="the probability of each pair's label, in [0, 1]",
            cure="name another column, or leave 'probability' out",
            place=rows.row_id(int(outside[0])),
        )


def _check_margins(rows: PairRows, column: str) -> None:
    margins = rows.read_numbers(column)
    if len(margins) and margins.min() < 0:
        raise DataError(
            f"a margin of {margins.min():g}",
            expected="margins of at least 0",
            cure="swap chosen and rejected of such a row, or give the size of its margin",
            place=rows.row_id(int(margins.argmin())),
        )


def _all_the_same(what: str, values: set[float], place: str) -> DataError:
    found = f"all {what} are {min(values):g}" if values else f"there are no {what}"
    return DataError(
        found,
        expected="labels that tell some completions from others",
        cure="give rows of both kinds; from rows of one kind nothing can be learned",
        place=place,
    )


class RewardRows:
    """The rows of a stage as they are trained on, by source and index.

    Args:
        config: What is learned from them.
        data: Their tokens and columns.
        ratings: What puts ratings on a common scale.
    """

    def __init__(self, config: RewardModelConfig, data: PairData, ratings: Ratings) -> None:
        self.config = config
        self.data = data
        self.ratings = ratings

    @property
    def lengths(self) -> list[int]:
        """Rows of each source."""
        return [len(rows) for rows in self.data.sources]

    @property
    def places(self) -> list[Place]:
        """All rows, in order."""
        return [(source, index) for source, length in enumerate(self.lengths) for index in range(length)]

    def pair(self, place: Place) -> RenderedPair:
        """Return a row's tokens and columns."""
        found: RenderedPair = self.data.sources[place[0]][place[1]]
        return found

    def row(self, place: Place) -> RewardRow:
        """Return a row as it is trained on."""
        pair = self.pair(place)
        completions = tuple(part.ids_T for part in pair.completions)
        places = tuple(np.array([len(ids) - 1]) for ids in completions)
        constants: dict[str, npt.NDArray[np.float32]] = {}
        if self.config.learns == "process":
            places = (np.array(pair.columns[PLACES], dtype=np.int64),)
            constants[LABEL] = np.array(pair.columns[LABELS], dtype=np.float32)
        elif self.config.learns == "regression":
            given = [pair.columns[name] for name in self.config.attributes]
            is_given = np.array([[value is not None for value in given]], dtype=np.float32)
            values = np.array([[0.0 if value is None else value for value in given]])
            targets = (values - self.ratings.means_K) / self.ratings.scales_K * is_given
            constants |= {TARGET: targets.astype(np.float32), IS_GIVEN: is_given}
        elif self.config.margin is not None:
            constants[MARGIN] = np.full(2, pair.columns[self.config.margin], dtype=np.float32)
        reading = Reading(pair.prompt.ids_T, completions, places)
        return RewardRow(reading, np.ones(reading.num_reads, np.float32), constants, pair.row_id)


def check_scores(scores_RK: Floats, rows: Sequence[RewardRow], ends: npt.NDArray[np.int64]) -> None:
    """Check that a reward model scores rows with numbers; `ends` are the reads before each row and after the last.

    Raises:
        TrainingError: A score is not finite; its row is named.
    """
    bad = np.flatnonzero(~np.isfinite(scores_RK).all(axis=1))
    if len(bad):
        row = rows[int(np.searchsorted(ends, bad[0], side="right")) - 1]
        raise TrainingError(
            f"{len(bad):,} of {len(scores_RK):,} scores are not finite, the first of {row.row_id}",
            expected="finite scores of every row",
            cure="lower the learning rate, or use dtype: float32",
            place="reward model",
        )


def weigh(row: RewardRow) -> float:
    """Return what a row adds to the denominator: 1 of a pair, its ratings, its steps."""
    if IS_GIVEN in row.constants:
        return float(row.constants[IS_GIVEN].sum())
    return float(row.weights.sum()) / len(row.reading.completions)


def draw_again(lengths: Sequence[int], seed: int) -> list[npt.NDArray[np.int64]]:
    """Return for each source which row stands in each row's place: drawn with replacement, a bootstrap sample."""
    return [
        build_numpy_generator(seed, "resample", source).integers(length, size=length)
        for source, length in enumerate(lengths)
    ]


def build_step_batch(
    rows: Sequence[RewardRow], micro_batch_tokens: int, ranks: Ranks, layout: Layout, *, is_sharing: bool
) -> tuple[StepBatch, list[list[int]]]:
    """Return this rank's micro-batches of a step with the totals of all ranks, and which rows each holds.

    Every rank knows all rows of the step, so the totals need no communication. Prompts are shared in packed rows alone.
    """
    is_sharing = is_sharing and layout == "packed"
    lengths = [count_tokens(row.reading, layout, is_shared=is_sharing) for row in rows]
    grouped = (pack if layout == "packed" else pack_padded)(lengths, micro_batch_tokens)
    groups = deal(grouped, ranks.count)[ranks.rank]
    batches = [
        build_reward_batch([rows[index] for index in group], is_shared=is_sharing, has_filler=layout == "packed")
        if group
        else build_empty_micro_batch()
        for group in groups
    ]
    num_reads = sum(row.reading.num_reads for row in rows)
    return StepBatch(batches, sum(map(weigh, rows)), sum(lengths), num_reads), groups
