"""A user's own reward function or scorer, guarded: whatever it raises or returns, an outcome comes of it.

    f(prompts, completions, completion_ids, **columns) -> list[float | None]

is the signature that TRL's users know; every argument comes by name, so that a function names those it
uses and takes the others as `**columns`. `prompts` are messages, `completions` texts, `completion_ids`
token ids; every column of the rows comes as a list under its own name, with None for a row that lacks
it. Where tools replied, `transcripts` are the messages between prompt and completion, calls and replies,
and the completion is the last turn. None in the result means that the function does not apply to a row:
it is left out and counted.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.core.records import Completion, Outcome, Problem

_OWN_ARGUMENTS = ("prompts", "completions", "completion_ids", "transcripts")
Items = Sequence[tuple[Problem, Completion]]


class GuardedScorer:
    """Scores by a user's own scorer object (`core.protocols.Scorer`).

    What it raises, or returns in a shape that cannot be used, is a fault of the harness: an outcome that
    is retried and then left out, and never a score. So is a call that does not return in time; as long as it goes
    on, later calls fail at once, since nothing in this process can end it.

    Args:
        name: Of the scorer.
        score: Called with items; may return an awaitable.
        timeout_seconds: Wall-clock time of a call, which then runs in a thread of its own; None calls it in place.
    """

    def __init__(self, name: str, score: Callable[[Items], Any], *, timeout_seconds: float | None = None) -> None:
        self.name = name
        self._score = score
        self._timeout = timeout_seconds
        self._hung: threading.Thread | None = None

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        if not items:
            return []
        try:
            values = self._call(items)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything: an outcome
            return [_fault(f"{self.name} raised {type(error).__name__}: {error}")] * len(items)
        if values is None:
            return [_fault(f"{self.name} did not return within {self._timeout:g} s")] * len(items)
        if len(values) != len(items):
            return [_fault(f"{self.name} returned {len(values)} values for {len(items)} items")] * len(items)
        return [self._read(value) for value in values]

    def _call(self, items: Items) -> list[Any] | None:
        """Return what the user's code gives, or None where it does not return in time."""

        def work() -> list[Any]:
            return list(_finish(self._score(items)))

        if self._timeout is None:
            return work()
        if self._hung is not None and self._hung.is_alive():
            return None
        done = _InThread(work, self.name)
        self._hung = None if done.wait(self._timeout) else done.thread
        return done.result() if self._hung is None else None

    def _read(self, value: Any) -> Outcome:
        if isinstance(value, Outcome) and all(map(_is_finite, [value.value, *value.parts.values()])):
            return value
        return _fault(f"{self.name} returned {_show(value)}, which is no Outcome with finite values")


class FunctionScorer(GuardedScorer):
    """Scores by a user's function, sync or async (`core.protocols.Scorer`); see `GuardedScorer` for its faults."""

    def __init__(self, name: str, function: Callable[..., Any], *, timeout_seconds: float | None = None) -> None:
        def score(items: Items) -> Any:
            return function(**_list_columns(items), **_list_arguments(items))

        super().__init__(name, score, timeout_seconds=timeout_seconds)

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
    arguments: dict[str, list[Any]] = {
        "prompts": [problem.messages for problem, _ in items],
        "completions": [completion.text for _, completion in items],
        "completion_ids": [completion.ids.tolist() for _, completion in items],
    }
    if any(completion.transcript for _, completion in items):
        arguments["transcripts"] = [list(completion.transcript) for _, completion in items]
    return arguments


def _list_columns(items: Items) -> dict[str, list[Any]]:
    """Return every column of any row; one that bears the name of an argument cannot be passed beside it."""
    names = sorted({name for problem, _ in items for name in problem.columns} - set(_OWN_ARGUMENTS))
    return {name: [problem.columns.get(name) for problem, _ in items] for name in names}


class _InThread:
    """A function's call in a thread of its own, which does not keep the process alive."""

    def __init__(self, function: Callable[[], Any], name: str) -> None:
        self._function = function
        self._result: Any = None
        self._failure: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name=f"scorer {name}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            self._result = self._function()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - raised again by `result`, in the caller's thread
            self._failure = error

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the call, and return whether it has ended."""
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def result(self) -> Any:
        """Return what the call gave, or raise what it raised."""
        if self._failure is not None:
            raise self._failure
        return self._result


def _finish(values: Any) -> Any:
    """Return an awaitable's result, also where an event loop runs in this thread already."""
    if not inspect.isawaitable(values):
        return values
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_await(values))
    done = _InThread(lambda: asyncio.run(_await(values)), "awaitable")
    done.wait()
    return done.result()


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
