"""Supervised fine-tuning beside TRL: speed, memory, share of the machine, growth with data, second start.

    make bench                       # both models, 5 rounds of each side in turn
    python -m benchmarks.sft_speed --models 4m --rounds 5 --peer-python <an environment with TRL>/bin/python

Both sides train the same rows from the same weights with the same batch size, learning rate and maximum
length, in bf16 and without activation checkpointing. Prints markdown, and writes every run's record to
`<folder>/sft_speed.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, compute_growth_exponent, run_alternating, run_side
from benchmarks.models import BATCH_SIZES, LEARNING_RATE, MAX_LENGTH, SHAPES
from benchmarks.speed_runs import finish_comparison, prepare_models
from benchmarks.tables import check_same_work, compare_sides, format_comparison, format_table

STEPS = {"4m": 20, "135m": 7, "0.5b": 12, "1.2b": 8}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=["4m", "135m"])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, help="steps of a run; default: " + json.dumps(STEPS))
    parser.add_argument("--growth", type=int, nargs="*", default=[1, 4, 16], help="multiples of the steps; none: skip")
    parser.add_argument("--peer-python", help="the Python of an environment with TRL; default: this one, if it has TRL")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"), help="models, rows and results")
    return parser.parse_args()


class Commands:
    """Builds the command lines of both sides."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.peer_python = arguments.peer_python or (sys.executable if importlib.util.find_spec("trl") else None)

    def build(self, side: str, model: str, steps: int, work: str, *, seed: int = 0) -> list[str]:
        """Return a run's command; a work folder that a run has not used yet makes it a first start."""
        python = self.peer_python if side == "trl" else sys.executable
        module = "benchmarks.peer_trl_sft" if side == "trl" else "benchmarks.own_sft"
        folder = self.arguments.folder
        command = [str(python), "-m", module, "--folder", str(folder), "--model", model, "--steps", str(steps)]
        return [
            *command, "--device", self.arguments.device, "--work", str(folder / "work" / work), "--seed", str(seed)
        ]  # fmt: skip


def describe_run(record: Record) -> str:
    """Return one line about a run that has ended."""
    return (
        f"{record['model']:<5} {record['tokens_per_second']:>8,.0f} tokens/s"
        f"  {record['peak_memory_bytes'] / 1e9:5.2f} GB  {record['tokens']:,} tokens in {record['steps']} steps"
        f"  loss {record['final_loss']:.3f}  product {record['product_gflops']:.0f} GFLOP/s"
    )


def measure_sides(commands: Commands, model: str, steps: int, rounds: int) -> dict[str, list[Record]]:
    """Run both sides in turn; the peer is left out, and that is said, where it is not installed."""
    sides = {"posttrain": lambda number: commands.build("posttrain", model, steps, f"own-{model}-{number}")}
    if commands.peer_python:
        sides["trl"] = lambda number: commands.build("trl", model, steps, f"trl-{model}-{number}")
    else:
        print("TRL is not installed here: no comparison (pip install -e '.[trl]', or --peer-python)", file=sys.stderr)
    return run_alternating(sides, rounds, describe_run)


def measure_growth(commands: Commands, model: str, steps: int, multiples: Sequence[int]) -> dict[str, Any]:
    """Return the seconds that growing data takes, tokenizing included, and the exponent of the growth."""
    runs = [run_side(commands.build("posttrain", model, steps * m, f"growth-{model}-{m}")) for m in multiples]
    for run in runs:
        print(f"growth        {describe_run(run)}", file=sys.stderr, flush=True)
    tokens = [run["tokens"] for run in runs]
    seconds = [run["prepare_seconds"] + run["train_seconds"] for run in runs]
    return {
        "multiples": list(multiples),
        "tokens": tokens,
        "seconds": seconds,
        "peak_memory_bytes": [run["peak_memory_bytes"] for run in runs],
        "exponent": compute_growth_exponent(tokens, seconds) if len(runs) > 1 else None,
        "records": runs,
    }


def measure_second_start(commands: Commands, model: str, steps: int) -> dict[str, Any]:
    """Return what a second start on the same rows costs: rows tokenized again, and seconds to its first step.

    The second has another seed, because the very same recipe would find its artifact and train nothing.
    """
    first, second = (
        run_side(commands.build("posttrain", model, steps, f"twice-{model}", seed=seed)) for seed in (0, 1)
    )
    keys = ("rows_tokenized", "first_step_seconds")
    return {"first": {key: first[key] for key in keys}, "second": {key: second[key] for key in keys}}


def format_growth(growth: dict[str, Any]) -> str:
    """Return the growth as a markdown table with its exponent below."""
    columns = zip(growth["multiples"], growth["tokens"], growth["seconds"], growth["peak_memory_bytes"], strict=True)
    lines = [[f"{m}x", f"{t:,}", f"{s:.1f}", f"{t / s:,.0f}", f"{b / 1e9:.2f}"] for m, t, s, b in columns]
    table = format_table(["data", "real tokens", "seconds", "tokens/s", "peak memory, GB"], lines)
    if growth["exponent"] is None:
        return table
    return f"{table}\n\nseconds grow as tokens^{growth['exponent']:.2f} (1 is linear)"


def format_second_start(starts: dict[str, Any]) -> str:
    """Return the two starts as a markdown table."""
    lines = [[n, f"{s['rows_tokenized']:,}", f"{s['first_step_seconds']:.1f}"] for n, s in starts.items()]
    return format_table(["start", "rows tokenized", "seconds from process start to first step's end"], lines)


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.folder
    facts = prepare_models(folder, arguments.models)
    commands = Commands(arguments)
    results: dict[str, Any] = {"source": facts["source"], "models": {}}
    for model in arguments.models:
        steps, parameters = arguments.steps or STEPS[model], facts["parameters"][model]
        records = measure_sides(commands, model, steps, arguments.rounds)
        work = check_same_work(records)
        comparison = compare_sides(records, parameters)
        results["models"][model] = {"parameters": parameters, "comparison": comparison, "records": records}
        print(f"\n## SFT, {parameters / 1e6:.1f} M parameters\n")
        print(
            f"{facts['source']}: {work.median:,.0f} real tokens a run, {steps} steps of {BATCH_SIZES[model]} rows,"
            f" at most {MAX_LENGTH} tokens, learning rate {LEARNING_RATE}, bf16; medians (range) of"
            f" {arguments.rounds} runs a side in turn\n"
        )
        print(format_comparison(model, comparison), flush=True)
    smallest = arguments.models[0]
    steps = arguments.steps or STEPS[smallest]
    if arguments.growth:
        results["growth"] = measure_growth(commands, smallest, steps, arguments.growth)
        print(f"\n## Growth with data, {smallest}\n\n{format_growth(results['growth'])}", flush=True)
    results["second_start"] = measure_second_start(commands, smallest, steps)
    print(f"\n## Second start, {smallest}\n\n{format_second_start(results['second_start'])}")
    machine = results["models"][smallest]["records"]["posttrain"][0]["machine"]
    finish_comparison(folder, "sft_speed", results, machine)


if __name__ == "__main__":
    main()
