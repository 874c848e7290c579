"""What the stages have in common that are trained on completions behind prompts, compared or labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from posttrain.data.pairs import PairData
from posttrain.pipeline.preference_rows import describe_pairs
from posttrain.pipeline.stage_kinds.rows import RowKind
from posttrain.pipeline.stage_rows import RowConfig

C = TypeVar("C", bound=RowConfig)


class PairKind(RowKind[C, PairData]):
    """A type of stage whose rows are a prompt and what follows it."""

    noun: Literal["rows", "pairs"] = "pairs"

    def show(self, train: PairData, tokenizer: Any, count: int) -> list[dict[str, Any]]:
        """Return the first rows, each completion behind its prompt."""
        return describe_pairs(train, tokenizer, count)

    def list_lengths(self, train: PairData) -> Sequence[npt.NDArray[np.int64]]:
        """Return the tokens of every row, its prompt counted once."""
        return [rows.part_lengths_RK.sum(axis=1) for rows in train.sources]
