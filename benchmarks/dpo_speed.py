"""DPO beside TRL: reference pass and training, on the same model and pairs; and what sharing prompts is worth.

    python -m benchmarks.dpo_speed --rounds 5 --peer-python <an environment with TRL>/bin/python

    python -m benchmarks.dpo_speed --models 135m --settings shared lora --rounds 1 --steps 3    # memory

Ours is a recipe carried out by the pipeline, once with both branches behind one prompt (`shared`) and once with a
prompt before each (`apart`), and with adapters of rank 16 where `lora` is asked for; TRL is its DPOTrainer, with each
of `--peer-settings`. Sides run in turn, each in a process of its own. Prints markdown, and writes every run's record
to `<folder>/dpo_speed.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, run_alternating
from benchmarks.dpo_work import PAIRS, check_same_work, compare_sides, format_comparison
from benchmarks.models import SHAPES
from benchmarks.speed_runs import find_trl_python, finish_comparison, prepare_models


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["4m"])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, default=12, help="steps of a run, the untimed first one included")
    parser.add_argument("--peer-python", help="the Python of an environment with TRL; default: this one, if it has TRL")
    parser.add_argument("--peer-settings", nargs="+", default=["precomputed", "online"], help="how TRL is set")
    parser.add_argument("--settings", nargs="+", default=["shared", "apart"], help="how ours is set; shared is needed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"), help="models, rows and results")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: at least 2, because the first one is not timed")
    return arguments


def build_sides(arguments: argparse.Namespace, model: str) -> dict[str, Callable[[int], Sequence[str]]]:
    """Return each side's command of a round; the peer is left out, and that is said, where it is not installed."""
    peer_python = find_trl_python(arguments.peer_python)
    work = arguments.folder / "work"

    def build(python: str, module: str, name: str, setting: str) -> Callable[[int], Sequence[str]]:
        command = [python, "-m", module, "--folder", str(arguments.folder), "--model", model]
        command += ["--steps", str(arguments.steps), "--device", arguments.device, "--setting", setting]
        return lambda number: [*command, "--work", str(work / f"{name}-{setting}-{model}-{number}")]

    sides = {
        f"posttrain {setting}": build(sys.executable, "benchmarks.own_dpo", "own", setting)
        for setting in arguments.settings
    }
    if peer_python is None:
        return sides
    for setting in arguments.peer_settings:
        sides[f"trl {setting}"] = build(peer_python, "benchmarks.peer_trl_dpo", "trl", setting)
    return sides


def describe_run(record: Record) -> str:
    """Return one line about a run that has ended."""
    return (
        f"{record['model']:<5} {record['setting']:<11} {record['pairs_per_second']:7.2f} pairs/s"
        f"  reference {record['reference_seconds']:6.2f} s  {record['peak_memory_bytes'] / 1e9:5.2f} GB"
        f"  {record['trained_tokens']:,.0f} tokens a step  loss {record['first_loss']:.3f}, {record['final_loss']:.3f}"
        f"  product {record['product_gflops']:.0f} GFLOP/s"
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
        comparison = compare_sides(records)
        results["models"][model] = {"parameters": parameters, "comparison": comparison, "records": records}
        print(f"\n## DPO, {parameters / 1e6:.1f} M parameters\n")
        print(
            f"Pairs of {facts['source']}: {PAIRS[model]} a step, {arguments.steps - 1} timed steps a run and a pass of"
            f" the reference over all pairs; medians (range) of {arguments.rounds} runs a side in turn\n"
        )
        print(format_comparison(comparison), flush=True)
    machine = results["models"][arguments.models[0]]["records"]["posttrain shared"][0]["machine"]
    finish_comparison(folder, "dpo_speed", results, machine)


if __name__ == "__main__":
    main()
