"""Rows of one completion with a label: made of pairs, and their labels checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.core.records import Example
from posttrain.data.ledger import Ledger

if TYPE_CHECKING:
    from posttrain.data.pairs import PairRows

CHOSEN, REJECTED = "#chosen", "#rejected"
"""What follows a pair's row id in those of the two rows that it becomes."""


def read_labels(sources: Sequence[PairRows], place: str = "data") -> list[npt.NDArray[np.bool_]]:
    """Return the labels of the rows of some sources of unpaired rows; `place` is the recipe's key that names them.

    Raises:
        DataError: All of them are the same, so that there is nothing to tell apart.
    """
    labels = [np.array([bool(rows.columns[row]["label"]) for row in range(len(rows))], np.bool_) for rows in sources]
    found = {bool(label) for labels_R in labels for label in labels_R}
    if len(found) != 1:
        return labels
    is_good = found == {True}
    one, other = ("desirable", "undesirable") if is_good else ("undesirable", "desirable")
    raise DataError(
        f"all {sum(map(len, labels)):,} rows are {one} (label: {'true' if is_good else 'false'})",
        expected="rows of both labels",
        cure=f"add {other} rows, or pairs, which give one of each"
        + ("; to imitate desirable rows alone, use type: sft" if is_good else ""),
        place=place,
    )


def split_pairs(examples: Sequence[Example], ledger: Ledger) -> list[Example]:
    """Return examples with two rows in the place of each pair; the ledger counts both."""
    rows = [row for example in examples for row in split_pair(example)]
    ledger.rows_in += len(rows) - len(examples)
    return rows


def split_pair(example: Example) -> list[Example]:
    """Return a pair as two unpaired rows, the chosen one desirable; any other row as it is.

    Their names are the pair's with `#chosen` and `#rejected` behind it.
    """
    if example.kind != "preference":
        return [example]
    return [
        replace(
            example, row_id=example.row_id + suffix, kind="unpaired", messages=[*example.messages, *completion],
            label=suffix == CHOSEN, first_trained=len(example.messages), chosen=[], rejected=[],
        )
        for suffix, completion in ((CHOSEN, example.chosen), (REJECTED, example.rejected))
    ]  # fmt: skip
