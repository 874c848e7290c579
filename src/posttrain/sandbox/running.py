"""A pool of fork servers for programs that a model wrote, hostile ones too.

    with ProgramPool() as pool:
        (result,) = pool.run([Program("print(6 * 7)")])

Each program runs in a process of its own that is thrown away. What it may reach, and what a machine must offer for
that, is in `docs/sandbox.md`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType

from posttrain.sandbox.fleet import Fleet
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.self_check import SandboxUnavailableError, SelfCheck, choose_tier

__all__ = ["ProgramPool", "SandboxUnavailableError"]


class ProgramPool:
    """Runs programs on warm fork servers, one at a time each.

    Args:
        num_servers: Programs at a time; None for one a processor that this process may use.
        tier: `auto` for the strongest whose self-check passes, or one by name: `bubblewrap`, `landlock`.
        limits: What one program may use.
        allow_unsafe: Where no tier passes, go on without a sandbox (tier `unsafe`): programs can then do whatever
            this user can.

    Nothing starts before the first run. A pool may be used from several threads at once; a forked process that
    inherits one starts servers of its own. It is closed by `close()`, a `with` block, or its collection.

    Raises:
        ValueError: No such tier, or no server at all.
    """

    def __init__(
        self,
        num_servers: int | None = None,
        tier: str = "auto",
        limits: ProgramLimits = ProgramLimits(),  # noqa: B008 - it is frozen
        allow_unsafe: bool = False,
    ) -> None:
        if num_servers is not None and num_servers < 1:
            raise ValueError(f"num_servers must be at least 1, found {num_servers}")
        if tier not in ("auto", "bubblewrap", "landlock"):
            raise ValueError(f"tier must be 'auto', 'bubblewrap' or 'landlock', found {tier!r}")
        self.num_servers = num_servers or len(os.sched_getaffinity(0))
        self.limits = limits
        self._wanted_tier = tier
        self._allow_unsafe = allow_unsafe
        self._self_check: SelfCheck | None = None
        self._fleet: Fleet | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    @property
    def self_check(self) -> SelfCheck:
        """What the probes found when the tier was chosen.

        Raises:
            SandboxUnavailableError: No tier passes.
        """
        self._start()
        assert self._self_check is not None
        return self._self_check

    @property
    def tier(self) -> str:
        """The tier that programs run in: `bubblewrap`, `landlock` or `unsafe`.

        Raises:
            SandboxUnavailableError: No tier passes.
        """
        return self.self_check.tier

    @property
    def started_tier(self) -> str | None:
        """The tier that programs have run in so far, None where nothing has started yet."""
        return None if self._self_check is None else self._self_check.tier

    def run(self, programs: Sequence[Program], limits: ProgramLimits | None = None) -> list[ProgramResult]:
        """Run programs, and return their results in order.

        Args:
            programs: Any number of them.
            limits: What one may use, in the place of the pool's.

        Raises:
            SandboxUnavailableError: No tier passes.
            PlainDataError: An argument of a program is no plain data.
        """
        return self._start().run(programs, [limits or self.limits] * len(programs))

    def close(self) -> None:
        """End every server; a later run starts fresh ones."""
        if self._fleet is not None and self._owner == os.getpid():
            self._fleet.close()

    def __enter__(self) -> ProgramPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Fleet:
        if self._owner != os.getpid():  # forked: the lock may be held by a thread that is not here
            self._lock = threading.Lock()
            self._owner = os.getpid()
            if self._fleet is not None:
                self._fleet.forsake()
                self._fleet = Fleet(self._fleet.tier, self.num_servers)
        with self._lock:
            if self._fleet is None:
                self._fleet, self._self_check = choose_tier(self._wanted_tier, allow_unsafe=self._allow_unsafe)
                self._fleet.num_servers = self.num_servers
            return self._fleet
