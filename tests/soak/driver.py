"""Starts commands in processes of their own, quickly: one process imports everything, and each start is a fork of it.

Reads one JSON object a line from standard input, and answers each with two lines: the process id of the
command when it has started, and its exit status when it has ended (negative: the signal that killed it).

    {"arguments": ["run", "demo.yaml"], "folder": "/w", "log": "/w/log", "halt": 0, "marker": "/w/halted"}

Then it waits for an empty line before it forgets the process, so that its id is no other's until then.
`halt` counts the flushes and renames inside the saving of checkpoints: at the n-th of them the command
writes `marker` and waits to be killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    # Imported before the first fork, so that no start pays for it; nothing is computed here.
    import posttrain.pipeline.run
    from posttrain.cli.main import run_command

    del posttrain
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(work(request, run_command))
        print(child, flush=True)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
        sys.stdin.readline()
        os.waitpid(child, 0)


def work(request: dict[str, Any], run_command: Callable[[list[str]], int]) -> int:
    """Run one command in this process, its output going to a file."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115 (for as long as the process lives)
    os.chdir(request["folder"])
    if request["halt"]:
        halt_inside_save(request["halt"], Path(request["marker"]))
    try:
        return run_command(request["arguments"])
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1


def halt_inside_save(number: int, marker: Path) -> None:
    """Stop for good at the n-th flush or rename that the saving of checkpoints makes."""
    from posttrain.training.checkpoints import CheckpointStore

    save, left, inside = CheckpointStore.save, [number], [False]

    def guarded_save(self: Any, *arguments: Any) -> Any:
        inside[0] = True
        try:
            return save(self, *arguments)
        finally:
            inside[0] = False

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if inside[0]:
                left[0] -= 1
                if left[0] == 0:
                    marker.write_text("halted")
                    time.sleep(3600)
            return function(*arguments, **named)

        return call

    CheckpointStore.save = guarded_save  # type: ignore[method-assign]  # this process exists to be killed here
    for name in ("fsync", "rename", "replace"):
        setattr(os, name, counting(getattr(os, name)))


if __name__ == "__main__":
    main()
