"""GRPO runs that are killed while sampling, scoring, writing down, updating and saving: they end as if left alone.

The few kills here are part of the long invariants; `make soak` kills twenty times in each of three kinds of runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.tiny_runs import Finished, Workshop, make_base
from tests.soak.killing import Kills, kill_in_phases
from tests.soak.processes import Driver

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


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = Workshop(tmp_path / "workshop", make_base(tmp_path / "made"))
    (made.folder / "own.py").write_text(SCORER)
    return made


def content(done: Finished) -> dict[str, Any]:
    """Everything that two runs of one recipe must share: weights, every figure that was logged, ledger."""
    assert done.record["stages"][0]["status"] == "finished"
    return {"policies": done.hashes, "lines": done.lines(), "ledger": done.stage().ledger.read_text()}


def kill(driver: Driver, workshop: Workshop, kind: str, plan: list[str], seed: int) -> None:
    """Kill a run of a kind as a plan says, and check that no rollouts are left behind."""
    recipe = workshop.write(grpo(**KINDS[kind]))
    killed = kill_in_phases(driver, workshop, recipe, Kills(MOST, content, LET_THROUGH), plan, seed)
    assert not list((workshop.folder / "run").rglob("*.rollouts"))
    print(f"{kind}: killed {dict(killed)}")


@pytest.mark.invariants
def test_a_grpo_run_that_is_killed_while_sampling_scoring_and_saving_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop
) -> None:
    kill(driver, workshop, "waves of problems and several updates", ["sampling", "scoring", "save"], seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_grpo_run_that_is_killed_twenty_times_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop, kind: str
) -> None:
    plan = ["sampling"] * 5 + ["scoring"] * 4 + ["journal"] * 3 + ["update"] * 2 + ["save"] * 4 + ["moment"] * 2
    kill(driver, workshop, kind, plan, seed=len(kind))
