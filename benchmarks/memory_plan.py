"""How well the plan's memory estimate meets the measured peak: model shapes x adapter x dtype x checkpointing.

    .venv/bin/python -m benchmarks.memory_plan

Each setting is planned and run in processes of their own; the measured figure is the peak resident
memory that the run's last step logged. Models and rows are those of `benchmarks.models`.
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

STEPS = {"4m": 12, "135m": 3}


def write_recipe(folder: Path, model: str, **settings: Any) -> Path:
    """Write the recipe of one setting beside the models and rows."""
    stage = {
        "name": "sft",
        "type": "sft",
        "data": [{"source": "rows.jsonl", "rows": BATCH_SIZES[model] * STEPS[model] * 4}],
        "steps": STEPS[model],
        "batch_size": BATCH_SIZES[model],
        "max_length": MAX_LENGTH,
        "truncation": "cut_completion",
        "max_affected_fraction": 1.0,
        "learning_rate": LEARNING_RATE,
        "log_every_steps": 1,
        **settings,
    }
    recipe = {"schema": 1, "name": "memory", "seed": 17, "model": f"./{model}", "stages": [stage]}
    path = folder / "memory.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def measure(folder: Path, model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the planned and the measured peak of one setting, in bytes."""
    recipe = write_recipe(folder, model, **settings)
    work = folder / "memory-run"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-m", "posttrain.cli.main"]
    options = [str(recipe), "--folder", str(work), "--json"]
    plan = subprocess.run([*command, "plan", *options], check=True, capture_output=True, text=True)
    subprocess.run([*command, "run", *options], check=True, capture_output=True, text=True)
    lines = (work / "stages" / "01-sft" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    measured = max(json.loads(line).get("time/peak_memory_bytes", 0) for line in lines)
    planned = json.loads(plan.stdout)["stages"][0]["memory_bytes"]
    shutil.rmtree(work, ignore_errors=True)
    return {"model": model, **settings, "planned": planned, "measured": measured, "ratio": planned / measured}


def main() -> None:
    """Measure every setting and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--models", nargs="+", default=["4m", "135m"], choices=sorted(STEPS))
    arguments = parser.parse_args()
    # In a process of its own: a child's peak memory would start at that of a parent which holds torch.
    preparation = [sys.executable, "-m", "benchmarks.models", "--folder", str(arguments.folder)]
    subprocess.run([*preparation, "--shapes", *arguments.models], check=True, stdout=subprocess.DEVNULL)
    print("| model | trained | dtype | checkpointing | micro-batch tokens | planned MB | measured MB | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    adapters: list[dict[str, Any] | None] = [None, {"rank": 16}]
    for model, adapter, dtype, checkpointing, budget in itertools.product(
        arguments.models, adapters, ("bfloat16", "float32"), ("off", "on"), (8192, 512)
    ):
        settings = {
            "adapter": adapter,
            "dtype": dtype,
            "activation_checkpointing": checkpointing,
            "micro_batch_tokens": budget,
        }
        row = measure(arguments.folder, model, settings)
        what = "LoRA" if adapter else "full"
        print(
            f"| {model} | {what} | {dtype} | {checkpointing} | {budget} | {row['planned'] / 1e6:.0f} "
            f"| {row['measured'] / 1e6:.0f} | {row['ratio']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
