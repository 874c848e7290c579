"""What a GRPO step gains from each technique: the same recipe with and without it, in turn.

    python -m benchmarks.grpo_gains --rounds 5                                   # those that need no policy
    python -m benchmarks.grpo_gains --policy <an artifact of recipes/lab_sft.yaml>   # all of them
    python -m benchmarks.grpo_gains --cases sharing-long settled --rounds 5

Cases: `benchmarks.grpo_cases`. Round k of both sides has seed k. Prints a markdown table a case, medians with ranges,
and writes every run's record to `<folder>/grpo_gains.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, run_alternating, summarise, summarise_ratios
from benchmarks.grpo_cases import CASES, Case
from benchmarks.grpo_speed import describe_run
from benchmarks.speed_runs import finish_comparison, prepare_models
from benchmarks.tables import format_spread, format_table


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), help="default: all that can be run")
    parser.add_argument("--policy", type=Path, help="an artifact of the lab to start from, for the lab's cases")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, help="steps of a run; default: each case's own")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"), help="models, rows and results")
    arguments = parser.parse_args()
    arguments.cases = arguments.cases or [name for name in CASES if arguments.policy or not CASES[name].is_lab]
    if arguments.policy is None and any(CASES[name].is_lab for name in arguments.cases):
        parser.error("--policy: the lab's cases start from a policy, such as that of recipes/lab_sft.yaml")
    return arguments


def build_side(arguments: argparse.Namespace, name: str, side: str) -> Callable[[int], Sequence[str]]:
    """Return a side's command of a round."""
    steps = arguments.steps or CASES[name].steps
    command = [sys.executable, "-m", "benchmarks.own_grpo", "--folder", str(arguments.folder), "--model", "4m"]
    command += ["--steps", str(steps), "--device", arguments.device, "--case", name, "--setting", side]
    work = arguments.folder / "work"
    return lambda number: [*command, "--work", str(work / f"{name}-{side}-{number}"), "--seed", str(number)]


def list_measures(case: Case) -> dict[str, Callable[[Record], float]]:
    """Return what is read of a case's runs, by the heading of its column."""
    measures: dict[str, Callable[[Record], float]] = {
        "seconds a step": lambda run: run["step_seconds"],
        "peak memory, GB": lambda run: run["peak_memory_bytes"] / 1e9,
    }
    if case.measured:
        measures |= {
            "waves": lambda run: run["figures"]["waves"],
            "informative groups an update": lambda run: run["figures"]["informative_groups"],
            "informative groups a second": lambda run: run["figures"]["informative_groups"] / run["step_seconds"],
            "points gained, held out": _gain,
            "points a minute of training": lambda run: _gain(run) / (run["step_seconds"] * run["steps"] / 60),
        }
    return measures


def _gain(run: Record) -> float:
    return 100 * (run["figures"]["score_after"] - run["figures"]["score_before"])


def format_case(case: Case, records: dict[str, list[Record]]) -> str:
    """Return a case's table: a line a side, and a line of what the technique's figures are over those without it.

    Points gained are set apart by difference, since those of one side may be 0.
    """
    measures = list_measures(case)
    lines = [
        [
            side,
            *(format_spread(summarise([read(run) for run in runs]).to_json(), digits=2) for read in measures.values()),
        ]
        for side, runs in records.items()
    ]
    compared = []
    for heading, read in measures.items():
        used, unused = ([read(run) for run in records[side]] for side in ("on", "off"))
        if heading.startswith("points"):
            spread = summarise([a - b for a, b in zip(used, unused, strict=True)])
            compared.append("difference " + format_spread(spread.to_json(), digits=2))
        else:
            compared.append(format_spread(summarise_ratios(used, unused).to_json(), digits=2))
    return format_table(["", *measures], [*lines, ["on / off", *compared]])


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.folder
    prepare_models(folder, ["4m"])
    if arguments.policy is not None:  # a recipe reads what lies beside it
        shutil.copytree(arguments.policy, folder / "policy", dirs_exist_ok=True)
    results: dict[str, Any] = {}
    for name in arguments.cases:
        case = CASES[name]
        sides = {side: build_side(arguments, name, side) for side in ("on", "off")}
        results[name] = run_alternating(sides, arguments.rounds, describe_run)
        steps = arguments.steps or case.steps
        print(f"\n## {name}: {case.title}\n")
        print(f"{steps} steps, the first untimed; medians (range) of {arguments.rounds} runs a side in turn\n")
        print(format_case(case, results[name]), flush=True)
        (folder / "grpo_gains.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    machine = results[arguments.cases[0]]["on"][0]["machine"]
    finish_comparison(folder, "grpo_gains", results, machine)


if __name__ == "__main__":
    main()
