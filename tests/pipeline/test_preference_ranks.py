"""Several ranks train on the pairs of a step what one process would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.pipeline.grpo_ranks import run_on_rank, write_recipe
from tests.pipeline.preference_runs import LORA, dpo, make_pair_workshop
from tests.pipeline.tiny_runs import Workshop, drop_times, recipe_values
from tests.training.rank_jobs import run_ranks

pytestmark = pytest.mark.invariants

PROPORTIONAL = {"learning_rate": 0.5, "epsilon": 1.0, "max_grad_norm": None}
"""With a large epsilon an update is in proportion to the gradient, so that weights say what the gradients were."""


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.chdir(tmp_path)
    return make_pair_workshop(tmp_path, tiny_base)


def run(workshop: Workshop, values: dict[str, Any], count: int, name: str) -> tuple[dict[str, Any], list[dict]]:
    recipe = write_recipe(workshop.folder, values, name)
    assert run_ranks(run_on_rank, count, recipe=recipe, override=()) == [""] * count
    folder = workshop.folder / "runs" / name
    (lines,) = (folder / "stages").glob("*/metrics.jsonl")
    record = json.loads((folder / "run.json").read_text())
    made = folder / "artifacts" / record["stages"][0]["outputs"]["policy"]
    weights = {
        f"{path.name} {key}": tensor for path in made.rglob("*.safetensors") for key, tensor in load_file(path).items()
    }
    return weights, [drop_times(json.loads(line)) for line in lines.read_text().splitlines()]


VALIDATED = {"validation": [{"source": "held_pairs.jsonl"}], "validate_every_steps": 2}


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (2, {}),
        (4, {"batch_size": 5, **VALIDATED}),
        (2, {"adapter": LORA}),
        (2, {"batch_size": 1, "algorithm": "orpo", "beta": None}),
        (2, {"packing": "off", "micro_batch_tokens": 100, "algorithm": "dpo_nll"}),
    ],
    ids=str,
)
def test_ranks_take_the_steps_of_one_process(workshop: Workshop, count: int, changes: dict[str, Any]) -> None:
    values = recipe_values(dpo(**{**PROPORTIONAL, **changes}))
    ours, theirs = run(workshop, values, count, "shared"), run(workshop, values, 1, "alone")
    assert ours[0].keys() == theirs[0].keys()
    assert max(float((ours[0][name] - theirs[0][name]).abs().max()) for name in ours[0]) < 1e-6
    for line, other in zip(ours[1], theirs[1], strict=True):
        assert line.keys() == other.keys()
        for key in line:
            assert line[key] == pytest.approx(other[key], abs=2e-5, rel=1e-4), key
