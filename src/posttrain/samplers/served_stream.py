"""A plain iterator over what an event loop in a thread of its own produces."""

from __future__ import annotations

import asyncio
import atexit
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from posttrain.core.errors import SamplerError

Item = TypeVar("Item")
Emit = Callable[[Item], Awaitable[None]]
Produce = Callable[[Emit[Item]], Awaitable[None]]
"""Does the work and hands over items; `emit` waits while too many have not been taken."""


_started: weakref.WeakSet[StreamThread[Any]] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Stop what still runs: an iterator that is closed later than this would wait for a thread that stands still."""
    for thread in list(_started):
        thread.stop()


class _End:
    """Stands after the last item."""


class StreamThread(Generic[Item]):
    """Runs a producer in a daemon thread, from the first item that is asked for until the iterator is closed.

    Args:
        produce: Runs in the thread's event loop.
        capacity: Items that may wait to be taken, >= 1.
    """

    def __init__(self, produce: Produce[Item], capacity: int) -> None:
        self._produce = produce
        self._capacity = capacity
        self._items: queue.SimpleQueue[Item | _End] = queue.SimpleQueue()
        self._is_running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="posttrain-served", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = RuntimeError("the thread ended before its work did")

    def iterate(self) -> Iterator[Item]:
        """Yield items as they come, then raise what the producer raised; closing stops it and ends the thread.

        Raises:
            SamplerError: `stop` was called by somebody else.
        """
        _started.add(self)
        self._thread.start()
        try:
            while not isinstance(item := self._items.get(), _End):
                self._call(self._room.release)
                yield item
            if isinstance(self._failure, asyncio.CancelledError):
                raise SamplerError("the sampler was closed while it drew", cure="take all completions, then close it")
            if self._failure is not None:
                raise self._failure
        finally:
            self.stop()

    def stop(self) -> None:
        """Cancel what is under way and wait until the thread has ended; again does nothing."""
        if self._thread.is_alive():
            self._is_running.wait()
            if self._task is not None:
                self._call(self._task.cancel)
            if threading.current_thread() is not self._thread:  # else the iterator was collected as garbage in it
                self._thread.join()

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: there is nothing left to tell it
                self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                asyncio.run(self._work())
        finally:
            self._is_running.set()
            self._items.put(_End())

    async def _work(self) -> None:
        self._loop, self._room = asyncio.get_running_loop(), asyncio.Semaphore(self._capacity)
        self._task = asyncio.ensure_future(self._produce_all())
        self._is_running.set()
        # What the producer raises is raised where the items are taken.
        (failure,) = await asyncio.gather(self._task, return_exceptions=True)
        self._failure = failure

    async def _produce_all(self) -> None:
        await self._produce(self._emit)

    async def _emit(self, item: Item) -> None:
        await self._room.acquire()
        self._items.put(item)
