"""Judging in rounds: a judge yields the programs that it wants run and is sent what became of them.

A judge is a generator, so that many judge at once and all their programs of a round go to the runner together.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from posttrain.sandbox.programs import Program, ProgramResult, ProgramStatus

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


def run_judging(judging: Judging[T], runner: ProgramRunner) -> T:
    """Carry a judging to its end with a runner."""
    try:
        programs = next(judging)
        while True:
            results = runner.run(programs) if programs else []
            if len(results) != len(programs):
                raise RuntimeError(f"the runner gave {len(results)} results for {len(programs)} programs")
            programs = judging.send(results)
    except StopIteration as end:
        finding: T = end.value
        return finding


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
