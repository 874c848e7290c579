"""GRPO of this project as a user runs it: a recipe, carried out; beside TRL, or with and without a technique.

Everything that belongs to a step is in the figures: the policy's name is computed, its weights are published and
probed, completions are drawn, judged and written into the journal, the update is checked and logged.

    python -m benchmarks.own_grpo --folder .cache/benchmarks --model 4m --steps 6 --work <folder>
    python -m benchmarks.own_grpo ... --case waves --setting off   # <folder>/policy is one of the lab's
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.grpo_cases import CASES, OWN, write_long_rows
from benchmarks.grpo_work import GrpoRecord, build_side_parser, count_prompt_tokens

OWN_CODE = """\
from benchmarks.clock import clock
from benchmarks.grpo_cases import reward_half_of_prompts, wait_and_reward
from benchmarks.grpo_work import reward_completions
"""


def parse_arguments() -> argparse.Namespace:
    parser = build_side_parser(__doc__, ("on", "off"))
    parser.add_argument("--case", choices=sorted(CASES), help="a technique, with --setting on or off; none: beside TRL")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def write_recipe(arguments: argparse.Namespace) -> Path:
    """Write a run's recipe, and the file of the callback and the rewards that it names, beside the models and rows."""
    folder: Path = arguments.folder
    (folder / "grpo_code.py").write_text(OWN_CODE, encoding="utf-8")
    case = CASES[arguments.case] if arguments.case else None
    keys: dict[str, Any] = dict(case.sides[arguments.setting] if case else OWN)
    rows = keys["problems_per_step"] * keys.get("max_waves", 1) * arguments.steps
    if keys["data"] == "long_rows.jsonl":
        write_long_rows(folder, rows)
    stage = {
        "name": "rl",
        "type": "grpo",
        "steps": arguments.steps,
        "log_every_steps": 1,
        "callbacks": ["grpo_code.py:clock"],
        **keys,
        "data": [{"source": keys["data"], "rows": rows}],
    }
    model = "./policy" if case is not None and case.is_lab else f"./{arguments.model}"
    recipe: dict[str, Any] = {"schema": 1, "name": "benchmark", "seed": arguments.seed, "model": model}
    if case and case.measured:
        task = {"name": "held_out", "data": {"source": keys["data"], "split": "held_out", "rows": case.measured}}
        task |= {"scorer": keys["scorer"], "max_new_tokens": keys["max_new_tokens"], "temperature": 1.0}
        recipe["evaluate"] = [task]
    path = folder / "grpo.yaml"
    path.write_text(json.dumps({**recipe, "stages": [stage]}, indent=2), encoding="utf-8")  # JSON is YAML
    return path


def read_figures(folder: Path, key: str) -> list[float]:
    """Return a logged figure of every step of a run's only stage."""
    (path,) = folder.glob("stages/*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [float(line[key]) for line in lines if key in line]


def collect_gains(folder: Path, problems: int) -> dict[str, float]:
    """Return what a run's steps and tasks say of a technique: informative groups an update, waves, pass rates."""
    columns = (read_figures(folder, key) for key in ("informative_fraction", "rollouts/waves"))
    pairs = list(zip(*columns, strict=True))
    figures = {
        "informative_groups": statistics.mean(min(problems, share * waves * problems) for share, waves in pairs),
        "waves": statistics.mean(waves for _, waves in pairs),
    }
    metrics = json.loads((folder / "run.json").read_text(encoding="utf-8"))["metrics"]
    for metric in metrics:
        if metric["name"] == "correct":
            figures["score_before" if metric["stage"] == "base" else "score_after"] = metric["value"]
    return figures


def main() -> None:
    arguments = parse_arguments()
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

    recipe_path = write_recipe(arguments)
    recipe = read_recipe(recipe_path, folder=arguments.work.resolve() / "run")
    # a policy of random weights ends no completion by itself, which a run would refuse to start from
    folder = run_recipe(recipe, progress=clock, override=["length_caps"])
    lengths = read_figures(folder, "completions/mean_length")
    if not len(clock.step_ends) == len(lengths) == arguments.steps:
        raise SystemExit(f"{len(clock.step_ends)} steps were taken, expected {arguments.steps}; is {folder} used?")
    stage = json.loads(recipe_path.read_text(encoding="utf-8"))["stages"][0]
    device = find_device(arguments.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.folder / arguments.model)
    record = GrpoRecord(
        side="posttrain",
        model=arguments.model,
        setting=arguments.setting,
        steps=arguments.steps,
        prompt_tokens=count_prompt_tokens(tokenizer, arguments.folder, arguments.steps),
        completion_tokens=sum(lengths) / len(lengths) * stage["problems_per_step"] * stage["group_size"],
        timed_seconds=clock.step_ends[-1] - clock.step_ends[0],
        slowest_step_seconds=clock.slowest_step_seconds,
        first_step_seconds=clock.first_step_seconds,
        reward=read_figures(folder, "reward")[-1],
        peak_memory_bytes=clock.peak_memory_bytes,
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"posttrain": posttrain.__version__, "transformers": transformers.__version__},
        figures=collect_gains(folder, stage["problems_per_step"]) if arguments.case else {},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
