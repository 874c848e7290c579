"""The recipe for GSM8K on the tiny real model: real rows, the real verifier, a few steps."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "gsm8k_grpo.yaml"
COLUMNS = "columns: {prompt: question, completion: answer}"
VOWELS = """\
def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text) / 48 for text in completions]
"""


@pytest.mark.real_data
@pytest.mark.invariants
@pytest.mark.parametrize("scorer", ["math", "vowels"])
def test_the_recipe_runs_on_a_small_real_model(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorer: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(gzip.decompress((real_data / "math" / "gsm8k_train.jsonl.gz").read_bytes()))
    (tmp_path / "own.py").write_text(VOWELS)
    shutil.copytree(real_data / "tiny-llama-stories260k" / "hf", tmp_path / "model")
    shutil.copy(RECIPE, tmp_path / "recipe.yaml")
    changes = [
        "model=model",
        f"evaluate.gsm8k.data={{source: rows.jsonl, rows: 20, {COLUMNS}}}",
        f"evaluate.gsm8k.development={{source: rows.jsonl, skip: 200, rows: 20, {COLUMNS}}}",
        f"rl.data=[{{source: rows.jsonl, skip: 400, rows: 100, {COLUMNS}}}]",
        "evaluate.gsm8k.max_new_tokens=48",
        "rl.gate=null",
        "rl.steps=3",
        "rl.problems_per_step=4",
        "rl.max_new_tokens=48",
        "rl.overlong_buffer=null",
        "rl.learning_rate=1e-3",
        *(["rl.scorer=own.py:vowels"] if scorer == "vowels" else []),
    ]
    ignored = ["rl:length_caps", "rl:rollouts", "evaluate.gsm8k:length_caps"]
    folder = run_recipe(read_recipe(tmp_path / "recipe.yaml", changes), override=ignored)
    (path,) = folder.glob("stages/*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["rollouts/waves"] for line in lines] == ([3, 3, 3] if scorer == "math" else [1, 1, 1])
    if scorer == "math":  # it solves nothing, so nothing is informative and nothing is learned
        assert all(line["informative_fraction"] == 0 and line["grad_norm"] == 0 for line in lines)
    else:
        assert lines[-1]["reward"] > lines[0]["reward"] and all(line["grad_norm"] > 0 for line in lines)
