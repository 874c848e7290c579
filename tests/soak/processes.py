"""Starts and kills runs in processes of their own, by the driver beside this file."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120.0
"""How long something that must happen may take on a loaded machine; nothing is concluded from how long it took."""


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)


class Driver:
    """The process that starts commands; a context manager, which leaves no process behind."""

    def __enter__(self) -> Driver:
        # The package of this checkout, wherever another one may be installed.
        paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
        environment = {**os.environ, "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that `has_ended` sees what has not been read
            env=environment,
            cwd=REPOSITORY,
        )
        self._child: int | None = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self.kill()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, *arguments: str | Path, folder: Path, halt: int = 0, phase: str = "save") -> int:
        """Start a command and return its process id.

        Args:
            arguments: Of `posttrain`.
            folder: Where it works; its output goes to `log` there, and `halted` is written when it halts.
            halt: At which event of a phase it stops for good; 0 for none.
            phase: Which events are counted (see the driver).
        """
        (folder / "halted").unlink(missing_ok=True)
        request: dict[str, Any] = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "log": str(folder / "log"),
            "halt": halt,
            "phase": phase,
            "marker": str(folder / "halted"),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._child = int(self._read())
        return self._child

    def has_ended(self) -> bool:
        """Return whether the command has ended, which `wait` will then say at once."""
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def signal(self, number: int) -> None:
        """Send a signal to the command; to one that has ended it does nothing."""
        assert self._child is not None
        os.kill(self._child, number)

    def wait(self) -> int:
        """Wait for the command and return its exit code, or minus the signal that killed it."""
        code = int(self._read())
        self._child = None
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return code

    def kill(self) -> int:
        """Kill the command outright and return what `wait` does; it may have ended by itself before."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def run(self, *arguments: str | Path, folder: Path) -> int:
        """Run a command to its end."""
        self.start(*arguments, folder=folder)
        return self.wait()

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the driver has died"
        return line
