"""The examples are carried out as they stand: a stage, a callback and a scorer of a user's own."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from posttrain.core.errors import RefusedError
from posttrain.core.records import RenderedSample
from posttrain.models.manifest import find_differences
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NOT_ALWAYS = {"best", "gates", "snapshots", "superseded", "traceback.txt"}


def load(name: str) -> ModuleType:
    """Import an example by its file."""
    spec = importlib.util.spec_from_file_location(f"posttrain_plugin_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_documented_files() -> list[str]:
    """Return the paths that docs/training.md lists in a run folder."""
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"^    runs/<name>/\n((?:      .*\n)+)", text, re.MULTILINE)
    found, stage = [], ""
    for line in listing.splitlines():
        name = line.split()[0]
        if name.startswith("stages/"):
            stage = name
        elif name.startswith("artifacts/"):
            found.append("artifacts/keys")
        elif "<" in name:
            found.append(name.split("/")[0])
        else:
            found.append(f"{stage}{name}" if line.startswith("        ") else name)
    return [path for path in found if path.rstrip("/").split("/")[-1] not in NOT_ALWAYS]


@pytest.mark.invariants
def test_the_example_recipe_runs_as_it_stands_and_leaves_what_the_documents_list(tmp_path: Path) -> None:
    folder = run_recipe(read_recipe(EXAMPLES / "own_parts.yaml", folder=tmp_path / "run"))
    record = json.loads((folder / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["finished", "finished"]
    assert [m["name"] for m in record["metrics"] if m["name"] != "stop_rate"] == ["contains_answer"] * 3
    assert (folder / "stages" / "01-sft" / "saved.txt").read_text().startswith("10 ")
    lines = [json.loads(line) for line in (folder / "stages" / "02-even" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    losses = [line["loss"] for line in lines]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert find_differences(folder / "artifacts" / record["stages"][1]["outputs"]["policy"]) == []
    documented = read_documented_files()
    assert len(documented) >= 11
    assert [path for path in documented if not (folder / path).exists()] == []


def test_the_example_callback_refuses_a_loss_that_runs_away(tmp_path: Path) -> None:
    recipe = read_recipe(EXAMPLES / "own_parts.yaml", ["sft.learning_rate=5", "evaluate=[]"], folder=tmp_path / "run")
    with pytest.raises(RefusedError, match="it had been"):
        run_recipe(recipe)
    guard = load("loss_guard").LossGuard()
    for step, loss in enumerate((2.0, 5.9, 1.0)):
        guard.on_step(step, {"loss": loss}, None)
    with pytest.raises(RefusedError, match="after step 3; it had been 1"):
        guard.on_step(3, {"loss": 3.1}, None)


def test_the_example_scorer_finds_the_answer_and_has_no_verdict_without_one() -> None:
    score = load("contains_answer").contains_answer
    assert score([], ["it is 42.", "no idea", "x"], [], answer=[42, "42", None], level=[1, 1, 1]) == [1.0, 0.0, None]


def test_the_example_stage_takes_the_mean_over_a_rows_trained_tokens() -> None:
    """Two tokens are trained on; the model gives them probabilities 1/2 and 1/4 whatever came before."""
    logits = torch.log(torch.tensor([0.25, 0.5, 0.25])).repeat(1, 4, 1)
    sample = RenderedSample(
        np.array([0, 0, 1, 2], np.int32), np.zeros(4, np.uint8), np.array([False, False, True, True])
    )
    loss = load("sequence_mean").compute_row_loss(lambda input_ids: SimpleNamespace(logits=logits), sample, "cpu")
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)
