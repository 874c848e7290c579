"""vLLM's process as seen from here: started, spoken with, watched, and ended with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from posttrain.core.errors import SamplerError
from posttrain.samplers import vllm_worker
from posttrain.samplers.vllm_settings import SUPPORTED_VERSION, EngineInfo, VllmSettings

FailureKind = Literal["python", "version", "model", "memory", "died", "stalled", "closed", "refused", "weights"]

_READ_BYTES = 1 << 18
_READ_SECONDS = 0.5
_END_SECONDS = 15.0
_LOG_BYTES = 12000
_LOG_LINES = 25
_LINE_CHARACTERS = 300
_MEMORY_SIGNS = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "less than requested memory",
    "less than desired",
    "available memory for the cache blocks",
    "kv cache is needed",
    "bad_alloc",
)
_MODEL_SIGNS = ("architecture", "unsupported", "not supported", "does not support", "does not recognize", "config.json")


class VllmError(SamplerError):
    """A failure of vLLM.

    Args:
        kind: `python` (cannot be run or has no vLLM), `version`, `model` (not supported, not loadable), `memory`,
            `died`, `stalled`, `closed` (by this process), `refused` (one request), `weights` (not those published).
        found, expected, cure: As for every error.
    """

    def __init__(self, kind: FailureKind, found: str, *, expected: str = "", cure: str = "") -> None:
        self.kind = kind
        super().__init__(found, expected=expected, cure=cure, place="vllm")


class Mailbox:
    """The answers to some requests of one caller, as they come."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.waiting = set(numbers)
        self.answers: deque[dict[str, Any]] = deque()


class VllmProcess:
    """One vLLM engine in a process of its own, from its start to its end.

    Several threads may ask at the same time: whoever waits reads for all. It ends with `close()`, its
    collection, or this process's death, however that comes.

    Args:
        settings: Which Python, what environment, how long to wait.

    Raises:
        VllmError: The Python cannot be run.
    """

    def __init__(self, settings: VllmSettings) -> None:
        if sys.platform != "linux":
            raise VllmError("python", f"the platform is {sys.platform}", expected="Linux, where processes are watched")
        self.scratch = Path(tempfile.mkdtemp(prefix="posttrain-vllm-", dir=settings.scratch_folder))
        self._settings = settings
        self._log = settings.log_file or self.scratch / "vllm.log"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        try:
            self._process = self._spawn()
        except OSError as error:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise VllmError(
                "python",
                f"{settings.python} cannot be run: {error.strerror or error}",
                expected="the Python of an environment with vLLM",
                cure="correct the path, or install vLLM (docs/sampling.md says how)",
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._incoming = bytearray()
        self._reading, self._writing = threading.RLock(), threading.Lock()
        self._boxes: dict[int, Mailbox] = {}
        self._next_number = 1
        self._failure: VllmError | None = None
        self._last_heard = time.monotonic()
        self._engine: list[int] = []
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._process, self._engine, self.scratch, self._owner)

    @property
    def num_open(self) -> int:
        """Requests that have no answer yet."""
        return len(self._boxes)

    def start(self, arguments: dict[str, Any]) -> EngineInfo:
        """Build the engine and return what it says of itself.

        Raises:
            VllmError: vLLM is missing or another version, the model or the memory does not suffice, or it
                was not ready in time.
        """
        message = {"kind": "start", "version": SUPPORTED_VERSION, "arguments": arguments}
        about = self.ask(message, self._settings.start_timeout_seconds)
        return EngineInfo(
            about["version"], about["context_tokens"], about["vocabulary_size"], about["is_seeded"], about["seconds"]
        )

    def check(self) -> None:
        """Raise the failure that ended the engine, if one has."""
        if self._failure is not None:
            raise self._failure

    def ask(self, message: dict[str, Any], timeout_seconds: float | None = None) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            message: The request without its id.
            timeout_seconds: How long it may take; None: the settings' stall timeout.
        """
        return self.take(self.submit([message]), timeout_seconds)

    def submit(self, messages: Sequence[dict[str, Any]]) -> Mailbox:
        """Send requests and return where their answers will be; ids count up in the order of the messages."""
        with self._writing:
            first = self._next_number
            self._next_number += len(messages)
            numbers = range(first, self._next_number)
            box = Mailbox(numbers)
            if not self._boxes:
                self._last_heard = time.monotonic()
            self._boxes |= dict.fromkeys(numbers, box)
            for number, message in zip(numbers, messages, strict=True):
                self._write({**message, "id": number})
        return box

    def take(self, box: Mailbox, timeout_seconds: float | None = None) -> dict[str, Any]:
        """Return the next answer of a mailbox, waiting for it.

        Raises:
            VllmError: The engine has died, failed, or has taken no step for too long; it is ended then.
        """
        limit = self._settings.stall_timeout_seconds if timeout_seconds is None else timeout_seconds
        while True:
            if box.answers:
                return box.answers.popleft()
            with self._reading:
                if box.answers:
                    continue
                self.check()
                self._read_some(limit)

    def cancel(self, box: Mailbox) -> None:
        """Drop the requests of a mailbox that have no answer yet."""
        with self._writing:
            waiting = sorted(box.waiting)
            for number in waiting:
                self._boxes.pop(number, None)
            box.waiting.clear()
            if waiting and self._failure is None:
                self._write({"kind": "cancel", "ids": waiting})

    def close(self, failure: VllmError | None = None) -> None:
        """End vLLM and remove its files; whoever waits, or asks later, is given the failure."""
        if os.getpid() != self._owner:  # a forked copy owns no process
            return
        if self._failure is None:
            self._failure = failure or VllmError("closed", "the sampler was closed", cure="build another one")
        self._process.terminate()
        with self._reading:  # whoever reads sees the end of the stream, and lets go
            self._finalizer()
            self._boxes.clear()

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the process that is spoken with
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        command = [str(self._settings.python), vllm_worker.__file__, str(os.getpid()), str(self.scratch)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd=self.scratch,
                env=environment | dict(self._settings.environment),
            )

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # A process that has died is noticed, and explained, by whoever reads from it.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(vllm_worker.pack_frame(message))
            self._process.stdin.flush()

    def _read_some(self, limit_seconds: float) -> None:
        """Read what comes within a moment, and hand it out."""
        if select.select([self._output], [], [], _READ_SECONDS)[0]:
            content = os.read(self._output, _READ_BYTES)
            self._last_heard = time.monotonic()
            self._incoming += content
            while (frame := self._take_frame()) is not None:
                self._hand_out(frame)
            if not content:
                self._fail(self._explain_end())
        elif os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self._fail(self._explain_end())
        elif time.monotonic() - self._last_heard > limit_seconds:
            self._fail(
                VllmError(
                    "stalled",
                    f"vLLM has given no sign for {limit_seconds:g} s{self._read_log()}",
                    expected="a step of the engine, or its being ready",
                    cure="allow more time (start_timeout_seconds, stall_timeout_seconds), or give it more processors",
                )
            )

    def _take_frame(self) -> dict[str, Any] | None:
        size = vllm_worker.HEADER.size
        if len(self._incoming) < size:
            return None
        (length,) = vllm_worker.HEADER.unpack_from(self._incoming)
        if len(self._incoming) < size + length:
            return None
        frame = json.loads(bytes(self._incoming[size : size + length]))
        del self._incoming[: size + length]
        assert isinstance(frame, dict)
        return frame

    def _hand_out(self, frame: dict[str, Any]) -> None:
        if frame["kind"] == "failed":
            self._fail(explain_failure(frame, self._settings, self._read_log()))
        elif frame["kind"] == "hello":
            self._engine.append(frame["engine"])
        elif (box := self._boxes.pop(frame.get("id", 0), None)) is not None:
            box.waiting.discard(frame["id"])
            box.answers.append(frame)

    def _fail(self, failure: VllmError) -> None:
        if self._failure is None:
            self.close(failure)

    def _explain_end(self) -> VllmError:
        status = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(timeout=_END_SECONDS)
        number = -status if status < 0 else status - 128
        name = f"status {status}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(number).name if number > 0 else name
        cure = "read its last words above; vLLM's own log (log_file) has all of it"
        if number == signal.SIGKILL:
            cure = "where nobody killed it the system ran out of memory: lower cache_bytes, context_tokens or the model"
        return VllmError("died", f"vLLM's process ended by itself ({name}){self._read_log()}", cure=cure)

    def _read_log(self) -> str:
        """Return the last lines that vLLM wrote, as the end of a sentence."""
        with contextlib.suppress(OSError), self._log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _LOG_BYTES))
            lines = file.read().decode(errors="replace").split("\n")[-_LOG_LINES:]
            text = "\n".join(f"    {line[:_LINE_CHARACTERS]}" for line in lines if line.strip())
            return f"; its last words:\n{text}" if text else ""
        return ""


def explain_failure(frame: dict[str, Any], settings: VllmSettings, log: str) -> VllmError:
    """Return the error for a failure that the worker told of before it ended."""
    error, text = frame["error"], frame["message"]
    found = f"{error}: {text}"
    if error == "WrongVersionError":
        return VllmError(
            "version",
            f"vLLM {text} in {settings.python}",
            expected=f"vLLM {SUPPORTED_VERSION}*",
            cure="install that release: its internals are used",
        )
    if error in ("ModuleNotFoundError", "ImportError") and frame["stage"] == "start":
        return VllmError(
            "python",
            f"vLLM cannot be imported by {settings.python}: {text}",
            expected=f"vLLM {SUPPORTED_VERSION}* and all that it needs",
            cure="install it there (docs/sampling.md says how), or give the Python of the environment that has it",
        )
    words = text.lower()
    if error in ("MemoryError", "OutOfMemoryError") or any(sign in words for sign in _MEMORY_SIGNS):
        return VllmError(
            "memory",
            f"vLLM has too little memory: {found}{log}",
            cure="lower context_tokens, max_sequences or cache_bytes (raise it where the cache is what is too small)",
        )
    if any(sign in words for sign in _MODEL_SIGNS):
        return VllmError(
            "model",
            f"vLLM cannot run this model: {found}{log}",
            expected="an architecture and sizes that vLLM supports on this machine",
            cure="draw with another sampler",
        )
    return VllmError("died", f"vLLM failed: {found}{log}", cure="read its last words above")


def _end(process: subprocess.Popen[bytes], engine: list[int], scratch: Path, owner: int) -> None:
    """Let the keeper end and reap everything, and see to it where the keeper cannot; remove the files."""
    if os.getpid() != owner:  # a forked copy owns no process
        return
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode < 0:
        for pid in engine:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    shutil.rmtree(scratch, ignore_errors=True)
