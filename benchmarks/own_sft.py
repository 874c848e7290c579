"""SFT of this project on the same model and rows, as a user runs it: a recipe, carried out.

Everything that belongs to a run is in the figures: rows are read, rendered and tokenized, the model is
checked before it is loaded, steps are checked and logged. As on the peer's side, memory is what the
process has held when the last step ends (saving comes after it).

    python -m benchmarks.own_sft --folder .cache/benchmarks --model 4m --steps 20 --work <folder>
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from benchmarks.models import LEARNING_RATE, MAX_LENGTH, MICRO_BATCH_TOKENS
from benchmarks.record import RunRecord, parse_run_arguments

CALLBACK = "from benchmarks.clock import clock\n"


def write_recipe(arguments: argparse.Namespace) -> Path:
    """Write a run's recipe, and the callback file that it names, beside the models and rows."""
    folder: Path = arguments.folder
    (folder / "clock.py").write_text(CALLBACK, encoding="utf-8")
    stage = {
        "name": "sft",
        "type": "sft",
        "data": [{"source": "rows.jsonl", "rows": arguments.batch_size * arguments.steps}],
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "max_length": MAX_LENGTH,
        "micro_batch_tokens": MICRO_BATCH_TOKENS[arguments.model],
        "truncation": "cut_completion",
        "max_affected_fraction": 1.0,
        "learning_rate": LEARNING_RATE,
        "activation_checkpointing": "off",
        "log_every_steps": 1,
        "callbacks": ["clock.py:clock"],
    }
    recipe = {
        "schema": 1,
        "name": "benchmark",
        "seed": arguments.seed,
        "model": f"./{arguments.model}",
        "stages": [stage],
    }
    path = folder / "benchmark.yaml"
    path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")  # JSON is YAML
    return path


def read_step_tokens(folder: Path) -> tuple[list[int], list[int]]:
    """Return the real and the trained tokens seen up to each step, from a run folder's metrics."""
    (path,) = folder.glob("stages/*-sft/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "num_tokens" in line]
    return [int(line["num_tokens"]) for line in steps], [int(line["num_trained_tokens"]) for line in steps]


def main() -> None:
    arguments = parse_run_arguments(__doc__)
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch is imported

    from posttrain.core.collector import paused_collector

    with paused_collector():  # as the command line imports it
        import transformers

        import posttrain
        from benchmarks.clock import clock
        from benchmarks.machine import describe_machine, find_device, measure_product_rate
        from posttrain.pipeline.recipe import read_recipe
        from posttrain.pipeline.run import run_recipe

    start = time.perf_counter()
    recipe = read_recipe(write_recipe(arguments), folder=arguments.work.resolve() / "run")
    folder = run_recipe(recipe, progress=clock)
    if clock.rows_tokenized is None or len(clock.step_ends) != arguments.steps:
        raise SystemExit(f"{len(clock.step_ends)} steps were taken, expected {arguments.steps}; is {folder} used?")
    tokens, scored = read_step_tokens(folder)
    device = find_device(arguments.device)
    record = RunRecord(
        side="posttrain",
        model=arguments.model,
        steps=len(clock.step_ends),
        tokens=tokens[-1],
        scored_tokens=scored[-1],
        timed_tokens=tokens[-1] - tokens[0],
        timed_seconds=clock.step_ends[-1] - clock.step_ends[0],
        first_step_seconds=clock.first_step_seconds,
        prepare_seconds=clock.training_began - start,
        train_seconds=clock.step_ends[-1] - clock.training_began,
        rows_tokenized=clock.rows_tokenized,
        final_loss=clock.losses[-1],
        peak_memory_bytes=clock.peak_memory_bytes,
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"posttrain": posttrain.__version__, "transformers": transformers.__version__},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
