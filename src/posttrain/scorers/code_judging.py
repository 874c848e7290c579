"""Judging in rounds: a judge yields the programs that it wants run and is sent what became of them.

A judge is a generator, so that many judge at once and all their programs of a round go to the runner together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from posttrain.sandbox import plain_data
from posttrain.sandbox.programs import Program, ProgramResult, ProgramStatus

MAX_PROGRAMS = 512
MAX_SENT_BYTES = 1 << 24
"""What a program may be given: inputs of a test, or all answers that a test's own code has had."""

T = TypeVar("T")
Judging = Generator[list[Program], list[ProgramResult], T]


class ProgramRunner(Protocol):
    """Runs programs that nobody trusts, each once, in a process of its own (`sandbox.running.ProgramPool`)."""

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Return what became of each program, in order."""


class BrokenTestError(Exception):
    """A test that fails by itself, whatever the program is: the problem's fault, known when it runs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one test says: `status` of the run that decided (`ok` where a value was wrong), and `why` for a person."""

    is_passed: bool
    status: ProgramStatus = "ok"
    why: str = ""


class CodeTest(Protocol):
    """One hidden test of a program."""

    def judge(self, source: str) -> Judging[Verdict]:
        """Judge a program."""


def judge_together(judges: Sequence[Judging[T]]) -> Judging[list[T]]:
    """Let several judges work in the same rounds; return their findings in order."""
    findings: dict[int, T] = {}
    wanted: dict[int, list[Program]] = {}

    def step(number: int, results: list[ProgramResult] | None) -> None:
        try:
            wanted[number] = next(judges[number]) if results is None else judges[number].send(results)
        except StopIteration as end:
            findings[number] = end.value

    for number in range(len(judges)):
        step(number, None)
    while wanted:
        asked, wanted = wanted, {}
        results = yield [program for programs in asked.values() for program in programs]
        position = 0
        for number, programs in asked.items():
            step(number, results[position : position + len(programs)])
            position += len(programs)
    return [findings[number] for number in range(len(judges))]


def run_judges(judges: Sequence[Judging[T]], runner: ProgramRunner, max_programs: int = MAX_PROGRAMS) -> list[T]:
    """Carry judges to their ends with a runner; return their findings in order.

    Args:
        judges: What each finds does not depend on the others.
        runner: Runs the programs.
        max_programs: At a time, unless one judge wants more at once: results may be large, and all are held.
    """
    findings: dict[int, T] = {}
    waiting: deque[tuple[int, list[Program]]] = deque()

    def step(number: int, results: list[ProgramResult] | None) -> None:
        try:
            programs = next(judges[number]) if results is None else judges[number].send(results)
        except StopIteration as end:
            findings[number] = end.value
        else:
            waiting.append((number, programs))

    for number in range(len(judges)):
        step(number, None)
    while waiting:
        taken = [waiting.popleft()]
        num_programs = len(taken[0][1])
        while waiting and num_programs + len(waiting[0][1]) <= max_programs:
            taken.append(waiting.popleft())
            num_programs += len(taken[-1][1])
        results = deque(runner.run([program for _, programs in taken for program in programs]))
        if len(results) != num_programs:
            raise RuntimeError(f"the runner gave {len(results)} results for {num_programs} programs")
        for number, programs in taken:
            step(number, [results.popleft() for _ in programs])
    return [findings[number] for number in range(len(judges))]


def is_sendable(value: Any) -> bool:
    """Return whether a value can be given to a program: plain data, neither too large nor too deeply nested."""
    try:
        plain_data.encode(value, MAX_SENT_BYTES)
    except plain_data.PlainDataError:
        return False
    return True


def describe_failure(result: ProgramResult) -> str:
    """Return what became of a program that gave no value, as words that follow its name."""
    words = {
        "raised": "raised",
        "timeout": "ran out of time",
        "memory": "ran out of memory",
        "crash": "ended its process",
        "output": "wrote too much",
        "bad_record": "gave no plain data",
        "sandbox_error": "could not be run",
    }[result.status]
    return f"{words}: {result.why[:200]}" if result.why else words
