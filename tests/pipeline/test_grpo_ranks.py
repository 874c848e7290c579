"""Several ranks draw a step's completions together and train on them what one process would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.pipeline.grpo_ranks import run_on_rank, write_recipe
from tests.pipeline.grpo_runs import make_workshop, rl
from tests.pipeline.tiny_runs import Workshop
from tests.training.rank_jobs import run_ranks

pytestmark = pytest.mark.invariants

PROPORTIONAL = {"learning_rate": 0.5, "epsilon": 1.0, "max_grad_norm": None}
"""With a large epsilon an update is in proportion to the gradient, so that weights say what the gradients were."""

FAULTY = """\
import os


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def broken_on_the_second(completions, **columns):
    if os.environ.get("RANK") == "1":
        raise OSError("the disk is away")
    return [float(len(text)) for text in completions]
"""


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, tiny_base, monkeypatch, faulty=FAULTY)


def run_all(workshop: Workshop, values: dict[str, Any], count: int, name: str, **arguments: Any) -> list[str]:
    return run_ranks(run_on_rank, count, recipe=write_recipe(workshop.folder, values, name), **arguments)


def run(workshop: Workshop, values: dict[str, Any], count: int, name: str) -> tuple[dict[str, Any], list[dict]]:
    """The trained weights and the logged figures of a run that ended well on every rank."""
    assert run_all(workshop, values, count, name) == [""] * count
    folder = workshop.folder / "runs" / name
    (lines,) = (folder / "stages").glob("*/metrics.jsonl")
    record = json.loads((folder / "run.json").read_text())
    made = folder / "artifacts" / record["stages"][0]["outputs"]["policy"]
    weights = {
        f"{path.name} {key}": tensor for path in made.rglob("*.safetensors") for key, tensor in load_file(path).items()
    }
    return weights, [json.loads(line) for line in lines.read_text().splitlines()]


def assert_same(ours: tuple[dict[str, Any], list[dict]], theirs: tuple[dict[str, Any], list[dict]]) -> None:
    assert ours[0].keys() == theirs[0].keys()
    assert max(float((ours[0][name] - theirs[0][name]).abs().max()) for name in ours[0]) < 1e-6
    for line, other in zip(ours[1], theirs[1], strict=True):
        assert line.keys() == other.keys()
        for key in set(line) - {key for key in line if any(part in key for part in ("second", "memory", "peak"))}:
            assert line[key] == pytest.approx(other[key], abs=2e-6, rel=1e-4), key


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_take_the_steps_of_one_process_on_the_same_completions(workshop: Workshop, count: int) -> None:
    values = rl(steps=2, algorithm="dapo", minibatches=2, problems_per_step=5, **PROPORTIONAL)
    assert_same(run(workshop, values, count, "shared"), run(workshop, values, 1, "alone"))


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "grpo", "adapter": {"rank": 2}},
        {"algorithm": "reinforce_pp", "epochs_per_step": 2, "steps": 1, "kl_coefficient": 0.5},
        {"algorithm": "gspo", "temperature": 1.5},
        {"problems_per_step": 1, "steps": 1},
        {"scorer": "own.py:even", "max_waves": 4, "algorithm": "dapo", "group_size": 2},
        {"scorer": "own.py:even", "max_waves": 1, "algorithm": "rloo", "group_size": 2, "packing": "off"},
    ],
    ids=str,
)
def test_members_adapters_references_and_few_problems_are_the_same_on_two_ranks(
    workshop: Workshop, changes: dict[str, Any]
) -> None:
    with (workshop.folder / "own.py").open("a") as file:
        file.write("\n\ndef even(completions, **columns):\n    return [float(len(t) % 2) for t in completions]\n")
    values = rl(**{"steps": 2, "problems_per_step": 3, **PROPORTIONAL, **changes})
    assert_same(run(workshop, values, 2, "shared"), run(workshop, values, 1, "alone"))


def test_zero_steps_on_two_ranks_pass_the_policy_on(workshop: Workshop) -> None:
    assert run_all(workshop, rl(steps=0), 2, "none", override=("length_caps", "rollouts")) == ["", ""]
    record = json.loads((workshop.folder / "runs" / "none" / "run.json").read_text())
    (weights,) = (workshop.folder / "runs/none/artifacts" / record["stages"][0]["outputs"]["policy"]).rglob(
        "*.safetensors"
    )
    started = load_file(workshop.folder / "base" / "model.safetensors")
    assert all(tensor.equal(started[name]) for name, tensor in load_file(weights).items())


def test_two_ranks_that_are_stopped_between_two_updates_of_a_step_end_as_two_that_were_not(workshop: Workshop) -> None:
    values = rl(steps=2, minibatches=2, **PROPORTIONAL)
    whole, lines = run(workshop, values, 2, "whole")
    stopped = run_all(workshop, values, 2, "stopped", stop_after=2)  # asked once before the stage begins
    assert all("stopped as asked after step 1 of 4" in found for found in stopped), stopped
    folder = next((workshop.folder / "runs" / "stopped" / "stages").glob("*/rollouts"))
    assert sorted(path.name for path in folder.iterdir()) == ["rank-0-of-2", "rank-1-of-2"]
    shutil.copytree(workshop.folder / "runs" / "stopped", workshop.folder / "runs" / "by one")
    resumed, again = run(workshop, values, 2, "stopped")
    assert all(resumed[name].equal(whole[name]) for name in whole)
    assert [line["reward"] for line in again] == [line["reward"] for line in lines]
    assert not list(folder.rglob("*.rollouts"))
    assert_same(run(workshop, values, 1, "by one"), (whole, lines))  # one process goes on with what two have drawn


def test_a_scorer_that_fails_on_one_rank_stops_both_with_its_reason(workshop: Workshop) -> None:
    values = rl(scorer="faulty.py:broken_on_the_second", steps=1)
    found = run_all(workshop, values, 2, "faulty", override=("length_caps", "rollouts"))
    assert found[0] == found[1] and "the disk is away" in found[0]
    assert "the scorer failed on 8 of 16 completions" in found[0]
