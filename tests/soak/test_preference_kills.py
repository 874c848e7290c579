"""Runs of preference, KTO and reward-model stages that are killed anywhere: they end as if left alone.

The few kills here are part of the long invariants; `make soak` kills a dozen times in each kind of run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.kto_runs import labelled, make_labelled_workshop
from tests.pipeline.preference_runs import dpo
from tests.pipeline.reward_runs import rm, write_reward_rows
from tests.pipeline.tiny_runs import Finished, Workshop, make_base
from tests.soak.killing import Kills, kill_in_phases
from tests.soak.processes import Driver

SMALL = {"micro_batch_tokens": 160, "validate_every_steps": 3}
HELD_PAIRS = {"validation": [{"source": "held_pairs.jsonl"}], **SMALL}
HELD_LABELLED = {"validation": [{"source": "held_labelled.jsonl"}], **SMALL}
KINDS: dict[str, dict[str, Any]] = {
    "DPO that keeps its best weights": dpo(steps=7, **HELD_PAIRS, keep="best_validation_loss", log_every_steps=3),
    "IPO with adapters": dpo(
        steps=6, algorithm="ipo", adapter={"rank": 2, "dropout": 0.1}, micro_batch_tokens=160, checkpoint_every_steps=1
    ),
    "KTO": labelled(steps=7, **HELD_LABELLED, log_every_steps=3),
    "BCO": labelled(steps=7, loss="bco", **HELD_LABELLED, checkpoint_every_steps=3, log_every_steps=2),
    "a reward model": rm(steps=7, validate_every_steps=3, micro_batch_tokens=160),
    "three reward models": rm(steps=5, members=3, resample=True, log_every_steps=2, checkpoint_every_steps=2),
}
WITH_REFERENCE = ["reference"] * 4 + ["update"] * 2 + ["save"] * 2 + ["publish"] * 2 + ["moment"] * 2
PLANS = {
    "a reward model": ["update"] * 3 + ["save"] * 3 + ["publish"] * 3 + ["moment"] * 3,
    "three reward models": ["member"] * 4 + ["update"] * 2 + ["save"] * 2 + ["publish"] * 2 + ["moment"] * 2,
}
MOST = {"reference": 8, "update": 7, "save": 12, "publish": 10, "member": 9}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = make_labelled_workshop(tmp_path / "workshop", make_base(tmp_path / "made"))
    write_reward_rows(made.folder)
    return made


def content(done: Finished) -> dict[str, Any]:
    """Everything that two runs of one recipe must share: artifacts, every figure that was logged, ledger, report."""
    (stage,) = done.record["stages"]
    assert stage["status"] == "finished"
    folder = done.stage()
    reports = [path.read_text() for path in sorted(done.folder.artifacts.glob("*/validation.json"))]
    return {
        "outputs": stage["outputs"],
        "metrics": done.record["metrics"],
        "lines": done.lines(),
        "ledger": folder.ledger.read_text(),
        "reports": reports,
    }


def kill(driver: Driver, workshop: Workshop, kind: str, plan: list[str]) -> None:
    recipe = workshop.write(KINDS[kind])
    killed = kill_in_phases(driver, workshop, recipe, Kills(MOST, content), plan, seed=len(kind))
    print(f"{kind}: killed {dict(killed)}")


@pytest.mark.invariants
@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("DPO that keeps its best weights", ["reference", "save", "publish"]),
        ("KTO", ["reference", "update", "publish"]),
        ("three reward models", ["member", "save", "publish"]),
    ],
)
def test_a_run_that_is_killed_in_each_phase_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop, kind: str, plan: list[str]
) -> None:
    kill(driver, workshop, kind, plan)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_twelve_times_ends_as_one_that_was_left_alone(
    driver: Driver, workshop: Workshop, kind: str
) -> None:
    kill(driver, workshop, kind, PLANS.get(kind, WITH_REFERENCE))
