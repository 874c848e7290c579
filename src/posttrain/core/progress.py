"""Progress that shows nothing: for programs, other ranks and tests."""

from __future__ import annotations


class SilentProgress:
    """Shows nothing: standard output belongs to the program that reads it."""

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        """Do nothing."""

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
