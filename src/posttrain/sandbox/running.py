"""A pool of fork servers for programs that a model wrote: hostile ones too.

    with ProgramPool() as pool:
        results = pool.run([Program("print(6 * 7)")])

Each program runs in a process of its own that is thrown away. What it may reach, and what a machine must offer for
that, is in `docs/sandbox.md`.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from posttrain.core.errors import SandboxError
from posttrain.sandbox import execution, plain_data
from posttrain.sandbox.launching import ServerHandle, ServerStartError, make_memory_file
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.self_check import SelfCheck, choose_tier
from posttrain.sandbox.verdicts import Evidence, judge_evidence

MAX_ATTEMPTS = 3
"""Runs of one program whose sandbox fails, each on a fresh server, before `sandbox_error` is its result."""
_READ_BYTES = 1 << 16


class Check:
    """One program on one server: its descriptors, what it has written, and how it ended."""

    def __init__(self, place: int, number: int, program: Program, limits: ProgramLimits) -> None:
        self.place = place
        self.number = number
        self.program = program
        self.limits = limits
        self.output = bytearray()
        self.is_flooded = False
        self.record_bytes = limits.output_bytes + execution.RECORD_HEADER_BYTES + execution.RECORD_SLACK_BYTES
        self.pipe = self.record = -1

    def begin(self, server: ServerHandle, request: bytes) -> None:
        """Open the descriptors and hand the program over.

        Raises:
            OSError: The server is gone, or this process has no descriptors left.
        """
        opened = []
        try:
            opened.append(make_memory_file(request))
            opened.append(make_memory_file(self.program.stdin.encode("utf-8", "surrogatepass")))
            self.pipe, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(written, True)
            opened.append(written)
            self.record = os.memfd_create("record", os.MFD_CLOEXEC)
            os.ftruncate(self.record, self.record_bytes)
            limits = self.limits
            amounts = (limits.cpu_seconds, limits.wall_seconds, limits.memory_bytes, self.record_bytes)
            server.begin(self.number, amounts, [*opened, self.record])
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def read_output(self) -> bool:
        """Take what the program has written; return whether more may come."""
        while True:
            try:
                content = os.read(self.pipe, _READ_BYTES)
            except BlockingIOError:
                return True
            if not content:
                return False
            self.output += content
            if len(self.output) > self.limits.output_bytes + len(execution.READY):
                self.is_flooded = True
                return False

    def close(self) -> None:
        """Close the descriptors that are left."""
        for descriptor in (self.pipe, self.record):
            if descriptor >= 0:
                os.close(descriptor)
        self.pipe = self.record = -1

    def finish(self, report: tuple[int, str, int, float] | None) -> ProgramResult:
        """Return what became of the program, by the server's report."""
        self.read_output()
        record = b""
        if report is not None and not self.is_flooded:
            size = int.from_bytes(os.pread(self.record, execution.RECORD_HEADER_BYTES, 0), "little")
            if size <= self.record_bytes - execution.RECORD_HEADER_BYTES:
                record = os.pread(self.record, size, execution.RECORD_HEADER_BYTES)
        return judge_evidence(Evidence(self.program, self.limits, bytes(self.output), self.is_flooded, record, report))


class ProgramPool:
    """Runs programs on warm fork servers, one at a time each.

    Args:
        num_servers: Programs at a time; None for one a processor.
        tier: `auto` for the strongest whose self-check passes, or a tier by name.
        limits: What one program may use.
        allow_unsafe: Go on without a sandbox (tier `unsafe`) where no tier passes.

    Servers start with the first run. A pool may be used from several threads at once; a forked process that inherits
    one starts servers of its own. It is closed by `close()`, a `with` block, or its collection.
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
        self.num_servers = num_servers or len(os.sched_getaffinity(0))
        self.limits = limits
        self._wanted_tier = tier
        self._allow_unsafe = allow_unsafe
        self._check: SelfCheck | None = None
        self._take_possession()

    def _take_possession(self) -> None:
        """Start with no servers: those of the process that this one was forked from are not its own."""
        self._owner = os.getpid()
        self._idle: list[ServerHandle] = []
        self._all: set[ServerHandle] = set()
        self._num_open = 0
        self._num_waiting = 0
        self._number = 0
        self._condition = threading.Condition()
        self._finalizer = weakref.finalize(self, _end_all, self._all, self._owner)

    @property
    def self_check(self) -> SelfCheck:
        """What the probes found when the tier was chosen.

        Raises:
            SandboxUnavailableError: No tier passes.
        """
        with self._condition:
            if self._check is None:
                self._check = choose_tier(self._wanted_tier, allow_unsafe=self._allow_unsafe)
            return self._check

    @property
    def tier(self) -> str:
        """The tier that programs run in: `bubblewrap`, `landlock` or `unsafe`."""
        return self.self_check.tier

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run programs, and return their results in order.

        Raises:
            SandboxUnavailableError: No tier passes.
            PlainDataError: An argument of a program is no plain data.
        """
        if os.getpid() != self._owner:
            self._take_possession()
        tier = self.tier
        requests = [pack_request(program) for program in programs]
        results: list[ProgramResult | None] = [None] * len(programs)
        run = _Run(self, tier, programs, requests, results)
        try:
            run.go()
        finally:
            run.stop()
        return [result for result in results if result is not None]

    def close(self) -> None:
        """End every server; a later run starts fresh ones."""
        with self._condition:
            _end_all(self._all, self._owner)
            self._idle.clear()
            self._num_open = 0

    def __enter__(self) -> ProgramPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lend(self, *, should_wait: bool) -> ServerHandle | None:
        """Return an idle server or a new one, None if all are taken and the caller would not wait."""
        with self._condition:
            self._num_waiting += 1
            try:
                while not self._idle and self._num_open >= self.num_servers:
                    if not should_wait:
                        return None
                    self._condition.wait()
            finally:
                self._num_waiting -= 1
            if self._idle:
                return self._idle.pop()
            self._num_open += 1
        try:
            server = ServerHandle(self.tier)
        except BaseException:
            with self._condition:
                self._num_open -= 1
                self._condition.notify()
            raise
        with self._condition:
            self._all.add(server)
        return server

    def give_back(self, server: ServerHandle, *, is_whole: bool) -> None:
        """Take a server back; one that is not whole is ended."""
        with self._condition:
            if is_whole and server in self._all:
                self._idle.append(server)
            elif server in self._all:
                self._all.discard(server)
                self._num_open -= 1
            self._condition.notify()
        if not is_whole:
            server.end()

    @property
    def is_wanted(self) -> bool:
        """Whether another thread waits for a server."""
        return self._num_waiting > 0

    def next_number(self) -> int:
        """Return a number that no other check of this pool has."""
        with self._condition:
            self._number += 1
            return self._number


def pack_request(program: Program) -> bytes:
    """Return a program as its child reads it.

    Raises:
        PlainDataError: An argument is no plain data.
    """
    request = {"source": program.source, "entry": program.entry, "args": program.args, "kwargs": program.kwargs}
    return plain_data.encode(request, 1 << 30)


def _end_all(servers: set[ServerHandle], owner: int) -> None:
    for server in servers:
        if os.getpid() == owner:
            server.end()
        else:  # a forked copy of the pool owns no server, but must not hold its socket open
            server.control.close()
    servers.clear()


class _Run:
    """One call of `run`: its programs, and the servers that it has at the moment."""

    # many parameters: the pool, and a call's programs in their three forms
    def __init__(
        self,
        pool: ProgramPool,
        tier: str,
        programs: Sequence[Program],
        requests: list[bytes],
        results: list[ProgramResult | None],
    ) -> None:
        self.pool = pool
        self.tier = tier
        self.programs = programs
        self.requests = requests
        self.results = results
        self.waiting = deque((place, 1) for place in range(len(programs)))
        self.checks: dict[ServerHandle, tuple[Check, int]] = {}
        self.poll = select.poll()
        self.by_descriptor: dict[int, ServerHandle] = {}

    def go(self) -> None:
        """Run every program."""
        while self.waiting or self.checks:
            while self.waiting and (server := self.pool.lend(should_wait=not self.checks)):
                self.begin(server)
            for descriptor, _ in self.poll.poll():
                server = self.by_descriptor.get(descriptor)
                if server is None:
                    continue
                if descriptor == server.control.fileno():
                    self.finish(server)
                else:
                    self.read(server, descriptor)

    def begin(self, server: ServerHandle) -> None:
        """Give a server the next program."""
        place, attempt = self.waiting.popleft()
        check = Check(place, self.pool.next_number(), self.programs[place], self.pool.limits)
        self.checks[server] = (check, attempt)
        with contextlib.suppress(OSError):  # a server that is gone is noticed when its report is read
            check.begin(server, self.requests[place])
        for descriptor in (server.control.fileno(), check.pipe):
            if descriptor >= 0:
                self.by_descriptor[descriptor] = server
                self.poll.register(descriptor, select.POLLIN)

    def read(self, server: ServerHandle, descriptor: int) -> None:
        """Take output; at its end or its limit stop looking."""
        check, _ = self.checks[server]
        if not check.read_output():
            self.forget(descriptor)
            if check.is_flooded:
                server.kill_program(check.number)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no longer."""
        if self.by_descriptor.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)

    def finish(self, server: ServerHandle) -> None:
        """Take a server's report, and keep the server for the next program if it is whole and nobody else waits."""
        report = server.read_report()
        check, attempt = self.checks.pop(server)
        if report is not None and report[0] != check.number:
            report = None
        result = check.finish(report)
        for descriptor in (server.control.fileno(), check.pipe):
            self.forget(descriptor)
        check.close()
        is_whole = result.status != "sandbox_error"
        if is_whole or attempt >= MAX_ATTEMPTS:
            self.results[check.place] = result
        else:
            self.waiting.append((check.place, attempt + 1))
        if is_whole and self.waiting and not self.pool.is_wanted:
            self.begin(server)
        else:
            self.pool.give_back(server, is_whole=is_whole)

    def stop(self) -> None:
        """Give up what is still running: its servers are ended."""
        for server, (check, _) in list(self.checks.items()):
            check.close()
            self.pool.give_back(server, is_whole=False)
        self.checks.clear()


__all__ = ["ProgramPool", "SandboxError", "ServerStartError"]
