"""Starts commands in processes of their own, quickly: one process imports everything, and each start is a fork of it.

Reads one JSON object a line from standard input, and answers each with two lines: the process id of the
command when it has started, and its exit status when it has ended (negative: the signal that killed it).

    {"arguments": ["run", "demo.yaml"], "folder": "/w", "log": "/w/log", "halt": 0, "phase": "save",
     "marker": "/w/halted"}

Then it waits for an empty line before it forgets the process, so that its id is no other's until then.
`halt` counts events of a phase: at the n-th of them the command writes `marker` and waits to be killed. Events are:

* `save`: a flush or rename inside the saving of checkpoints;
* `publish`: one inside the storing of an artifact;
* `member`: one inside the writing down of what a member of an ensemble gave;
* `reference`: a micro-batch of a reference pass, and the keeping of what it gave, of which half the bytes are there;
* `sampling`: a completion that a stage has drawn, before anybody sees it;
* `scoring`: completions of a stage that are handed to its scorer;
* `journal`: lines that are appended to a journal of rollouts, of which half of the bytes are written;
* `update`: an optimizer update that was taken, and of which nothing else knows.
"""

from __future__ import annotations

import importlib
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
        HALTS[request["phase"]](Countdown(request["halt"], Path(request["marker"])))
    try:
        return run_command(request["arguments"])
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1


class Countdown:
    """Stops this process for good at the n-th event."""

    def __init__(self, number: int, marker: Path) -> None:
        self.left = number
        self.marker = marker

    def count(self, before: Callable[[], object] | None = None) -> None:
        """Count an event; `before` is done first at the one that stops."""
        self.left -= 1
        if self.left == 0:
            if before is not None:
                before()
            self.marker.write_text("halted")
            time.sleep(3600)


def halt_inside(module: str, owner: str, method: str) -> Callable[[Countdown], None]:
    """Return what counts flushes and renames while a method runs."""

    def halt(countdown: Countdown) -> None:
        of = getattr(importlib.import_module(module), owner)
        do, inside = getattr(of, method), [False]

        def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
            inside[0] = True
            try:
                return do(self, *arguments, **named)
            finally:
                inside[0] = False

        def counting(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                if inside[0]:
                    countdown.count()
                return function(*arguments, **named)

            return call

        setattr(of, method, guarded)  # this process exists to be killed here
        for name in ("fsync", "rename", "replace"):
            setattr(os, name, counting(getattr(os, name)))

    return halt


def halt_in_references(countdown: Countdown) -> None:
    """Count micro-batches of a reference pass, and what it keeps; where it stops then, the first half is there."""
    from posttrain.core import durable
    from posttrain.stages import reference_logprobs

    def compute(*arguments: Any) -> Any:
        countdown.count()
        return compute_token_logprobs(*arguments)

    def write(path: Path, content: bytes) -> None:
        def write_half() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[: len(content) // 2])

        countdown.count(write_half)
        durable.write_bytes(path, content)

    compute_token_logprobs = reference_logprobs.compute_token_logprobs  # type: ignore[attr-defined]  # imported there
    reference_logprobs.compute_token_logprobs = compute  # type: ignore[attr-defined]
    reference_logprobs.write_bytes = write  # type: ignore[attr-defined]


def halt_in_rollouts(part: str, method: str) -> Callable[[Countdown], None]:
    """Return what counts completions that a stage's sampler yields, or calls of its scorer; preflight's are not."""

    def halt(countdown: Countdown) -> None:
        from posttrain.stages import grpo

        run = grpo.run

        def run_watched(config: Any, inputs: Any, parts: Any, context: Any) -> Any:
            watched = getattr(parts, part)
            do = getattr(watched, method)

            def score(*arguments: Any, **named: Any) -> Any:
                countdown.count()
                return do(*arguments, **named)

            def sample(*arguments: Any, **named: Any) -> Any:
                for drawn in do(*arguments, **named):
                    countdown.count()
                    yield drawn

            setattr(watched, method, score if method == "score" else sample)
            return run(config, inputs, parts, context)

        grpo.run = run_watched

    return halt


def halt_inside_journal(countdown: Countdown) -> None:
    """Count what is appended to journals of rollouts; where it stops, a half is written."""
    from posttrain.rollouts import journal

    append_lines = journal.append_lines  # type: ignore[attr-defined]  # imported there

    def append(path: Path, lines: Any) -> None:
        texts = list(lines)

        def write_half() -> None:
            content = "".join(f"{text}\n" for text in texts).encode()
            with path.open("ab") as file:
                file.write(content[: len(content) // 2])

        countdown.count(write_half)
        append_lines(path, texts)

    journal.append_lines = append  # type: ignore[attr-defined]


def halt_after_update(countdown: Countdown) -> None:
    """Count optimizer updates."""
    from posttrain.training.step import Updater

    update = Updater.update

    def update_and_count(self: Any, *arguments: Any) -> Any:
        report = update(self, *arguments)
        countdown.count()
        return report

    Updater.update = update_and_count  # type: ignore[method-assign]


HALTS: dict[str, Callable[[Countdown], None]] = {
    "save": halt_inside("posttrain.training.checkpoints", "CheckpointStore", "save"),
    "publish": halt_inside("posttrain.pipeline.store", "ArtifactStore", "add"),
    "member": halt_inside("posttrain.stages.reward_members", "MemberContexts", "close"),
    "reference": halt_in_references,
    "sampling": halt_in_rollouts("sampler", "sample"),
    "scoring": halt_in_rollouts("scorer", "score"),
    "journal": halt_inside_journal,
    "update": halt_after_update,
}


if __name__ == "__main__":
    main()
