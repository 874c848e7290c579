"""The code scorer on public problems: references accepted, mutants rejected where the published tests can tell.

    python -m benchmarks.code_golden [--data <folder>] [--only humaneval] [--mutants none,off_by_one]

For every problem the judge's verdict on the reference and on each mutant is set beside that of the published tests
run as a script. A mutant that both accept survives because the tests are weak; one on which they differ is a fault
of the judge's, and is listed. The throughput is that of the references, warm.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.code_problems import (
    MUTANTS,
    CodeProblem,
    build_mutant,
    build_script,
    find_first_calls,
    read_humaneval,
    read_mbpp,
)
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.running import ProgramPool
from posttrain.scorers.code import CodeScorer
from posttrain.scorers.code_comparison import Comparison
from posttrain.scorers.code_judging import CodeTest
from posttrain.scorers.code_tasks import read_task

LIMITS = ProgramLimits(cpu_seconds=10.0, wall_seconds=40.0)
"""Generous: one reference of MBPP (amicable numbers below 9,999) needs more than 2 seconds."""
SETS = {"humaneval": read_humaneval, "mbpp": read_mbpp}


class CountingRunner:
    """Passes programs on to a pool, and sums what they took."""

    def __init__(self, pool: ProgramPool) -> None:
        self.pool = pool
        self.num_programs = 0
        self.cpu_seconds = 0.0

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run programs and count them."""
        results = self.pool.run(programs)
        self.num_programs += len(programs)
        self.cpu_seconds += sum(result.cpu_seconds for result in results)
        return results


def build_item(problem: CodeProblem, text: str) -> tuple[Problem, Completion]:
    """Return what the scorer is given."""
    ids = np.zeros(1, np.int32)
    record = Problem(problem.name, problem.messages, problem.columns)
    return record, Completion(problem.name, 0, ids, ids, text, "stop", "reference", 0)


def count_tests(problems: Sequence[CodeProblem]) -> Counter[str]:
    """Return how many tests there are of each kind."""
    tasks = [read_task(build_item(problem, "")[0], Comparison()) for problem in problems]
    tests: list[CodeTest] = [test for task in tasks for test in task.tests]
    return Counter(type(test).__name__ for test in tests)


def score_references(problems: Sequence[CodeProblem], pool: ProgramPool) -> list[Outcome]:
    """Score every reference, and print how many are accepted and what it took."""
    runner = CountingRunner(pool)
    scorer = CodeScorer(runner=runner)
    items = [build_item(problem, problem.completion) for problem in problems]
    scorer.score(items[:8])  # servers start with the first programs
    runner.num_programs, runner.cpu_seconds = 0, 0.0
    used, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    outcomes = scorer.score(items)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    judge_seconds = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    num_items = len(items)
    accepted = sum(outcome.value == 1.0 for outcome in outcomes)
    print(f"  references accepted: {accepted} of {num_items}")
    print(
        f"  {num_items / seconds:.1f} items/s, {runner.num_programs / seconds:.0f} programs/s "
        f"({runner.num_programs} programs in {seconds:.2f} s); CPU an item: "
        f"judge {1e3 * judge_seconds / num_items:.2f} ms, programs {1e3 * runner.cpu_seconds / num_items:.2f} ms"
    )
    return outcomes


def compare_mutants(
    problems: Sequence[CodeProblem], kinds: Sequence[str], pool: ProgramPool
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the survivors of each kind of mutant, and the mutants on which the judge and the tests differ."""
    firsts = find_first_calls(problems, pool)
    survivors: dict[str, list[str]] = {}
    disagreements: list[str] = []
    for kind in kinds:
        programs = [build_mutant(problem, kind, first) for problem, first in zip(problems, firsts, strict=True)]
        items = [
            build_item(problem, f"```python\n{program}\n```")
            for problem, program in zip(problems, programs, strict=True)
        ]
        outcomes = CodeScorer(runner=pool).score(items)
        scripts = [build_script(problem, program) for problem, program in zip(problems, programs, strict=True)]
        results = pool.run([Program(script) for script in scripts])
        survivors[kind] = []
        for problem, outcome, result in zip(problems, outcomes, results, strict=True):
            if outcome.value == 1.0:
                survivors[kind].append(problem.name)
            if (outcome.value == 1.0) != (result.status == "ok"):
                disagreements.append(f"{kind} {problem.name}: {outcome.why}; as a script: {result.status} {result.why}")
    return survivors, disagreements


def describe_survivors(problems: Mapping[str, CodeProblem], survivors: Mapping[str, Sequence[str]]) -> None:
    """Print each survivor with the published tests that do not tell."""
    for kind, names in survivors.items():
        print(f"  {kind} ({MUTANTS[kind]}): {len(names)} of {len(problems)} survive")
        for name in names:
            tests = (
                problems[name].columns.get("test_list")
                or problems[name].columns["test"].split("def check", 1)[1].splitlines()
            )
            asserts = [line.strip()[:70] for line in tests if "assert" in line][:3]
            print(f"    {name} {problems[name].entry}: {asserts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("POSTTRAIN_DATA", "../shared/data")))
    parser.add_argument("--only", choices=tuple(SETS), help="one set of problems; both without it")
    parser.add_argument("--mutants", default=",".join(MUTANTS), help="kinds of mutants, by comma; empty for none")
    arguments = parser.parse_args()
    kinds = [kind for kind in arguments.mutants.split(",") if kind]
    with ProgramPool(limits=LIMITS) as pool:
        for name in [arguments.only] if arguments.only else SETS:
            problems = list(SETS[name](arguments.data))
            print(f"{name}: {len(problems)} problems, tests by kind: {dict(count_tests(problems))}")
            for problem, outcome in zip(problems, score_references(problems, pool), strict=True):
                if outcome.value != 1.0:
                    print(f"    {problem.name}: {outcome.status}, {outcome.why}")
            survivors, disagreements = compare_mutants(problems, kinds, pool)
            describe_survivors({problem.name: problem for problem in problems}, survivors)
            print(f"  judge and published tests differ on {len(disagreements)} of {len(kinds) * len(problems)} mutants")
            for text in disagreements:
                print(f"    {text}")


if __name__ == "__main__":
    main()
