"""Ratios of sums that two policies have on the same items, compared by drawing sources again."""

from __future__ import annotations

import numpy as np

from posttrain.core.errors import DataError
from posttrain.statistics.clusters import Codes, Floats, sum_by_cluster
from posttrain.statistics.intervals import Interval
from posttrain.statistics.paired import PairedTest
from posttrain.statistics.resamples import draw_resamples


# many parameters: two ratios, their sources, and how these are drawn
def compare_ratios(
    before: tuple[Floats, Floats],
    after: tuple[Floats, Floats],
    clusters_N: Codes,
    generator: np.random.Generator,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> tuple[Interval, PairedTest]:
    """Return the difference of two ratios of sums, after less before, with its paired percentile bootstrap.

    Sources are drawn as a whole, the same for both sides. The two-sided p-value is twice the smaller share of
    resamples on either side of 0, (1 + count) / (1 + drawn), so that it agrees with the interval.

    Args:
        before: Numerators and denominators of one policy, one an item; denominators above 0.
        after: Those of the other for the same items.
        clusters_N: The source of each item, numbered from 0.
        generator: Draws the resamples.
        level: Confidence, in (0, 1).
        num_resamples: Resamples, at least 1.

    Raises:
        DataError: All items share one source.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), sections 3.8 and 4.4.
    """
    sums = [[sum_by_cluster(column, clusters_N) for column in side] for side in (before, after)]
    size = sums[0][0].size
    if size == 1:
        raise DataError(
            "one source cannot be drawn again",
            expected="items of at least two sources",
            cure="evaluate items of more sources",
        )
    blocks = []
    for chosen_RS in draw_resamples(size, generator, num_resamples):
        ratios = [above[chosen_RS].sum(axis=1) / below[chosen_RS].sum(axis=1) for above, below in sums]
        blocks.append(ratios[1] - ratios[0])
    drawn = np.concatenate(blocks)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    value = [above.sum() / below.sum() for above, below in sums]
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (1 + tail) / (1 + num_resamples))
    return Interval(float(value[1] - value[0]), float(low), float(high)), PairedTest(p_value, "bootstrap_ratio")
