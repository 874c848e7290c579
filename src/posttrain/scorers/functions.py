"""A user's own reward function or scorer, guarded: whatever it raises or returns, an outcome comes of it.

    f(prompts, completions, completion_ids, **columns) -> list[float | None]

is the signature that TRL's users know; every argument comes by name, so that a function names those it
uses and takes the others as `**columns`. `prompts` are messages, `completions` texts, `completion_ids`
token ids; every column of the rows comes as a list under its own name, with None for a row that lacks
it. None in the result means that the function does not apply to a row: it is left out and counted.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.core.records import Completion, Outcome, Problem

_OWN_ARGUMENTS = ("prompts", "completions", "completion_ids")
Items = Sequence[tuple[Problem, Completion]]


class GuardedScorer:
    """Scores by a user's own scorer object (`core.protocols.Scorer`).

    What it raises, or returns in a shape that cannot be used, is a fault of the harness: an outcome that
    is retried and then left out, and never a score.
    """

    def __init__(self, name: str, score: Callable[[Items], Any]) -> None:
        self.name = name
        self._score = score

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        if not items:
            return []
        try:
            values = list(_finish(self._score(items)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything: an outcome
            return [_fault(f"{self.name} raised {type(error).__name__}: {error}")] * len(items)
        if len(values) != len(items):
            return [_fault(f"{self.name} returned {len(values)} values for {len(items)} items")] * len(items)
        return [self._read(value) for value in values]

    def _read(self, value: Any) -> Outcome:
        if isinstance(value, Outcome) and all(map(_is_finite, [value.value, *value.parts.values()])):
            return value
        return _fault(f"{self.name} returned {_show(value)}, which is no Outcome with finite values")


class FunctionScorer(GuardedScorer):
    """Scores by a user's function, sync or async (`core.protocols.Scorer`); see `GuardedScorer` for its faults."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name, lambda items: function(**_list_columns(items), **_list_arguments(items)))

    def _read(self, value: Any) -> Outcome:
        if value is None:
            return Outcome("not_applicable", 0.0, why=f"{self.name} does not apply to this row")
        try:
            number = value.item() if hasattr(value, "item") else value  # a scalar of numpy or torch
        except (ValueError, RuntimeError):
            number = value
        if _is_finite(number):
            return Outcome("scored", float(number))
        return _fault(f"{self.name} returned {_show(value)}, which is no finite number")


def _list_arguments(items: Items) -> dict[str, list[Any]]:
    return {
        "prompts": [problem.messages for problem, _ in items],
        "completions": [completion.text for _, completion in items],
        "completion_ids": [completion.ids.tolist() for _, completion in items],
    }


def _list_columns(items: Items) -> dict[str, list[Any]]:
    """Return every column of any row; one that bears the name of an argument cannot be passed beside it."""
    names = sorted({name for problem, _ in items for name in problem.columns} - set(_OWN_ARGUMENTS))
    return {name: [problem.columns.get(name) for problem, _ in items] for name in names}


def _finish(values: Any) -> Any:
    """Return an awaitable's result, also where an event loop runs in this thread already."""
    if not inspect.isawaitable(values):
        return values
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_await(values))
    box: list[Any] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            box.append(asyncio.run(_await(values)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="scorer")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return box[0]


async def _await(values: Any) -> Any:
    return await values


def _is_finite(value: Any) -> bool:
    """Return whether a value is a finite number; an integer too large for a float is none."""
    try:
        return isinstance(value, bool | int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _show(value: Any) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # noqa: BLE001 - a user's class may raise in its own repr
        return f"an object of {type(value).__name__}"


def _fault(why: str) -> Outcome:
    return Outcome("errored", 0.0, why=why, fault="harness")
