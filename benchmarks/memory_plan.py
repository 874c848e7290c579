"""How well the plan's memory estimate meets the measured peak: stages x model shapes x adapter x dtype x checkpointing.

    .venv/bin/python -m benchmarks.memory_plan
    .venv/bin/python -m benchmarks.memory_plan --stages preference kto reward_model grpo --models 4m

Each setting is planned and run in processes of their own; the measured figure is the peak resident memory that the
run's last step logged. Models and rows are those of `benchmarks.models`; pairs are a question with its own answer and
the next question's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.models import BATCH_SIZES, LEARNING_RATE, MAX_LENGTH
from benchmarks.rows import read_rows

STEPS = {"4m": 12, "135m": 3}
OF_PAIRS = ("preference", "kto", "reward_model")
OVERRIDES = ("length_caps", "rollouts", "step_zero")
"""A policy of random weights rarely stops, and says nothing that a check could find right."""


def describe_stage(stage: str, model: str) -> dict[str, Any]:
    """Return the keys of a stage that trains for a few steps on full-length rows."""
    steps, batch_size = STEPS[model], BATCH_SIZES[model]
    own: dict[str, Any] = {"name": stage, "type": stage, "steps": steps, "log_every_steps": 1}
    if stage == "grpo":
        return {
            **own,
            "steps": 2,
            "data": [{"source": "rows.jsonl", "rows": 64}],
            "scorer": {"type": "length", "low": 20, "high": 40, "slope": 20, "unit": "words"},
            "problems_per_step": batch_size // 2,
            "group_size": 8,
            "max_new_tokens": 128,
        }
    rows = {"max_length": MAX_LENGTH, "max_affected_fraction": 1.0, "batch_size": batch_size}
    if stage in OF_PAIRS:
        return {**own, **rows, "steps": 3, "data": [{"source": "pairs.jsonl"}], "truncation": "drop"}
    data = [{"source": "rows.jsonl", "rows": batch_size * steps * 4}]
    return {**own, **rows, "data": data, "truncation": "cut_completion", "learning_rate": LEARNING_RATE}


def write_pairs(folder: Path, count: int) -> None:
    """Write pairs of each question's own answer and the next one's."""
    rows = read_rows(folder / "rows.jsonl", count + 1)
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in itertools.pairwise(rows)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def write_recipe(folder: Path, stage: str, model: str, **settings: Any) -> Path:
    """Write the recipe of one setting beside the models and rows."""
    stages = [{**describe_stage(stage, model), **settings}]
    recipe = {"schema": 1, "name": "memory", "seed": 17, "model": f"./{model}", "stages": stages}
    path = folder / "memory.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def measure(folder: Path, stage: str, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the planned and the measured peak of one setting, in bytes."""
    recipe = write_recipe(folder, stage, model, **settings)
    work = folder / "memory-run"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-m", "posttrain.cli.main"]
    options = [str(recipe), "--folder", str(work), "--json"]
    plan = subprocess.run([*command, "plan", *options], check=True, capture_output=True, text=True)
    allowed = [part for name in OVERRIDES for part in ("--override", name)]
    subprocess.run([*command, "run", *options, *allowed], check=True, capture_output=True, text=True)
    lines = [line for path in (work / "stages").rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    measured = max(json.loads(line).get("time/peak_memory_bytes", 0) for line in lines)
    planned = json.loads(plan.stdout)["stages"][0]["memory_bytes"]
    shutil.rmtree(work, ignore_errors=True)
    return {"planned": planned, "measured": measured, "ratio": planned / measured}


def main() -> None:
    """Measure every setting and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--models", nargs="+", default=["4m", "135m"], choices=sorted(STEPS))
    parser.add_argument("--stages", nargs="+", default=["sft"], choices=["sft", *OF_PAIRS, "grpo"])
    parser.add_argument("--trained", nargs="+", default=["full", "LoRA"], choices=["full", "LoRA"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[8192, 512], help="tokens of a micro-batch")
    parser.add_argument("--checkpointing", nargs="+", default=["off", "on"], choices=["off", "on"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], choices=["bfloat16", "float32"])
    arguments = parser.parse_args()
    # In a process of its own: a child's peak memory would start at that of a parent which holds torch.
    preparation = [sys.executable, "-m", "benchmarks.models", "--folder", str(arguments.folder)]
    subprocess.run([*preparation, "--shapes", *arguments.models], check=True, stdout=subprocess.DEVNULL)
    write_pairs(arguments.folder, 800)
    print("| stage | model | trained | dtype | checkpointing | micro-batch tokens | planned MB | measured MB | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for stage, model, what, dtype, checkpointing, budget in itertools.product(
        arguments.stages,
        arguments.models,
        arguments.trained,
        arguments.dtypes,
        arguments.checkpointing,
        arguments.budgets,
    ):
        settings = {
            "adapter": {"rank": 16} if what == "LoRA" else None,
            "dtype": dtype,
            "activation_checkpointing": checkpointing,
            "micro_batch_tokens": budget,
        }
        row = measure(arguments.folder, stage, model, settings)
        print(
            f"| {stage} | {model} | {what} | {dtype} | {checkpointing} | {budget} | {row['planned'] / 1e6:.0f} "
            f"| {row['measured'] / 1e6:.0f} | {row['ratio']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
