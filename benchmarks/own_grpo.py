"""GRPO of this project on the same model and prompts, as a user runs it: a recipe, carried out.

Everything that belongs to a step is in the figures: the policy's name is computed, its weights are published and
probed, completions are drawn, judged and written into the journal, the update is checked and logged.

    python -m benchmarks.own_grpo --folder .cache/benchmarks --model 4m --steps 6 --work <folder>
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.grpo_work import (
    COMPLETIONS,
    GROUP_SIZE,
    LEARNING_RATE,
    NEW_TOKENS,
    PROBLEMS,
    GrpoRecord,
    count_prompt_tokens,
    parse_side_arguments,
)

OWN_CODE = "from benchmarks.clock import clock\nfrom benchmarks.grpo_work import reward_completions\n"
SETTINGS: dict[str, dict[str, Any]] = {"shared": {}, "repeated": {"share_prompts": "off"}}


def write_recipe(arguments: argparse.Namespace) -> Path:
    """Write a run's recipe, and the file of the callback and the reward that it names, beside the models and rows."""
    folder: Path = arguments.folder
    (folder / "grpo_code.py").write_text(OWN_CODE, encoding="utf-8")
    stage = {
        "name": "rl",
        "type": "grpo",
        "algorithm": "grpo",
        "kl": "none",
        "data": [{"source": "rows.jsonl", "rows": PROBLEMS * arguments.steps}],
        "scorer": "grpo_code.py:reward_completions",
        "steps": arguments.steps,
        "problems_per_step": PROBLEMS,
        "group_size": GROUP_SIZE,
        "max_new_tokens": NEW_TOKENS,
        "learning_rate": LEARNING_RATE,
        "log_every_steps": 1,
        "callbacks": ["grpo_code.py:clock"],
        **SETTINGS[arguments.setting],
    }
    recipe = {"schema": 1, "name": "benchmark", "model": f"./{arguments.model}", "stages": [stage]}
    path = folder / "grpo.yaml"
    path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")  # JSON is YAML
    return path


def read_figures(folder: Path, key: str) -> list[float]:
    """Return a logged figure of every step of a run's only stage."""
    (path,) = folder.glob("stages/*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [float(line[key]) for line in lines if key in line]


def main() -> None:
    arguments = parse_side_arguments(__doc__, tuple(SETTINGS))
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
    # a policy of random weights ends no completion by itself, which a run would refuse to start from
    folder = run_recipe(recipe, progress=clock, override=["length_caps"])
    lengths = read_figures(folder, "completions/mean_length")
    if not len(clock.step_ends) == len(lengths) == arguments.steps:
        raise SystemExit(f"{len(clock.step_ends)} steps were taken, expected {arguments.steps}; is {folder} used?")
    device = find_device(arguments.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.folder / arguments.model)
    record = GrpoRecord(
        side="posttrain",
        model=arguments.model,
        setting=arguments.setting,
        steps=arguments.steps,
        prompt_tokens=count_prompt_tokens(tokenizer, arguments.folder, arguments.steps),
        completion_tokens=sum(lengths) / len(lengths) * COMPLETIONS,
        timed_seconds=clock.step_ends[-1] - clock.step_ends[0],
        slowest_step_seconds=clock.slowest_step_seconds,
        first_step_seconds=clock.first_step_seconds,
        reward=read_figures(folder, "reward")[-1],
        peak_memory_bytes=clock.peak_memory_bytes,
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"posttrain": posttrain.__version__, "transformers": transformers.__version__},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
