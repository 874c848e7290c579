"""Stopping by signal: at the next safe place, at once where asked twice, or only where Ctrl-C is expected."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_ASKED = b"\nstopping after this step, once it is saved; Ctrl-C again stops at once\n"
_STDERR = 2


class StopFlag:
    """Answers whether a stop was asked for; as a context, it listens to SIGTERM and SIGINT.

    Example: `with StopFlag() as should_stop: run_recipe(recipe, should_stop=should_stop, ...)`.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._num_interrupts = 0
        self._previous: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        return self._is_set

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        if not self._is_set:
            os.write(_STDERR, _ASKED)  # a handler may run inside a print: only a bare write is safe
        self._is_set = True


class InterruptGate:
    """Lets Ctrl-C through only where it can be caught; as a context, it listens to SIGINT.

    A second Ctrl-C that comes while the first is dealt with is ignored, and ends nothing.

    Example: `with InterruptGate() as gate:`, and in it `try: with gate.open(): input()` with its
    `except KeyboardInterrupt` around it.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._previous: Any = None

    def __enter__(self) -> InterruptGate:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let one Ctrl-C through as KeyboardInterrupt."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_open:
            self._is_open = False
            raise KeyboardInterrupt
