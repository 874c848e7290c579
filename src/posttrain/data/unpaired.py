"""Rows of one completion with a label: made of pairs, labels checked, completions put behind other prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_bytes
from posttrain.core.records import Example
from posttrain.data.ledger import Ledger

if TYPE_CHECKING:
    from posttrain.data.pairs import PairRows

CHOSEN, REJECTED = "#chosen", "#rejected"
"""What follows a pair's row id in those of the two rows that it becomes."""
_TRIED = 64  # rotations, the one with the fewest completions of the same prompt counts


def read_labels(sources: Sequence[PairRows]) -> npt.NDArray[np.bool_]:
    """Return the labels of the unpaired rows of some sources, in order.

    Raises:
        DataError: All of them are the same, so that there is nothing to tell apart.
    """
    labels = np.array(
        [bool(rows.columns[index]["label"]) for rows in sources for index in range(len(rows))], dtype=np.bool_
    )
    if labels.all() or not labels.any():
        one, other = ("desirable", "undesirable") if labels.all() else ("undesirable", "desirable")
        raise DataError(
            f"all {len(labels):,} rows are {one} (label: {'true' if labels.all() else 'false'})",
            expected="rows of both labels",
            cure=f"add {other} rows, or pairs, which give one of each; "
            + ("to imitate desirable rows alone use type: sft" if labels.all() else "nothing here says what to do"),
            place="data",
        )
    return labels


def mismatch_completions(sources: Sequence[PairRows]) -> npt.NDArray[np.int64]:
    """Return for each row the row whose completion stands behind its prompt where KTO estimates its KL point.

    Rows are numbered through all sources. See `rotate_completions`.
    """
    rows = [row for source in sources for row in source]
    return rotate_completions(
        [hash_bytes(row.prompt.ids_T.tobytes()) for row in rows],
        [hash_bytes(row.chosen.ids_T.tobytes()) for row in rows],
    )


def rotate_completions(prompts: Sequence[str], completions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return for each row another row with a different completion: a rotation of the rows where there is one.

    Rows are arranged by completion, equal ones side by side, the largest such group of m rows. A rotation by at least m
    and at most R - m gives every row a completion that is not its own, and each completion to one row. Of those the
    one is taken under which the fewest rows get a completion of their own prompt. Where one completion is that of
    more than half of the rows there is none: its rows then share the others' completions.

    Which row a completion goes to is a function of the rows alone: neither batches nor ranks nor seeds change it.

    Args:
        prompts: What names each row's prompt.
        completions: What names each row's completion.

    Raises:
        DataError: All completions are the same.
    """
    _, prompts_R = np.unique(np.asarray(prompts), return_inverse=True)
    _, completions_R, counts = np.unique(np.asarray(completions), return_inverse=True, return_counts=True)
    num_rows, largest = len(prompts_R), int(counts.max())
    if largest == num_rows:
        raise DataError(
            f"all {num_rows:,} rows have the same completion",
            expected="another row's completion for every prompt, which KTO's reference point is estimated from",
            cure="add rows, or use loss: bco, which needs none",
            place="data",
        )
    partners_R = np.empty(num_rows, np.int64)
    if 2 * largest > num_rows:
        is_common_R = completions_R == counts.argmax()
        common, others = np.flatnonzero(is_common_R), np.flatnonzero(~is_common_R)
        partners_R[others] = common[: len(others)]
        partners_R[common] = others[np.arange(len(common)) % len(others)]
        return partners_R
    order = np.lexsort((prompts_R, completions_R))
    shifts = np.unique(np.linspace(largest, num_rows - largest, _TRIED).astype(np.int64))
    same = [int((prompts_R[order] == prompts_R[np.roll(order, -shift)]).sum()) for shift in shifts]
    partners_R[order] = np.roll(order, -int(shifts[int(np.argmin(same))]))
    return partners_R


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
