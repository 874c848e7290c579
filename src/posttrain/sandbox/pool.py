"""A pool of killable processes for work that may hang, eat memory or crash.

Not a cage against hostile machine code: a worker is a plain process with limits, in a session of its
own, with an empty environment. It is for code that is confined already (a sandboxed template engine,
a parser, a computer-algebra call) and may still run for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from posttrain.core.errors import SandboxError
from posttrain.sandbox.limits import JobError, Limits
from posttrain.sandbox.worker import HEADER, pack_frame

START_SECONDS = 120.0
"""How long a worker may take to import its entry: generous, a loaded machine is no failure."""
_READ_BYTES = 1 << 18
_OUT_OF_CPU = (signal.SIGPROF, signal.SIGXCPU, signal.SIGALRM)


class _Worker:
    """One process, its pipes, and the job it is at."""

    def __init__(self, start_frame: bytes) -> None:
        import_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "posttrain.sandbox.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={
                "PATH": os.defpath,
                "PYTHONPATH": import_path,
                "PYTHONHASHSEED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "LC_ALL": "C.UTF-8",
            },
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input = self.process.stdin.fileno()
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)
        self.is_ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + START_SECONDS
        self.incoming = bytearray()
        self.outgoing = memoryview(start_frame)

    def give(self, job: int, frame: bytes, wall_seconds: float) -> None:
        """Hand over a job; the pool's loop writes the frame."""
        self.job = job
        self.deadline = time.monotonic() + wall_seconds
        self.outgoing = memoryview(frame)

    def write_some(self) -> None:
        """Write what the pipe takes; a worker that has died is noticed when it is read from."""
        try:
            self.outgoing = self.outgoing[os.write(self.input, self.outgoing) :]
        except BlockingIOError:
            return
        except OSError:
            self.outgoing = memoryview(b"")

    def read_some(self) -> bool:
        """Read what has come; False at the end of the stream."""
        try:
            content = os.read(self.output, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.incoming += content
        return bool(content)

    def take_frame(self, largest: int) -> dict[str, Any] | None:
        """Return the value of a whole frame, or None if it has not come yet.

        Raises:
            ValueError: The frame is larger than allowed, or not a JSON object.
        """
        if len(self.incoming) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self.incoming)
        if length > largest:
            raise ValueError(f"a frame of {length} bytes, more than {largest}")
        if len(self.incoming) < HEADER.size + length:
            return None
        value = json.loads(bytes(self.incoming[HEADER.size : HEADER.size + length]))
        del self.incoming[: HEADER.size + length]
        if not isinstance(value, dict):
            raise ValueError(f"a frame that holds a {type(value).__name__}")
        return value

    def kill(self) -> int:
        """End the process and everything in its session, reap it, and return its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: a group of zombies only
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return status


def _kill_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a forked copy of the pool owns no worker
        for worker in workers:
            worker.kill()
    workers.clear()


class Pool:
    """Does jobs in killable processes; a job that fails costs itself and nothing else.

    Args:
        entry: `package.module:function`, imported by each worker: JSON-like value in, JSON-like value out.
        num_workers: Processes at a time; they start with the first job.
        limits: What one job may use.
        initial: If given, `function(initial)` is called once in each worker and must return the function
            that does the jobs.

    A pool may be used from several threads (one `map` at a time) and is closed by `close()`, a `with`
    block, or its collection. A forked process that inherits one starts workers of its own.
    """

    def __init__(self, entry: str, *, num_workers: int = 1, limits: Limits, initial: Any = None) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, found {num_workers}")
        self.entry = entry
        self.limits = limits
        self.num_workers = num_workers
        self._start_frame = pack_frame({"entry": entry, "initial": initial, "limits": limits.to_json()})
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)

    def map(self, jobs: Sequence[Any]) -> list[Any | SandboxError]:
        """Return one result or one `JobError` for each job, in order.

        Raises:
            SandboxError: The workers cannot start.
            TypeError, ValueError: A job has no JSON form.
        """
        if os.getpid() != self._owner:
            self._adopt()
        frames = [pack_frame({"job": job}) for job in jobs]
        results: list[Any] = [None] * len(frames)
        with self._lock:
            try:
                self._run(frames, results)
            finally:
                for worker in [worker for worker in self._workers if worker.job is not None or not worker.is_ready]:
                    self._discard(worker)
        return results

    def close(self) -> None:
        """Kill and reap every worker; a later `map` starts fresh ones."""
        with self._lock:
            _kill_all(self._workers, self._owner)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _adopt(self) -> None:
        """Forget the workers and the lock of the process this one was forked from."""
        self._workers = []
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)

    def _discard(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        return worker.kill()

    def _run(self, frames: list[bytes], results: list[Any]) -> None:
        """Keep every worker busy until each job has its result."""
        waiting = deque(range(len(frames)))
        num_open = len(frames)
        while num_open:
            wanted = min(self.num_workers, num_open)
            while len(self._workers) < wanted:
                self._workers.append(_Worker(self._start_frame))
            for worker in self._workers:
                if waiting and worker.is_ready and worker.job is None:
                    job = waiting.popleft()
                    worker.give(job, frames[job], self.limits.wall_seconds)
            num_open -= self._turn(results)

    def _turn(self, results: list[Any]) -> int:
        """Move bytes until something happens; return how many jobs came to an end."""
        busy = [worker for worker in self._workers if worker.job is not None or not worker.is_ready]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
                if worker.outgoing:
                    selector.register(worker.input, selectors.EVENT_WRITE, worker)
            nearest = min(worker.deadline for worker in busy)
            events = selector.select(max(0.0, nearest - time.monotonic()))
        num_done = 0
        for key, mask in events:
            if mask & selectors.EVENT_WRITE:
                key.data.write_some()
            elif key.data in self._workers:
                num_done += self._receive(key.data, results)
        for worker in busy:
            if worker in self._workers and worker.deadline <= time.monotonic():
                if worker.job is not None:
                    num_done += self._end(worker, results, JobError("timeout", self._timeout_text("wall-clock")))
                elif not worker.is_ready:
                    self._discard(worker)
                    raise self._cannot_start(f"the worker was not ready after {START_SECONDS:g} s")
        return num_done

    def _receive(self, worker: _Worker, results: list[Any]) -> int:
        """Take a worker's answer, if it is whole; return how many jobs came to an end."""
        is_open = worker.read_some()
        try:
            answer = worker.take_frame(self.limits.output_bytes + 16 * 1024)
        except ValueError as error:
            return self._end(worker, results, JobError("output", f"the worker sent {error}"))
        if answer is None:
            if is_open:
                return 0
            return self._end(worker, results, None)
        if not worker.is_ready:
            if "failed" in answer:
                self._discard(worker)
                raise self._cannot_start(answer["failed"])
            worker.is_ready = True
            return 0
        if worker.job is None:  # an answer to no question: the worker is not to be trusted
            self._discard(worker)
            return 0
        if "error" in answer:
            reason = answer["error"]
            failure = JobError(reason["kind"], reason["message"], exception=reason["exception"])
            if failure.kind == "memory":
                return self._end(worker, results, failure)
            results[worker.job] = failure
        else:
            results[worker.job] = answer["result"]
        worker.job = None
        return 1

    def _end(self, worker: _Worker, results: list[Any], failure: JobError | None) -> int:
        """Kill a worker; its job's result is the failure, or what its exit status says."""
        job = worker.job
        status = self._discard(worker)
        if job is None:
            raise self._cannot_start(f"the worker ended with status {status} before it was ready")
        results[job] = failure or self._explain(status)
        return 1

    def _explain(self, status: int) -> JobError:
        if -status in _OUT_OF_CPU:
            return JobError("timeout", self._timeout_text("CPU"))
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return JobError("crash", f"the process ended by itself ({name})")

    def _timeout_text(self, clock: str) -> str:
        seconds = self.limits.wall_seconds if clock == "wall-clock" else self.limits.cpu_seconds
        return f"killed after {seconds:g} s of {clock} time"

    def _cannot_start(self, found: str) -> SandboxError:
        return SandboxError(
            f"no sandbox process can start: {found}",
            expected=f"'{self.entry}' imported by {sys.executable} within {self.limits.memory_bytes} bytes",
            cure="raise the memory limit, or correct the entry",
            place="sandbox",
        )
