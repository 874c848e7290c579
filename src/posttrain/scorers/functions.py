"""A user's own reward function as a scorer, with the signature that TRL's users know.

    f(prompts, completions, completion_ids, **columns) -> list[float | None]

`prompts` are messages, `completions` texts, `completion_ids` token ids; every column of the rows comes as
a list under its own name. None means that the function does not apply to the item.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.core.records import Completion, Outcome, Problem


class FunctionScorer:
    """Scores by a user's function, sync or async (`core.protocols.Scorer`).

    What the function raises, or returns in a shape that cannot be used, is a fault of the harness: an
    outcome that is retried and then left out, and never a score.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._function = function

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        names = sorted({name for problem, _ in items for name in problem.columns})
        columns = {name: [problem.columns.get(name) for problem, _ in items] for name in names}
        try:
            values = self._function(
                [problem.messages for problem, _ in items],
                [completion.text for _, completion in items],
                [completion.ids.tolist() for _, completion in items],
                **columns,
            )
            if inspect.isawaitable(values):
                values = asyncio.run(_await(values))
            values = list(values)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything; it becomes an outcome
            return [_fault(f"{self.name} raised {type(error).__name__}: {error}")] * len(items)
        if len(values) != len(items):
            return [_fault(f"{self.name} returned {len(values)} values for {len(items)} items")] * len(items)
        return [self._read(value) for value in values]

    def _read(self, value: Any) -> Outcome:
        if value is None:
            return _fault(f"{self.name} returned None")
        if isinstance(value, bool | int | float) and math.isfinite(value):
            return Outcome("scored", float(value))
        return _fault(f"{self.name} returned {value!r}, which is no finite number")


async def _await(values: Any) -> Any:
    return await values


def _fault(why: str) -> Outcome:
    return Outcome("errored", 0.0, why=why, fault="harness")
