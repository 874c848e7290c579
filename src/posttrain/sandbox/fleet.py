"""Fork servers of one tier, and the programs that run on them.

One thread of the caller drives its own programs with one `poll`; threads share the servers in the order they asked.
There is no thread, signal handler or global state behind it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from posttrain.sandbox import execution, plain_data
from posttrain.sandbox.launching import ServerHandle, ServerStartError, make_memory_file
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.verdicts import Evidence, Report, judge_evidence

MAX_ATTEMPTS = 3
"""Runs of one program whose sandbox fails, each on a fresh server, before `sandbox_error` is its result."""
_PATIENCE, _START_SECONDS = 10, 60.0
"""When a server itself is given up: it watches the clocks, starts in a second, and a loaded machine stretches both."""
_READ_BYTES = 1 << 16
_MAX_REQUEST_BYTES = 1 << 30


def pack_request(program: Program) -> bytes:
    """Return a program as its child reads it.

    Raises:
        PlainDataError: An argument is no plain data.
    """
    request = {"source": program.source, "entry": program.entry, "args": program.args, "kwargs": program.kwargs}
    return plain_data.encode(request, _MAX_REQUEST_BYTES)


class OutOfMemoryCounter:
    """Counts the processes that the kernel has killed because memory ran out; a program cannot pretend to be one."""

    def __init__(self) -> None:
        self._seen = self._read()

    def has_grown(self) -> bool:
        """Return whether there are more than when this was last asked."""
        before, self._seen = self._seen, self._read()
        return self._seen > before

    @staticmethod
    def _read() -> int:
        with contextlib.suppress(OSError), open("/proc/vmstat", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        return 0


class Check:
    """One program on one server: its descriptors, what it has written, and how it ended."""

    def __init__(self, place: int, attempt: int, number: int, program: Program, limits: ProgramLimits) -> None:
        self.place = place
        self.attempt = attempt
        self.number = number
        self.program = program
        self.limits = limits
        self.output = bytearray()
        self.is_flooded = False
        self.record_bytes = limits.output_bytes + execution.RECORD_HEADER_BYTES + execution.RECORD_SLACK_BYTES
        self.control = self.pipe = self.record = -1
        self.deadline = time.monotonic() + _PATIENCE * limits.wall_seconds + _START_SECONDS

    def begin(self, server: ServerHandle, request: bytes) -> None:
        """Open the descriptors and hand the program over.

        Raises:
            OSError: The server is gone, or this process may open no more descriptors.
        """
        opened = []
        try:
            opened.append(make_memory_file(request))
            opened.append(make_memory_file(self.program.stdin.encode("utf-8", "surrogatepass")))
            self.pipe, written = os.pipe2(os.O_CLOEXEC)
            opened.append(written)
            os.set_blocking(self.pipe, False)
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
        while self.pipe >= 0 and not self.is_flooded:
            try:
                content = os.read(self.pipe, _READ_BYTES)
            except BlockingIOError:
                return True
            if not content:
                return False
            self.output += content
            self.is_flooded = len(self.output) > self.limits.output_bytes + len(execution.READY)
        return False

    def close(self) -> None:
        """Close the descriptors that are left."""
        for descriptor in (self.pipe, self.record):
            if descriptor >= 0:
                os.close(descriptor)
        self.pipe = self.record = -1

    def finish(self, report: Report | None, memory: OutOfMemoryCounter) -> ProgramResult:
        """Return what became of the program, by the server's report; its process is dead by then."""
        record = b""
        if report is not None:
            self.read_output()
            size = int.from_bytes(os.pread(self.record, execution.RECORD_HEADER_BYTES, 0), "little")
            if size <= self.record_bytes - execution.RECORD_HEADER_BYTES:
                record = os.pread(self.record, size, execution.RECORD_HEADER_BYTES)
        evidence = Evidence(self.program, self.limits, bytes(self.output), self.is_flooded, record, report)
        return judge_evidence(evidence, has_memory_run_out=memory.has_grown)


class Fleet:
    """Servers of one tier, started when they are first needed.

    Args:
        tier: Of all of them.
        num_servers: Programs that run at a time.
    """

    def __init__(self, tier: str, num_servers: int) -> None:
        self.tier = tier
        self.num_servers = num_servers
        self.memory = OutOfMemoryCounter()
        self.owner = os.getpid()
        self._idle: list[ServerHandle] = []
        self._all: set[ServerHandle] = set()
        self._num_open = 0
        self._number = 0
        self._queue: deque[object] = deque()
        self._condition = threading.Condition()
        self._finalizer = weakref.finalize(self, _end_all, self._all, self.owner)

    def run(self, programs: Sequence[Program], limits: Sequence[ProgramLimits]) -> list[ProgramResult]:
        """Run programs, each within its limits, and return their results in order.

        Raises:
            PlainDataError: An argument of a program is no plain data.
        """
        run = _Run(self, programs, limits)
        try:
            run.go()
        finally:
            run.stop()
        return [run.results[place] for place in range(len(programs))]

    def close(self) -> None:
        """End every server; a later run starts fresh ones."""
        with self._condition:
            _end_all(self._all, self.owner)
            self._idle.clear()
            self._num_open = 0
            self._condition.notify_all()

    def forsake(self) -> None:
        """Let go of the servers in a forked process, which owns none of them."""
        for server in self._all:
            server.control.close()
        self._all.clear()

    def lend(self, *, should_wait: bool, is_fresh: bool) -> ServerHandle | None:
        """Return a server, or None if none is free, or others wait, and the caller would not.

        Raises:
            ServerStartError: A server was to be started and could not be.
        """
        ticket = object()
        spent = None
        with self._condition:
            if not should_wait and (self._queue or not self._is_one_free()):
                return None
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or not self._is_one_free():
                    self._condition.wait()
            finally:
                self._queue.remove(ticket)
                self._condition.notify_all()
            if self._idle:
                server = self._idle.pop()
                if not is_fresh:
                    return server
                spent = server
                self._all.discard(server)
            else:
                self._num_open += 1
        try:
            if spent is not None:
                spent.end()
            server = ServerHandle(self.tier)
        except BaseException:
            with self._condition:
                self._num_open -= 1
                self._condition.notify_all()
            raise
        with self._condition:
            self._all.add(server)
        return server

    def give_back(self, server: ServerHandle, *, is_whole: bool) -> None:
        """Take a server back; one that is not whole, or that was closed meanwhile, is ended."""
        with self._condition:
            if is_whole and server in self._all:
                self._idle.append(server)
            elif server in self._all:
                self._all.discard(server)
                self._num_open -= 1
            self._condition.notify_all()
        if not is_whole:
            server.end()

    @property
    def is_wanted(self) -> bool:
        """Whether another thread waits for a server."""
        return bool(self._queue)

    def next_number(self) -> int:
        """Return a number that no other check of these servers has."""
        with self._condition:
            self._number += 1
            return self._number

    def _is_one_free(self) -> bool:
        return bool(self._idle) or self._num_open < self.num_servers


def _end_all(servers: set[ServerHandle], owner: int) -> None:
    if os.getpid() == owner:  # a forked copy owns no server
        for server in servers:
            server.end()
    servers.clear()


class _Run:
    """One call of `run`: its programs, and the servers that it has at the moment."""

    def __init__(self, fleet: Fleet, programs: Sequence[Program], limits: Sequence[ProgramLimits]) -> None:
        self.fleet = fleet
        self.programs = programs
        self.limits = limits
        self.requests = [pack_request(program) for program in programs]
        self.results: dict[int, ProgramResult] = {}
        self.waiting = deque((place, 1) for place in range(len(programs)))
        self.checks: dict[ServerHandle, Check] = {}
        self.poll = select.poll()
        self.by_descriptor: dict[int, ServerHandle] = {}

    def go(self) -> None:
        """Run every program."""
        while self.waiting or self.checks:
            while self.waiting and self.begin_next():
                pass
            if not self.checks:
                continue
            nearest = min(check.deadline for check in self.checks.values())
            for descriptor, _ in self.poll.poll(1000 * max(0.0, nearest - time.monotonic())):
                server = self.by_descriptor.get(descriptor)
                if server is None:
                    continue
                if descriptor != self.checks[server].pipe:
                    self.listen(server)
                elif not self.checks[server].read_output():
                    self.stop_reading(server)
            for server, check in list(self.checks.items()):
                if check.deadline <= time.monotonic():
                    self.finish(server, None)

    def begin_next(self) -> bool:
        """Give the next program to a server, if there is one; return whether to go on."""
        place, attempt = self.waiting[0]
        try:
            server = self.fleet.lend(should_wait=not self.checks, is_fresh=attempt > 1)
        except ServerStartError as error:
            self.waiting.popleft()
            self.settle(place, attempt, ProgramResult("sandbox_error", why=error.found))
            return True
        if server is None:
            return False
        self.begin(server)
        return True

    def begin(self, server: ServerHandle) -> None:
        """Give a server the next program."""
        place, attempt = self.waiting.popleft()
        check = Check(place, attempt, self.fleet.next_number(), self.programs[place], self.limits[place])
        self.checks[server] = check
        try:
            check.begin(server, self.requests[place])
        except OSError:
            self.finish(server, None)
            return
        check.control = server.control.fileno()
        for descriptor in (check.control, check.pipe):
            self.by_descriptor[descriptor] = server
            self.poll.register(descriptor, select.POLLIN)

    def listen(self, server: ServerHandle) -> None:
        """Take what a server says."""
        report = server.read_message()
        if report is not None or server.is_gone:
            self.finish(server, report)

    def stop_reading(self, server: ServerHandle) -> None:
        """Look no longer at a program's output, which has ended or broken its limit; there its process is killed."""
        check = self.checks[server]
        self.forget(check.pipe)
        if check.is_flooded:
            server.kill_program(check.number)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no longer."""
        if self.by_descriptor.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)

    def finish(self, server: ServerHandle, report: Report | None) -> None:
        """Take a server's report (None: it is gone), and keep the server if it is whole and nobody else waits."""
        check = self.checks.pop(server)
        if report is not None and report.number != check.number:
            report = None
        result = check.finish(report, self.fleet.memory)
        if server.failure:
            result = replace(result, why=server.failure)
        self.forget(check.control)
        self.forget(check.pipe)
        check.close()
        is_whole = result.status != "sandbox_error"
        self.settle(check.place, check.attempt, result)
        if is_whole and self.waiting and self.waiting[0][1] == 1 and not self.fleet.is_wanted:
            self.begin(server)
        else:
            self.fleet.give_back(server, is_whole=is_whole)

    def settle(self, place: int, attempt: int, result: ProgramResult) -> None:
        """Keep a result; one of a sandbox that failed is kept only after the last attempt."""
        if result.status == "sandbox_error" and attempt < MAX_ATTEMPTS:
            self.waiting.append((place, attempt + 1))
        else:
            self.results[place] = result

    def stop(self) -> None:
        """Give up what is still running, after an interruption: its servers are ended."""
        for server, check in self.checks.items():
            check.close()
            self.fleet.give_back(server, is_whole=False)
        self.checks.clear()
