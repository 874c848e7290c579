"""Several ranks draw a step's completions together and train on them what one process would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.pipeline.grpo_ranks import run_on_rank, write_recipe
from tests.pipeline.test_grpo import OWN, rl
from tests.pipeline.tiny_runs import Workshop, make_base
from tests.training.rank_jobs import run_ranks

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
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path / "workshop", make_base(tmp_path / "base"))
    (made.folder / "own.py").write_text(OWN)
    (made.folder / "faulty.py").write_text(FAULTY)
    monkeypatch.chdir(made.folder)
    return made


def run_all(workshop: Workshop, values: dict[str, Any], count: int, name: str, **arguments: Any) -> list[str]:
    return run_ranks(run_on_rank, count, recipe=write_recipe(workshop.folder, values, name), **arguments)


def run(workshop: Workshop, values: dict[str, Any], count: int, name: str) -> tuple[dict[str, Any], list[dict]]:
    """The trained weights and the logged figures of a run that ended well on every rank."""
    assert run_all(workshop, values, count, name) == [""] * count
    folder = workshop.folder / "runs" / name
    (lines,) = (folder / "stages").glob("*/metrics.jsonl")
    record = json.loads((folder / "run.json").read_text())
    (weights,) = (folder / "artifacts" / record["stages"][0]["outputs"]["policy"]).rglob("*model.safetensors")
    return load_file(weights), [json.loads(line) for line in lines.read_text().splitlines()]


def assert_same(ours: tuple[dict[str, Any], list[dict]], theirs: tuple[dict[str, Any], list[dict]]) -> None:
    assert ours[0].keys() == theirs[0].keys()
    assert max(float((ours[0][name] - theirs[0][name]).abs().max()) for name in ours[0]) < 1e-6
    timed = ("tokens_per_second", "step_seconds", "memory/peak_bytes")
    for line, other in zip(ours[1], theirs[1], strict=True):
        assert line.keys() == other.keys()
        for key in set(line) - {key for key in line if any(part in key for part in ("second", "memory", "peak"))}:
            assert line[key] == pytest.approx(other[key], abs=2e-6, rel=1e-4), (key, timed)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.invariants)])
def test_ranks_take_the_steps_of_one_process_on_the_same_completions(workshop: Workshop, count: int) -> None:
    values = rl(steps=2, algorithm="dapo", minibatches=2, problems_per_step=5, **PROPORTIONAL)
    assert_same(run(workshop, values, count, "shared"), run(workshop, values, 1, "alone"))
