"""A GRPO step beside TRL: rollout, reward and update, on the same model and prompts.

    make bench                        # with the others
    python -m benchmarks.grpo_speed --rounds 5 --peer-python <an environment with TRL>/bin/python

Ours is a recipe carried out by the pipeline, with its journal and checkpoint; TRL is its GRPOTrainer. Sides run in
turn, each in a process of its own. TRL runs once a round with each of `--peer-settings`: `autocast` is the same
training as ours (bf16 over fp32 weights), `bf16-weights` the fastest found, which keeps no fp32 weights and so loses
updates of this size. Prints markdown, and writes every run's record to `<folder>/grpo_speed.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, run_alternating
from benchmarks.grpo_work import (
    GROUP_SIZE,
    LEARNING_RATE,
    NEW_TOKENS,
    PROBLEMS,
    check_same_work,
    compare_sides,
    format_comparison,
)
from benchmarks.models import CPU_SHAPES
from benchmarks.speed_runs import find_trl_python, finish_comparison, prepare_models


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CPU_SHAPES, default=["4m"])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, default=5, help="steps of a run, the untimed first one included")
    parser.add_argument("--peer-python", help="the Python of an environment with TRL; default: this one, if it has TRL")
    parser.add_argument("--peer-settings", nargs="+", default=["autocast", "bf16-weights"], help="how TRL is set")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"), help="models, rows and results")
    return parser.parse_args()


def build_sides(arguments: argparse.Namespace, model: str) -> dict[str, Callable[[int], Sequence[str]]]:
    """Return each side's command of a round; the peer is left out, and that is said, where it is not installed."""
    peer_python = find_trl_python(arguments.peer_python)
    work = arguments.folder / "work"

    def build(python: str, module: str, name: str, setting: str) -> Callable[[int], Sequence[str]]:
        command = [python, "-m", module, "--folder", str(arguments.folder), "--model", model]
        command += ["--steps", str(arguments.steps), "--device", arguments.device, "--setting", setting]
        return lambda number: [*command, "--work", str(work / f"{name}-{model}-{number}")]

    sides = {"posttrain": build(sys.executable, "benchmarks.own_grpo", "own", "on")}
    if peer_python is None:
        return sides
    for setting in arguments.peer_settings:
        sides[f"trl {setting}"] = build(peer_python, "benchmarks.peer_trl_grpo", f"trl-{setting}", setting)
    return sides


def describe_run(record: Record) -> str:
    """Return one line about a run that has ended."""
    return (
        f"{record['model']:<5} {record['step_seconds']:6.2f} s a step (slowest {record['slowest_step_seconds']:.2f})"
        f"  {record['tokens_per_second']:>7,.0f} tokens/s  {record['peak_memory_bytes'] / 1e9:5.2f} GB"
        f"  {record['completion_tokens']:,.0f} tokens a step  product {record['product_gflops']:.0f} GFLOP/s"
    )


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.folder
    facts = prepare_models(folder, arguments.models)
    results: dict[str, Any] = {"source": facts["source"], "models": {}}
    for model in arguments.models:
        parameters = facts["parameters"][model]
        records = run_alternating(build_sides(arguments, model), arguments.rounds, describe_run)
        check_same_work(records)
        comparison = compare_sides(records, parameters)
        results["models"][model] = {"parameters": parameters, "comparison": comparison, "records": records}
        print(f"\n## GRPO, {parameters / 1e6:.1f} M parameters\n")
        print(
            f"Prompts of {facts['source']}: {PROBLEMS} x {GROUP_SIZE} completions of at most {NEW_TOKENS} tokens a"
            f" step, one update, no KL, learning rate {LEARNING_RATE:g}; {arguments.steps - 1} timed steps a run,"
            f" medians (range) of {arguments.rounds} runs a side in turn\n"
        )
        print(format_comparison(comparison), flush=True)
    machine = results["models"][arguments.models[0]]["records"]["posttrain"][0]["machine"]
    finish_comparison(folder, "grpo_speed", results, machine)


if __name__ == "__main__":
    main()
