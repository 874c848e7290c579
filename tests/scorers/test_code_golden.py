"""Public problems: every reference is right, and mutants are judged as the published tests judge them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.code_golden import LIMITS, build_item, compare_mutants
from benchmarks.code_problems import MUTANTS, CodeProblem, read_humaneval, read_mbpp
from posttrain.core.errors import SandboxError
from posttrain.sandbox.programs import Program, ProgramLimits
from posttrain.sandbox.running import ProgramPool
from posttrain.scorers.calling import score_async
from posttrain.scorers.code import CodeScorer
from posttrain.scorers.code_comparison import Comparison
from posttrain.scorers.code_tasks import read_task
from tests.scorers import code_items

pytestmark = pytest.mark.real_data

Read = Callable[[Path], Iterator[CodeProblem]]
SETS = {"humaneval": (read_humaneval, 164), "mbpp": (read_mbpp, 257)}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProgramPool]:
    """A real pool; skipped where the machine has no sandbox."""
    with ProgramPool(limits=LIMITS) as pool:
        try:
            pool.run([Program("")])
        except SandboxError as error:
            pytest.skip(f"no sandbox on this machine: {error.found}")
        yield pool


@pytest.mark.parametrize("name", SETS)
def test_every_reference_solution_is_accepted(name: str, real_data: Path, pool: ProgramPool) -> None:
    read, num_problems = SETS[name]
    items = [build_item(problem, problem.completion) for problem in read(real_data)]
    outcomes = CodeScorer(runner=pool).score(items)
    assert len(outcomes) == num_problems
    assert [outcome for outcome in outcomes if outcome.value != 1.0] == []


@pytest.mark.parametrize("name", SETS)
def test_a_mutant_survives_only_where_the_published_tests_cannot_tell(
    name: str, real_data: Path, pool: ProgramPool
) -> None:
    problems = list(SETS[name][0](real_data))[::5]
    survivors, disagreements = compare_mutants(problems, list(MUTANTS), pool)
    assert disagreements == []
    assert sum(map(len, survivors.values())) <= 0.02 * len(problems) * len(MUTANTS)


@pytest.mark.invariants  # tens of seconds
def test_the_published_bugs_of_humanevalpack_are_rejected_and_its_references_accepted(real_data: Path) -> None:
    lines = gzip.decompress((real_data / "code" / "humanevalpack_python.jsonl.gz").read_bytes()).splitlines()
    rows = [json.loads(line) for line in lines]
    items = []
    for kind in ("canonical_solution", "buggy_solution"):
        for row in rows:
            columns = {"entry_point": row["entry_point"], "test": row["test"], "code_prompt": row["prompt"]}
            items.append(code_items.build_item(columns, row[kind]))
    with ProgramPool(limits=ProgramLimits(cpu_seconds=1.0)) as pool:
        outcomes = CodeScorer(runner=pool).score(items)
    assert [outcome.value for outcome in outcomes] == [1.0] * 164 + [0.0] * 164
    assert {outcome.fault for outcome in outcomes} <= {None, "policy"}


def test_contest_problems_are_read_and_a_real_solution_is_told_from_a_wrong_one(
    real_data: Path, pool: ProgramPool
) -> None:
    rows = json.loads(gzip.decompress((real_data / "code" / "code_contests_test.json.gz").read_bytes()))
    tasks = [read_task(code_items.build_item({"tests": row["tests"]}, "")[0], Comparison()) for row in rows]
    assert [len(task.tests) for task in tasks] == [len(row["tests"]["inputs"]) for row in rows]
    right = (
        "n, m = map(int, input().split())\nrows = [input() for _ in range(n)]\n"
        "keys = [''.join(c if k % 2 == 0 else chr(155 - ord(c)) for k, c in enumerate(row)) for row in rows]\n"
        "print(*[i + 1 for i in sorted(range(n), key=keys.__getitem__)], sep=' ')\n"
    )
    for text, value in ((right, 1.0), (right.replace("% 2 == 0", "% 2 == 1"), 0.0)):
        assert code_items.score(pool, {"tests": rows[0]["tests"]}, text).value == value


def test_threads_and_an_event_loop_share_one_pool(real_data: Path, pool: ProgramPool) -> None:
    items = [build_item(problem, problem.completion) for problem in list(read_humaneval(real_data))[:24]]
    scorer = CodeScorer(runner=pool)
    expected = scorer.score(items)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scorer.score, [items] * 4)) == [expected] * 4
    assert asyncio.run(score_async(scorer, items)) == expected
