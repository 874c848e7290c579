"""The process that does jobs: reads one, does it under limits, answers, reads the next.

Frames are a 4-byte length and JSON text. The first frame says which function does the jobs; limits are
set before that function's module is imported. A job's own exception is an answer, and so is memory
running out; time limits are the kernel's timers with their default action, which no interpreter lock
can hold up. Whatever a job prints goes nowhere.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

HEADER = struct.Struct(">I")
MESSAGE_CHARACTERS = 2000

Job = Callable[[Any], Any]


def pack_frame(value: Any) -> bytes:
    """Return a value as one frame. Lone surrogates survive: the JSON is ASCII.

    Raises:
        TypeError: The value has no JSON form.
        ValueError: The value is circular, or too long for a frame.
    """
    content = json.dumps(value, separators=(",", ":")).encode("ascii")
    if len(content) >= 1 << 32:
        raise ValueError(f"{len(content)} bytes do not fit into a frame")
    return HEADER.pack(len(content)) + content


def read_frame(file: BinaryIO) -> Any | None:
    """Return the next frame's value, or None where the other side has closed."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    content = file.read(HEADER.unpack(header)[0])
    return json.loads(content)


def load_job(entry: str, initial: Any) -> Job:
    """Return the function named by `entry`; with an `initial` value, what that function returns for it.

    Raises:
        ImportError, AttributeError, ValueError: The entry names nothing that can be called.
    """
    module_name, _, function_name = entry.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    job = function if initial is None else function(initial)
    if not callable(job):
        raise ValueError(f"'{entry}' is not a function")
    return job


def set_process_limits(memory_bytes: int) -> None:
    """Bound the address space to what is mapped now plus `memory_bytes`, and forbid core dumps and file growth."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
    address_space = mapped_bytes + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def start_timers(cpu_seconds: float, wall_seconds: float) -> None:
    """Let the kernel end this process when the job's CPU or wall-clock time is over.

    The wall-clock timer matters only to a worker whose pool is gone: it fires a little after the pool's
    own deadline. `RLIMIT_CPU` backs the CPU timer up, in whole seconds.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    whole_seconds = math.ceil(usage.ru_utime + usage.ru_stime + cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole_seconds, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds * 1.5 + 1)


def stop_timers() -> None:
    """Let the worker wait for its next job as long as it takes."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def answer_job(job: Job, value: Any, output_bytes: int) -> bytes:
    """Return the frame that answers one job: `{"result": ...}` or `{"error": {kind, message, exception}}`."""
    try:
        frame = pack_frame({"result": job(value)})
    except MemoryError:
        return pack_frame({"error": {"kind": "memory", "message": "memory ran out", "exception": ""}})
    except BaseException as error:  # noqa: BLE001  # around untrusted code; SystemExit too must not end the worker
        message = str(error)[:MESSAGE_CHARACTERS]
        return pack_frame({"error": {"kind": "raised", "message": message, "exception": type(error).__name__}})
    if len(frame) > output_bytes + HEADER.size:
        message = f"the result has {len(frame)} bytes, more than {output_bytes}"
        return pack_frame({"error": {"kind": "output", "message": message, "exception": ""}})
    return frame


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Do jobs until the pool closes its end."""
    start = read_frame(requests)
    if start is None:
        return
    limits = start["limits"]
    try:
        set_process_limits(limits["memory_bytes"])
        job = load_job(start["entry"], start["initial"])
    except BaseException as error:  # noqa: BLE001  # whatever an import raises is reported to the pool
        message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]
        answers.write(pack_frame({"failed": message}))
        answers.flush()
        return
    answers.write(pack_frame({"ready": os.getpid()}))
    answers.flush()
    while (request := read_frame(requests)) is not None:
        start_timers(limits["cpu_seconds"], limits["wall_seconds"])
        frame = answer_job(job, request["job"], limits["output_bytes"])
        stop_timers()
        answers.write(frame)
        answers.flush()


def main() -> None:
    """Take the pool's pipes away from descriptors 0 and 1, then serve."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    serve(requests, answers)
    sys.stderr.flush()
    os._exit(0)  # no atexit work of imported libraries under spent limits


if __name__ == "__main__":
    main()
