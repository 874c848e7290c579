"""Items that share a source: cluster codes, sums by cluster, and the design effect of a mean.

Shape letters: N items, C clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def read_values(values_N: Sequence[float] | Floats) -> Floats:
    """Return values as float64.

    Raises:
        DataError: There are none, or one is not finite.
    """
    values = np.asarray(values_N, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise DataError(
            "no values, or a value that is not finite",
            expected="at least one value, all of them finite",
            cure="evaluate at least one item",
        )
    return values


def encode_clusters(names_N: Sequence[str] | Sequence[int] | Codes, num_items: int) -> Codes:
    """Return the number of each item's cluster, from 0, in the order of the names.

    Raises:
        ValueError: There is not one name for each item.
    """
    if isinstance(names_N, list) and len(names_N) == num_items and all(isinstance(name, str) for name in names_N):
        # As below, without an array in which every name is as wide as the longest.
        numbers = {name: number for number, name in enumerate(sorted(set(names_N)))}
        return np.fromiter((numbers[name] for name in names_N), dtype=np.int64, count=num_items)
    names = np.asarray(names_N)
    if names.shape != (num_items,):
        raise ValueError(f"{names.shape} cluster names of {num_items} items")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def sum_by_cluster(values_N: Floats, codes_N: Codes) -> Floats:
    """Return the sum of the values in each cluster, in the order of the codes."""
    return np.bincount(codes_N, weights=values_N).astype(np.float64, copy=False)


def check_several(codes_N: Codes) -> int:
    """Return the number of clusters.

    Raises:
        DataError: All items are of one cluster: nothing can be said of other sources.
    """
    num_clusters = int(codes_N.max()) + 1
    if num_clusters == 1 and codes_N.size > 1:
        raise DataError(
            f"all {codes_N.size} items share one source",
            expected="items of at least two clusters",
            cure="evaluate items of more sources, or give them cluster ids of their own if they are independent",
        )
    return num_clusters


def compute_design_effect(values_N: Floats, codes_N: Codes) -> float:
    """Return by what clustering multiplies the variance of a mean, cautiously: at least 1.

    With e the deviations from the mean, S_c their sums by cluster, u the largest e, and m* = sum of m_c² / N the size
    of the cluster that an item lies in on average:

        (C / (C - 1) sum of S_c² + u² m*²) / (sum of e² + u² m*)

    Without the terms in u this is the cluster-robust variance over that of independent items. They add one cluster,
    unseen, of which every item moves as far as the farthest: where hardly any item has moved, the data cannot tell
    whether items move alone or by the cluster, and the plain estimate would be 1 or 0 / 0. Where nothing has moved it
    is m*, the worst case; where much has, the plain estimate.

    Args:
        values_N: One value an item.
        codes_N: The cluster of each item; where each has its own, the design effect is 1.

    Source: the ratio is Rao and Scott's design effect (Biometrics 48 (1992), p. 577); the unseen cluster is this
    project's, so that small counts are never taken for independence.
    """
    sizes = np.bincount(codes_N)
    num_clusters = sizes.size
    if num_clusters == values_N.size or num_clusters < 2:
        return 1.0
    deviations = values_N - values_N.mean()
    farthest = float(np.abs(deviations).max())
    own_size = float((sizes.astype(np.float64) ** 2).sum() / values_N.size)
    # The mean of equal values may differ from them in the last digit, which is no move.
    if farthest <= 1e-9 * float(np.abs(values_N).max()):
        return own_size
    sums = sum_by_cluster(deviations, codes_N)
    clustered = num_clusters / (num_clusters - 1) * float(sums @ sums) + farthest**2 * own_size**2
    independent = float(deviations @ deviations) + farthest**2 * own_size
    return max(1.0, clustered / independent)
