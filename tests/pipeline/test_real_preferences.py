"""The recipes for published preferences on the tiny real model: PandaLM's and hh-rlhf's rows as published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from tests.pipeline.reward_runs import read_report
from tests.pipeline.tiny_runs import Finished

RECIPES = Path(__file__).parents[2] / "recipes"
PANDALM, HH = "preference/pandalm_testset_v1.json", "preference/hh_harmless_base_test.jsonl.gz"
FIRST = 240
"""In PandaLM's 40 rows behind this one annotators see 11 ties."""
SPLIT = 703
"""No prompt of PandaLM stands before this row and behind it."""

pytestmark = pytest.mark.real_data


def take_few(real_data: Path, folder: Path, recipe: str, stage: str, path: str) -> list[str]:
    """Lay a shipped recipe and the model into a folder; return what makes it small: few rows, few steps."""
    shutil.copytree(real_data / "tiny-llama-stories260k" / "hf", folder / "model")
    shutil.copy(RECIPES / recipe, folder / "recipe.yaml")
    source = {"source": str(real_data / path), "max_bad_fraction": 0.2}
    values: dict[str, Any] = {
        "data": [{**source, "skip": FIRST, "rows": 40}],
        "validation": [{**source, "skip": SPLIT, "rows": 24}],
        "max_length": 384,
        "epochs": None,
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-4,
        "warmup_fraction": 0,
        "validate_every_steps": 4,
        "log_every_steps": 1,
        "dtype": "float32",
    }
    return ["model=model", "chat.template=plain", *(f"{stage}.{key}={json.dumps(values[key])}" for key in values)]


def run(folder: Path, changes: list[str]) -> Finished:
    recipe = read_recipe(folder / "recipe.yaml", changes, folder=folder / "run")
    return Finished(recipe, RunFolder(run_recipe(recipe)))


@pytest.mark.parametrize("kind", ["preference", pytest.param("kto", marks=pytest.mark.invariants)])
def test_pandalm_is_learned_from_by_pairs_and_by_labels(real_data: Path, tmp_path: Path, kind: str) -> None:
    """Rewards begin at 0, whatever the file says; rows that are ties or too long are accounted for."""
    changes = take_few(real_data, tmp_path, "ultrafeedback_dpo.yaml", "dpo", PANDALM)
    if kind == "kto":
        text = (tmp_path / "recipe.yaml").read_text().replace("    algorithm: dpo\n", "")
        (tmp_path / "recipe.yaml").write_text(text.replace("type: preference", "type: kto"))
    done = run(tmp_path, changes)
    lines, ledger = done.lines(), json.loads(done.stage().ledger.read_text())
    assert lines[0]["validation/loss"] == pytest.approx(0.6931472 if kind == "preference" else 0.5, abs=1e-4)
    assert lines[-1]["validation/rewards/margins"] != 0
    margins = [line["rewards/margins"] for line in lines if "rewards/margins" in line]
    assert abs(margins[0]) < 1e-4 < abs(margins[-1])
    assert all(line["grad_norm"] > 0 for line in lines if "grad_norm" in line)
    dropped = {reason: entry["rows"] for reason, entry in ledger["dropped"].items()}
    pairs_as_rows = 2 if kind == "kto" else 1
    assert dropped["tie"] == 11 and dropped["too many tokens"] > 0
    assert ledger["rows_in"] == ledger["rows_trained"] + sum(dropped.values()) == 11 + 29 * pairs_as_rows


@pytest.mark.invariants
@pytest.mark.parametrize("path", [PANDALM, HH])
def test_a_reward_model_is_made_of_published_pairs(real_data: Path, tmp_path: Path, path: str) -> None:
    done = run(tmp_path, take_few(real_data, tmp_path, "hh_reward_model.yaml", "rm", path))
    report = read_report(done)
    assert report["rows_are"] == "validation" and 5 < report["pairs"] <= 24
    assert report["accuracy"]["low"] <= report["accuracy"]["value"] <= report["accuracy"]["high"]
    assert sum("loss" in line for line in done.lines()) == 4
