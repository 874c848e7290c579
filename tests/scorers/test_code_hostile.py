"""Programs that try to be accepted without being right, through the real sandbox, and odd ones that are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import SandboxError
from posttrain.core.records import Outcome
from posttrain.sandbox.programs import Program, ProgramLimits
from posttrain.sandbox.running import ProgramPool
from posttrain.scorers.code import CodeScorer
from tests.scorers.code_items import build_item, columns_of
from tests.scorers.hostile_programs import CASES

FILE = Path(__file__).parent / "cases" / "hostile_cases.jsonl"
FILED: list[dict[str, Any]] = [
    case for line in FILE.read_text(encoding="utf-8").splitlines() if (case := json.loads(line))["kind"] == "code"
]
ITEMS = {case["id"]: build_item(columns_of(case["task"]), case["payload"]) for case in FILED}
ITEMS |= {name: build_item(columns, text) for name, columns, text, _ in CASES}
IS_ACCEPTED = {case["id"]: case["expected"] == "accept" for case in FILED}
IS_ACCEPTED |= {name: is_accepted for name, _, _, is_accepted in CASES}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProgramPool]:
    """A real pool, with limits that end a hang soon; skipped where the machine has no sandbox."""
    with ProgramPool(limits=ProgramLimits(cpu_seconds=0.5, wall_seconds=2.0)) as pool:
        try:
            pool.run([Program("")])
        except SandboxError as error:
            pytest.skip(f"no sandbox on this machine: {error.found}")
        yield pool


@pytest.fixture(scope="module")
def outcomes(pool: ProgramPool) -> dict[str, Outcome]:
    """What every case is worth, all scored together."""
    return dict(zip(ITEMS, CodeScorer(runner=pool).score(list(ITEMS.values())), strict=True))


def test_every_case_has_a_name_of_its_own() -> None:
    assert len(FILED) == 34
    assert len(ITEMS) == len(FILED) + len(CASES)


@pytest.mark.parametrize("name", ITEMS)
def test_a_program_is_accepted_where_it_is_right_and_only_there(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.fault != "harness", outcome
    assert (outcome.value == 1.0) is IS_ACCEPTED[name], outcome
    assert outcome.value in (0.0, 1.0)
    assert outcome.why


@pytest.mark.parametrize("name", ["code-ok-plain", "code-state-between", "wrong in a loop", "right in a loop"])
def test_an_outcome_is_the_same_every_time(name: str, pool: ProgramPool, outcomes: dict[str, Outcome]) -> None:
    assert CodeScorer(runner=pool).score([ITEMS[name]] * 3) == [outcomes[name]] * 3


@pytest.mark.parametrize("scoring", ["all", "fraction"])
def test_answers_by_the_order_of_calls_win_nothing_for_any_seed(scoring: str, pool: ProgramPool) -> None:
    columns = {"entry": "f", "tests": [[[n], n % 3] for n in range(6)]}
    text = "calls = []\ndef f(n):\n    calls.append(n)\n    return [0, 1, 2, 0, 1, 2][len(calls) - 1]"
    items = [build_item(columns, text, seed=seed) for seed in range(8)]
    outcomes = CodeScorer(runner=pool, scoring=scoring).score(items)  # type: ignore[arg-type]
    assert {outcome.value for outcome in outcomes} == {0.0 if scoring == "all" else 2 / 6}
