"""GRPO runs that are killed while sampling, scoring, writing down, updating and saving: they end as if left alone.

The few kills here are part of the long invariants; `make soak` kills twenty times in each of three kinds of runs.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import EXIT_OK
from posttrain.core.run_folder import RunFolder
from tests.pipeline.tiny_runs import Finished, Workshop, make_base
from tests.soak.processes import PATIENCE_SECONDS, Driver
from tests.soak.test_kills import check_leftovers, finish

SCORER = """\
import time


def vowels(completions, **columns):
    time.sleep(0.002)
    return [float(sum(text.lower().count(letter) for letter in "aeiou") > 0) for text in completions]
"""
LET_THROUGH = ("--override", "length_caps", "--override", "rollouts")
MOST = {"sampling": 150, "scoring": 16, "journal": 16, "update": 8, "save": 25}
"""Of a run's events of each phase, roughly how many there are: one is drawn from 1 to here."""
KINDS: dict[str, dict[str, Any]] = {
    "waves of problems and several updates": {
        "algorithm": "dapo",
        "minibatches": 2,
        "epochs_per_step": 2,
        "max_waves": 3,
        "checkpoint_every_steps": 2,
        "log_every_steps": 3,
    },
    "a reference, and updates between checkpoints": {
        "minibatches": 2,
        "epochs_per_step": 2,
        "checkpoint_every_steps": 3,
        "log_every_steps": 1,
    },
    "adapters and a checkpoint after every update": {
        "algorithm": "rloo",
        "adapter": {"rank": 2, "dropout": 0.1},
        "minibatches": 2,
        "checkpoint_every_steps": 1,
        "log_every_steps": 2,
    },
}


def grpo(**changes: Any) -> dict[str, Any]:
    """A stage of four steps with four problems and four completions of each."""
    return {
        "name": "rl",
        "type": "grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": "own.py:vowels",
        "steps": 4,
        "problems_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 6,
        "learning_rate": 3e-3,
        "dtype": "float32",
        **changes,
    }


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as started:
        yield started


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = Workshop(tmp_path / "workshop", make_base(tmp_path / "made"))
    (made.folder / "own.py").write_text(SCORER)
    return made


def content(done: Finished) -> dict[str, Any]:
    """Everything that two runs of one recipe must share: weights, every figure that was logged, ledger."""
    assert done.record["stages"][0]["status"] == "finished"
    return {"policies": done.hashes, "lines": done.lines(), "ledger": done.stage().ledger.read_text()}


def kill_in_phases(driver: Driver, workshop: Workshop, kind: str, plan: list[str], seed: int) -> None:
    """Kill a run in each phase of a plan, at a random event of it, then let it end; compare it with one left alone.

    Args:
        driver: Starts the runs.
        workshop: Where.
        kind: One of `KINDS`.
        plan: Names of phases; `moment` is any moment of the run.
        seed: Draws the order of the plan, and the events.
    """
    recipe = workshop.write(grpo(**KINDS[kind]))
    began = time.monotonic()
    whole = content(finish(driver, recipe, workshop.folder / "whole", *LET_THROUGH))
    duration = time.monotonic() - began
    draw = random.Random(seed)
    draw.shuffle(plan)
    into, killed, num_ended = workshop.folder / "run", Counter[str](), 0
    while plan:
        phase = plan[0]
        halt = draw.randrange(1, MOST[phase] + 1) if phase in MOST else 0
        driver.start(
            "run",
            recipe,
            "--folder",
            into,
            *LET_THROUGH,
            folder=workshop.folder,
            halt=halt,
            phase=phase if halt else "save",
        )
        if halt:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (workshop.folder / "halted").exists() and not driver.has_ended():
                assert time.monotonic() < deadline, (workshop.folder / "log").read_text()[-3000:]
                time.sleep(0.005)
        else:
            time.sleep(draw.uniform(0.0, duration))
        code = driver.kill()
        if code == -signal.SIGKILL:
            killed[plan.pop(0)] += 1
            continue
        # It ended before it could be killed: begin again, so that there is something to kill.
        assert code == EXIT_OK and num_ended < 60, (workshop.folder / "log").read_text()[-3000:]
        num_ended += 1
        into.rename(workshop.folder / f"ended-{num_ended}")
    done = finish(driver, recipe, into, *LET_THROUGH)
    assert content(done) == whole
    assert not list(done.folder.root.rglob("*.rollouts"))
    check_leftovers(finish(driver, recipe, into, *LET_THROUGH))
    for ended in workshop.folder.glob("ended-*"):
        assert content(Finished(done.recipe, RunFolder(ended))) == whole
    print(f"{kind}: killed {dict(killed)}, {num_ended} runs ended before")


@pytest.mark.invariants
def test_a_grpo_run_that_is_killed_while_sampling_scoring_and_saving_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop
) -> None:
    kill_in_phases(driver, workshop, "waves of problems and several updates", ["sampling", "scoring", "save"], seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_grpo_run_that_is_killed_twenty_times_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop, kind: str
) -> None:
    plan = ["sampling"] * 5 + ["scoring"] * 4 + ["journal"] * 3 + ["update"] * 2 + ["save"] * 4 + ["moment"] * 2
    kill_in_phases(driver, workshop, kind, plan, seed=len(kind))
