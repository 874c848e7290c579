"""A stop at any time outside the training loop, where nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable

from posttrain.core.errors import TerminatedError
from posttrain.core.protocols import Progress


class StoppableProgress:
    """Passes everything on to another progress, and stops the work that reports to it when a stop was asked for.

    For work that may be left at any report: rows that are tokenized are tokenized again, items that are
    evaluated are on the disk already. The training loop asks for itself, because it saves first.
    """

    def __init__(self, shown: Progress, should_stop: Callable[[], bool]) -> None:
        self._shown = shown
        self._should_stop = should_stop

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        """Begin a task."""
        self._shown.start(title, total, unit=unit)

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        """Move on.

        Raises:
            TerminatedError: A stop was asked for.
        """
        self._shown.advance(amount, **figures)
        check_stop(self._should_stop())

    def finish(self) -> None:
        """End the task."""
        self._shown.finish()

    def note(self, text: str) -> None:
        """Print one plain line."""
        self._shown.note(text)


def check_stop(is_asked: bool) -> None:
    """Raise if a stop was asked for.

    Raises:
        TerminatedError: It was.
    """
    if is_asked:
        raise TerminatedError(
            "stopped as asked; what was done is kept", cure="start the same command again: it goes on from there"
        )
