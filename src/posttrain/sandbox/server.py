"""The fork server: a small warm interpreter that makes one confined child for each program.

It never reads a byte that a program wrote, nor the programs: a child takes its program from a sealed descriptor,
and the pool outside takes the outcome from the record and the pipe. So its memory, which every child inherits,
holds nothing of an earlier program. It makes the child, watches its clocks, kills it, reaps it, and says how it ended.

Messages over a sequenced-packet socket, one struct each. Request: number, CPU and wall-clock seconds, memory and
record bytes, with four descriptors (program, standard input, output pipe, record). `KILL` with a number ends that one.
Report: number, why the server ended it (`ENDINGS`), wait status, CPU seconds. Before the first report comes `READY`, or
`failed` and the reason.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import gc
import math
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

from posttrain.sandbox import execution, plain_data
from posttrain.sandbox.confinement import Cage, build_cage, confine
from posttrain.sandbox.syscalls import ARCHITECTURE, NUMBERS, call, libc
from posttrain.sandbox.tasks import TaskBound, enter_user_namespace

REQUEST = struct.Struct("<QddQQ")
KILL = struct.Struct("<Q")
REPORT = struct.Struct("<QBid")
READY = b"ready"
NUM_DESCRIPTORS = 4
ENDINGS = ("ended", "cpu", "wall", "killed", "no_child")
_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_CLONE_PIDFD, _CLONE_CHILD_SETTID = 0x1000, 0x01000000
_GET_TID_ADDRESS = 40
_M_ARENA_MAX = -8
_OUT_OF_MEMORY_SCORE = 500  # of 1000: where the machine runs out, programs are killed before whoever scores them
_LEAST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, _STALL_SECONDS = 0.002, 0.1, 0.1
_PREIMPORTED = """abc array bisect cmath collections collections.abc contextlib copy dataclasses datetime decimal enum
fractions functools heapq io itertools json math numbers operator queue random re statistics string struct textwrap
threading time types typing"""


class Server:
    """Serves one control socket until it closes or the pool's process ends."""

    def __init__(self, control: socket.socket, owner: int, cage: Cage, tasks: TaskBound) -> None:
        self.control = control
        self.owner = owner
        self.cage = cage
        self.tasks = tasks
        self.maker = ChildMaker(cage.has_namespaces)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.num_processors = os.cpu_count() or 1

    def serve(self) -> None:
        """Run one program after another, until the pool closes its end or its process ends."""
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
                goes_on = self.run(REQUEST.unpack(message), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                if not goes_on:
                    return

    def receive(self) -> tuple[bytes, list[int]]:
        """Return the next message with its descriptors."""
        message, ancillary, _, _ = self.control.recvmsg(256, socket.CMSG_SPACE(4 * NUM_DESCRIPTORS))
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % 4])
        return message, descriptors.tolist()

    def run(self, request: tuple[Any, ...], descriptors: list[int]) -> bool:
        """Make a child for one program, watch it to its end, and report; return whether to go on."""
        number, cpu_seconds, wall_seconds = request[:3]
        max_tasks = self.tasks.find()
        try:
            process, pidfd = self.maker.fork()
        except OSError:
            return self.report(number, "no_child", ctypes.get_errno(), 0.0)
        if process == 0:
            become_program(self.cage, request, [*descriptors, self.null], max_tasks)
        try:
            ending = self.watch(number, process, pidfd, cpu_seconds, wall_seconds)
        finally:
            os.close(pidfd)
        _, status, usage = os.wait4(process, 0)
        if not self.cage.filter:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)  # without a filter a program may have started others
        return ending != "abandoned" and self.report(number, ending, status, usage.ru_utime + usage.ru_stime)

    def report(self, number: int, ending: str, status: int, cpu_seconds: float) -> bool:
        """Tell the pool how a program ended; return whether it listens."""
        try:
            self.control.send(REPORT.pack(number, ENDINGS.index(ending), status, cpu_seconds))
        except OSError:
            return False
        return True

    # many parameters: a child is its number, its handle and its two clocks
    def watch(self, number: int, process: int, pidfd: int, cpu_seconds: float, wall_seconds: float) -> str:
        """Wait until a child has ended, by itself or by this server's hand, and return which."""
        waiting = select.poll()
        for descriptor in (pidfd, self.control.fileno(), self.owner):
            waiting.register(descriptor, select.POLLIN)
        looked = time.monotonic()
        awake_seconds, pause, ending = 0.0, 0.0, "ended"
        while True:
            now = time.monotonic()
            # Where this process itself was not run for longer than it wanted, neither need the child have been.
            awake_seconds += min(now - looked, pause + _STALL_SECONDS)
            looked, pause = now, _LONGEST_WAIT_SECONDS
            if ending == "ended":
                cpu_left = cpu_seconds - read_cpu_seconds(process)
                wall_left = wall_seconds - awake_seconds
                if wall_left <= 0:
                    wall_left += read_waiting_seconds(process)
                if min(cpu_left, wall_left) <= 0:
                    ending = "cpu" if cpu_left <= 0 else "wall"
                pause = min(pause, max(_LEAST_WAIT_SECONDS, min(cpu_left / self.num_processors, wall_left)))
            if ending != "ended":
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ready = dict(waiting.poll(1000 * pause))
            if pidfd in ready:
                return ending
            if self.owner in ready:
                waiting.unregister(self.owner)
                ending = "abandoned"
            elif self.control.fileno() in ready:
                message, descriptors = self.receive()
                for descriptor in descriptors:
                    os.close(descriptor)
                if message == KILL.pack(number):
                    ending = "killed"
                elif not message:
                    waiting.unregister(self.control)
                    ending = "abandoned"


class ChildMaker:
    """Forks, with process and mount namespaces for the child if wanted.

    A raw `clone` takes one call for what `fork`, `unshare` and `pidfd_open` would take three for, and makes the child
    the first process of its namespace, so that its end is the end of everything in it. What the interpreter does
    around `fork` is for other threads, of which a server has none, and would cost more than all the rest.
    """

    def __init__(self, has_namespaces: bool) -> None:
        flags = signal.SIGCHLD | _CLONE_PIDFD | (_CLONE_NEWPID | _CLONE_NEWNS if has_namespaces else 0)
        self._pidfd = ctypes.c_int(-1)
        # Where the C library keeps the thread's id, which a raw clone would leave stale.
        thread_id = ctypes.c_void_p()
        if libc.prctl(_GET_TID_ADDRESS, ctypes.byref(thread_id), 0, 0, 0) == 0 and thread_id.value:
            flags |= _CLONE_CHILD_SETTID
        last = (thread_id, ctypes.c_long(0)) if ARCHITECTURE == "x86_64" else (ctypes.c_long(0), thread_id)
        self._call = (ctypes.c_long(NUMBERS["clone"]), ctypes.c_long(flags), None, ctypes.byref(self._pidfd), *last)

    def fork(self) -> tuple[int, int]:
        """Return the child's process id and a pidfd of it; in the child 0.

        Raises:
            OSError: The kernel refused.
        """
        process = libc.syscall(*self._call)
        if process < 0:
            raise OSError(ctypes.get_errno(), "no child")
        return process, self._pidfd.value


def read_cpu_seconds(process: int) -> float:
    """Return the CPU time of a child, all its threads together, by the clock that the kernel keeps for it."""
    try:
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return 0.0


def read_waiting_seconds(process: int) -> float:
    """Return how long a child's threads were ready to run and waited for a processor: load is not their fault."""
    waited = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/schedstat", encoding="ascii") as file:
                waited += int(file.read().split()[1])
    return waited / 1e9


def become_program(cage: Cage, request: tuple[Any, ...], descriptors: list[int], max_tasks: int) -> NoReturn:
    """Turn this child into the program that lies in a descriptor, and end with it."""
    status = 1
    try:
        _, cpu_seconds, _, memory_bytes, record_bytes = request
        program, standard_input, output, record, null = descriptors
        os.dup2(standard_input, 0)
        os.dup2(output, 1)
        os.dup2(null, 2)
        area = execution.RecordArea(record, record_bytes)
        content = os.pread(program, os.fstat(program).st_size, 0)
        # Only for a server that dies: the kernel samples this clock, and charges the time of others on a busy machine.
        confine(cage, math.ceil(3 * cpu_seconds) + 10, memory_bytes + record_bytes, max_tasks)
    except BaseException as error:  # noqa: BLE001 - nothing of the program has run: the pool must hear of any failure
        with contextlib.suppress(OSError):
            os.write(1, execution.FAILED + f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(status)
    try:
        os.write(1, execution.READY)
        status = execution.run_program(content, area.leave)
    except MemoryError:
        status = execution.OUT_OF_MEMORY_STATUS
    finally:
        os._exit(status)


def can_reach_library(user: int | None) -> bool:
    """Return whether a child's user may walk to the interpreter's library by name.

    Raises:
        OSError: This process cannot become that user.
    """
    if user is None:
        return True
    process = os.fork()
    if process == 0:
        status = 2
        try:
            call("setgroups", 0, None)
            call("setresgid", user, user, user)
            call("setresuid", user, user, user)
            status = 0 if os.access(os.__file__, os.R_OK) else 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in (0, 1):
        raise OSError(errno.EPERM, f"setresuid: {os.strerror(errno.EPERM)}")
    return status == 0


def prepare(settings: dict[str, Any]) -> Cage:
    """Make this process small, warm and ready to be copied, and prepare the cage of its children.

    Raises:
        OSError: The kernel lacks what the tier needs.
    """
    forget_surroundings()
    for name in _PREIMPORTED.split():
        __import__(name)
    with contextlib.suppress(AttributeError):
        libc.mallopt(_M_ARENA_MAX, 2)  # each thread would reserve 64 MB of address space for itself
    sys.dont_write_bytecode = True
    execution.keep_library_in_reach(is_reachable=can_reach_library(settings["user"]))
    open_like_a_child()
    execution.look_ordinary()
    rehearse()
    is_confined, has_namespaces = settings["tier"] != "unsafe", settings["tier"] == "bubblewrap"
    cage = build_cage(has_namespaces=has_namespaces, is_confined=is_confined, user=settings["user"])
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy the server's pages
    return cage


def forget_surroundings() -> None:
    """Undo what was inherited from the process that started this one: ignored and blocked signals, its worth."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # which the interpreter ignores itself
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(_OUT_OF_MEMORY_SCORE))


def open_like_a_child() -> None:
    """Put files of the kinds that a child has on the standard descriptors, which its streams are made for here."""
    reading, writing = os.pipe()
    nothing = os.memfd_create("nothing")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor, target in ((nothing, 0), (writing, 1), (null, 2)):
        os.dup2(descriptor, target)
    for descriptor in (reading, writing, nothing, null):
        os.close(descriptor)


def rehearse() -> None:
    """Run a harmless program often enough for the interpreter to specialise this code, once for all children."""
    request = {"source": "def f(x):\n    return [x]", "entry": "f", "args": ([1],), "kwargs": {}}
    content = plain_data.encode(request, 1 << 20)

    def leave(kind: str, value: Any) -> None:
        plain_data.encode((kind, value), 1 << 20)

    for _ in range(20):
        execution.run_program(content, leave)
    sys.modules.pop("program")


def main(settings: dict[str, Any]) -> None:
    """Prepare, say so, and serve."""
    control = socket.socket(fileno=settings["control"])
    is_alone = settings["tier"] == "bubblewrap" or settings["user"] is not None
    try:
        tasks = TaskBound(is_shared=not is_alone and not enter_user_namespace())
        cage = prepare(settings)
    except OSError as error:
        control.send(b"failed " + str(error).encode("utf-8", "replace")[:200])
        return
    control.send(READY)
    Server(control, settings["owner"], cage, tasks).serve()
