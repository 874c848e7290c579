"""DPO of this project as a user runs it: a recipe, carried out; with prompts shared by both branches, or not, or LoRA.

Everything that belongs to a run is in the figures: the reference pass, the checked and logged steps.

    python -m benchmarks.own_dpo --folder .cache/benchmarks --model 4m --steps 12 --work <folder>
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.dpo_work import BETA, LEARNING_RATE, PAIRS, DpoRecord, build_side_parser, make_pairs
from benchmarks.models import MAX_LENGTH, MICRO_BATCH_TOKENS

SETTINGS: dict[str, dict[str, Any]] = {
    "shared": {"share_prompts": "auto"},
    "apart": {"share_prompts": "off"},
    "lora": {"share_prompts": "auto", "adapter": {"rank": 16}},
}
CALLBACK = "from benchmarks.clock import clock\n"


def write_recipe(arguments: argparse.Namespace) -> Path:
    """Write a run's recipe, its pairs and the callback file that it names, beside the models."""
    folder: Path = arguments.folder
    (folder / "clock.py").write_text(CALLBACK, encoding="utf-8")
    pairs = make_pairs(folder, arguments.model, arguments.steps)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    stage = {
        "name": "dpo",
        "type": "preference",
        "algorithm": "dpo",
        "data": [{"source": "pairs.jsonl", "max_bad_fraction": 0.1}],
        "beta": BETA,
        "steps": arguments.steps,
        "batch_size": PAIRS[arguments.model],
        "max_length": 2 * MAX_LENGTH,
        "micro_batch_tokens": MICRO_BATCH_TOKENS[arguments.model],
        "learning_rate": LEARNING_RATE,
        "log_every_steps": 1,
        "callbacks": ["clock.py:clock"],
        **SETTINGS[arguments.setting],
    }
    recipe = {"schema": 1, "name": "benchmark", "seed": 0, "model": f"./{arguments.model}", "stages": [stage]}
    path = folder / "dpo.yaml"
    path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")  # JSON is YAML
    return path


def main() -> None:
    arguments = build_side_parser(__doc__, tuple(SETTINGS)).parse_args()
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

    recipe = read_recipe(write_recipe(arguments), folder=arguments.work.resolve() / "run")
    folder = run_recipe(recipe, progress=clock)
    if len(clock.step_ends) != arguments.steps or not clock.reference_seconds:
        raise SystemExit(f"{len(clock.step_ends)} steps were taken, expected {arguments.steps}; is {folder} used?")
    (path,) = folder.glob("stages/*/metrics.jsonl")
    last = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    device = find_device(arguments.device)
    record = DpoRecord(
        side="posttrain",
        model=arguments.model,
        setting=arguments.setting,
        steps=arguments.steps,
        pairs=PAIRS[arguments.model],
        trained_tokens=last["num_trained_tokens"] / arguments.steps,
        reference_seconds=clock.reference_seconds,
        timed_seconds=clock.step_ends[-1] - clock.step_ends[0],
        first_step_seconds=clock.first_step_seconds,
        first_loss=clock.losses[0],
        final_loss=clock.losses[-1],
        peak_memory_bytes=clock.peak_memory_bytes,
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"posttrain": posttrain.__version__, "transformers": transformers.__version__},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
