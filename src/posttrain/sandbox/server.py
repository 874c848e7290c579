"""The fork server: a small warm interpreter that makes one confined child for each program.

It never reads a byte that a program wrote, nor the programs: a child takes its program from a sealed descriptor,
and the pool outside takes the outcome from the record and the pipe. So its memory, which every child inherits,
holds nothing of an earlier program. It makes the child, watches its clocks, kills it, reaps it, and says how it ended.

Messages over a sequenced-packet socket, one struct each. Request: number, CPU and wall-clock seconds, memory and
record bytes, with four descriptors (program, standard input, output pipe, record). `KILL` with a number ends that one.
Report: number, why the server ended it (`ENDINGS`), wait status, CPU seconds.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

from posttrain.sandbox import execution, plain_data
from posttrain.sandbox.confinement import MAX_THREADS, Cage, ChildLimits, build_ruleset, confine, measure_address_space
from posttrain.sandbox.syscalls import NUMBERS, libc

REQUEST = struct.Struct("<QddQQ")
KILL = struct.Struct("<Q")
REPORT = struct.Struct("<QBid")
NUM_DESCRIPTORS = 4
ENDINGS = ("ended", "cpu", "wall", "killed", "no_child")
_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWUSER = 0x00020000, 0x20000000, 0x10000000
_CLONE_PIDFD, _CLONE_CHILD_SETTID = 0x1000, 0x01000000
_GET_TID_ADDRESS = 40
_M_ARENA_MAX = -8
_LEAST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.002, 1.0
_PREIMPORTED = """abc array bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal enum
fractions functools heapq io itertools json math numbers operator queue random re statistics string struct textwrap
threading time types typing"""


class Server:
    """Serves one control socket until it closes or the pool's process ends."""

    def __init__(self, control: socket.socket, owner: int, cage: Cage) -> None:
        self.control = control
        self.owner = owner
        self.cage = cage
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.num_processors = os.cpu_count() or 1

    def serve(self) -> None:
        """Run one program after another."""
        waiting = select.poll()
        waiting.register(self.control, select.POLLIN)
        waiting.register(self.owner, select.POLLIN)
        while True:
            ready = dict(waiting.poll())
            if self.owner in ready:
                return
            message, descriptors = self.receive()
            if not message:
                return
            if len(message) == REQUEST.size:
                try:
                    self.run(REQUEST.unpack(message), descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)

    def receive(self) -> tuple[bytes, list[int]]:
        """Return the next message with its descriptors."""
        message, ancillary, _, _ = self.control.recvmsg(256, socket.CMSG_SPACE(4 * NUM_DESCRIPTORS))
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        return message, descriptors.tolist()

    def run(self, request: tuple[Any, ...], descriptors: list[int]) -> None:
        """Make a child for one program, watch it to its end, and report."""
        number, cpu_seconds, wall_seconds, memory_bytes, record_bytes = request
        try:
            process, pidfd = make_child(self.cage.has_namespaces)
        except OSError:
            self.control.send(REPORT.pack(number, ENDINGS.index("no_child"), ctypes.get_errno(), 0.0))
            return
        if process == 0:
            limits = ChildLimits(math.ceil(cpu_seconds) + 1, memory_bytes + record_bytes)
            become_program(self.cage, limits, descriptors, self.null, record_bytes)
        try:
            ending = self.watch(number, process, pidfd, cpu_seconds, wall_seconds)
        finally:
            os.close(pidfd)
        _, status, usage = os.wait4(process, 0)
        self.control.send(REPORT.pack(number, ENDINGS.index(ending), status, usage.ru_utime + usage.ru_stime))

    # many parameters: a child is its number, its handle and its two clocks
    def watch(self, number: int, process: int, pidfd: int, cpu_seconds: float, wall_seconds: float) -> str:
        """Wait until a child has ended, by itself or by this server's hand, and return which."""
        waiting = select.poll()
        for descriptor in (pidfd, self.control.fileno(), self.owner):
            waiting.register(descriptor, select.POLLIN)
        start = time.monotonic()
        ending = "ended"
        pause = _LEAST_WAIT_SECONDS
        while True:
            cpu_left = cpu_seconds - read_cpu_seconds(process)
            wall_left = wall_seconds - (time.monotonic() - start)
            if cpu_left > 0 and wall_left <= 0:
                wall_left += read_waiting_seconds(process)
            if ending == "ended" and min(cpu_left, wall_left) <= 0:
                ending = "cpu" if cpu_left <= 0 else "wall"
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            pause = max(_LEAST_WAIT_SECONDS, min(cpu_left / self.num_processors, wall_left, _LONGEST_WAIT_SECONDS))
            ready = dict(waiting.poll(1000 * pause))
            if pidfd in ready:
                return ending
            if self.owner in ready or self.control.fileno() in ready:
                message, descriptors = (b"", []) if self.owner in ready else self.receive()
                for descriptor in descriptors:
                    os.close(descriptor)
                if not message or message == KILL.pack(number):
                    ending = "killed"
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not message:
                    os._exit(0)  # the pool is gone, and with it whoever could want the outcome


def make_child(has_namespaces: bool) -> tuple[int, int]:
    """Fork, with process and mount namespaces of its own if wanted; return the process (0 in the child) and a pidfd.

    A raw `clone` takes one call for what `fork`, `unshare` and `pidfd_open` would take three for, and makes the child
    the first process of its namespace, so that its end is the end of everything in it.

    Raises:
        OSError: The kernel refused.
    """
    flags = signal.SIGCHLD | _CLONE_PIDFD | (_CLONE_NEWPID | _CLONE_NEWNS if has_namespaces else 0)
    pidfd = ctypes.c_int(-1)
    thread_id = ctypes.c_void_p()  # where the C library keeps this thread's id, which a raw clone would leave stale
    if libc.prctl(_GET_TID_ADDRESS, ctypes.byref(thread_id), 0, 0, 0) == 0 and thread_id.value:
        flags |= _CLONE_CHILD_SETTID
    ids = (thread_id, ctypes.c_long(0)) if os.uname().machine == "x86_64" else (ctypes.c_long(0), thread_id)
    ctypes.pythonapi.PyOS_BeforeFork()
    process = libc.syscall(ctypes.c_long(NUMBERS["clone"]), ctypes.c_long(flags), None, ctypes.byref(pidfd), *ids)
    if process == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if process < 0:
        raise OSError(ctypes.get_errno(), "no child")
    return process, pidfd.value


def read_cpu_seconds(process: int) -> float:
    """Return the CPU time of a child, all its threads together, by the clock that the kernel keeps for it."""
    try:
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return 0.0


def read_waiting_seconds(process: int) -> float:
    """Return how long a child's main thread was ready to run and waited for a processor: load is not its fault."""
    try:
        with open(f"/proc/{process}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


# many parameters: everything a child takes over
def become_program(cage: Cage, limits: ChildLimits, descriptors: list[int], null: int, record_bytes: int) -> NoReturn:
    """Turn this child into the program that lies in a descriptor, and end with it."""
    status = 1
    try:
        program, standard_input, output, record = descriptors
        for own, target in ((standard_input, 0), (output, 1), (null, 2)):
            os.dup2(own, target)
        area = execution.RecordArea(record, record_bytes)
        content = os.pread(program, os.fstat(program).st_size, 0)
        confine(cage, limits)
    except BaseException as error:  # noqa: BLE001 - nothing of the program has run: the pool must hear of any failure
        with contextlib.suppress(OSError):
            os.write(1, execution.FAILED + f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(status)
    try:
        os.write(1, execution.READY)
        status = execution.run_program(plain_data.decode(content), area.leave)
    finally:
        os._exit(status)


def prepare(settings: dict[str, Any]) -> Cage:
    """Make this process small, warm and ready to be copied, and prepare the cage of its children.

    Raises:
        OSError: The kernel lacks what the tier needs.
    """
    for name in _PREIMPORTED.split():
        __import__(name)
    with contextlib.suppress(AttributeError):
        libc.mallopt(_M_ARENA_MAX, 2)  # each thread would reserve 64 MB of address space for itself
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True
    os.chdir(sys.base_prefix)
    is_confined = settings["tier"] != "unsafe"
    ruleset = build_ruleset() if is_confined else None
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy the server's pages
    return Cage(
        user=settings["user"],
        ruleset=ruleset,
        is_filtered=is_confined,
        has_namespaces=settings["tier"] == "bubblewrap",
        base_bytes=measure_address_space(),
        max_tasks=MAX_THREADS,
    )


def main(settings: dict[str, Any]) -> None:
    """Prepare, say so, and serve."""
    control = socket.socket(fileno=settings["control"])
    try:
        cage = prepare(settings)
    except OSError as error:
        control.send(b"failed " + str(error).encode("utf-8", "replace")[:200])
        return
    control.send(b"ready")
    Server(control, settings["owner"], cage).serve()
