"""Sampling beside transformers and vLLM: speed, first tokens, memory, and what each part of the engine gains.

    python -m benchmarks.sampling_speed --parts main
    python -m benchmarks.sampling_speed --vllm-python <an environment with vLLM>/bin/python --vllm-eager

All sides draw from the same weights in bf16, after the same prompt ids, at temperature 1, past the end-of-sequence
token. Every run is a process of its own that draws its work twice, of which the second counts. Parts:

    main    8 prompts x 8 samples of 128 tokens, both models
    batch   1, 8 and 256 sequences                                      (this and what follows: the first model)
    mixed   256 sequences of heavy-tailed lengths, 64 at a time: rows refilled, in waves, run to the longest
    groups  8 prompts of 1,000 tokens x 8 samples: prompts shared, and run for each sample
    memory  the peak with 8, 64, 256 and 1,024 sequences

Prints markdown, and writes every run's record to `<folder>/sampling_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, run_alternating
from benchmarks.models import SHAPES
from benchmarks.sampling_tables import check_same_prompts, compare_sampling, format_memory, format_sampling
from benchmarks.sampling_work import WORKS

PARTS = ("main", "batch", "mixed", "groups", "memory")
SIDES = {
    "own": ("benchmarks.own_sampling", "shared"),
    "own-separate": ("benchmarks.own_sampling", "separate"),
    "own-waves": ("benchmarks.own_sampling", "waves"),
    "own-longest": ("benchmarks.own_sampling", "longest"),
    "transformers": ("benchmarks.peer_generate", "batches"),
    "vllm": ("benchmarks.peer_vllm", "compiled"),
    "vllm-eager": ("benchmarks.peer_vllm", "eager"),
}
SHORT_NEW_TOKENS = 32  # of transformers with a model that takes minutes for more


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=["4m", "135m"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--new-tokens", type=int, help="in place of each part's own number")
    parser.add_argument("--generate-tokens", type=int, help="for transformers in `main`; default: 32 of 135m, else all")
    parser.add_argument("--without-transformers", action="store_true")
    parser.add_argument("--vllm-python", help="the Python of an environment with vLLM; none: leave it out")
    parser.add_argument("--vllm-eager", action="store_true", help="also run vLLM without compilation, in `main`")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--folder", type=Path, default=Path(".cache/benchmarks"), help="models, rows and results")
    return parser.parse_args()


class Commands:
    """Builds the sides' command lines."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments

    def build(self, side: str, model: str, work: str) -> list[str]:
        """Return a run's command."""
        module, mode = SIDES[side]
        python = self.arguments.vllm_python if side.startswith("vllm") else sys.executable
        command = [str(python), "-m", module, "--folder", str(self.arguments.folder), "--model", model]
        command += ["--work", work, "--mode", mode, "--device", self.arguments.device]
        new_tokens = self.arguments.new_tokens
        if side == "transformers" and work == "main":
            default = min(new_tokens or SHORT_NEW_TOKENS, SHORT_NEW_TOKENS) if model == "135m" else new_tokens
            new_tokens = self.arguments.generate_tokens or default
        return [*command, "--new-tokens", str(new_tokens)] if new_tokens else command

    def list_peers(self, *, with_eager: bool = False) -> list[str]:
        """Return the sides beside our own that can be run here."""
        peers = [] if self.arguments.without_transformers else ["transformers"]
        if self.arguments.vllm_python:
            peers += ["vllm", "vllm-eager"] if with_eager and self.arguments.vllm_eager else ["vllm"]
        return peers


def describe_run(record: Record) -> str:
    """Return one line about a run that has ended."""
    return (
        f"{record['model']:<5} {record['work']:<11} {record['tokens_per_second']:>8,.0f} tokens/s"
        f"  first tokens {record['first_token_seconds']:.2f} s  load {record['load_seconds']:.1f} s"
        f"  {record['peak_memory_bytes'] / 1e9:5.2f} GB  product {record['product_gflops']:.0f} GFLOP/s"
    )


def run_sides(commands: Commands, sides: Sequence[str], model: str, work: str, rounds: int) -> dict[str, list[Record]]:
    """Run sides in turn on one piece of work."""

    def repeat(side: str) -> Callable[[int], list[str]]:
        return lambda number: commands.build(side, model, work)

    records = run_alternating({side: repeat(side) for side in sides}, rounds, describe_run)
    check_same_prompts(records)
    return records


def measure_part(commands: Commands, part: str, model: str, parameters: int, rounds: int) -> dict[str, Any]:
    """Run one part on one model, print its table, and return its figures with every record."""
    own = {"mixed": ["own", "own-waves", "own-longest"], "groups": ["own", "own-separate"]}.get(part, ["own"])
    sides = [*own, *commands.list_peers(with_eager=part == "main")]
    results: dict[str, Any] = {}
    for work in (name for name in WORKS if name.split("-")[0] == part):
        records = run_sides(commands, sides, model, work, rounds)
        comparison = compare_sampling(records, parameters)
        results[work] = {"comparison": comparison, "records": records}
        if part != "memory":
            print(f"\n## Sampling, {parameters / 1e6:.1f} M parameters, {describe_work(work, records)}\n")
            print(format_sampling(comparison), flush=True)
    if part == "memory":
        print(f"\n## Peak memory of sampling, {parameters / 1e6:.1f} M parameters\n")
        print(format_memory(collect_peaks(results)), flush=True)
    return results


def describe_work(work: str, records: Mapping[str, Sequence[Record]]) -> str:
    """Return a piece of work in words, with the tokens that each side drew where they differ."""
    facts = WORKS[work]
    tokens = {side: runs[0]["timed_tokens"] for side, runs in records.items()}
    prompt_tokens = next(iter(records.values()))[0]["prompt_tokens"]
    kind = " of heavy-tailed lengths" if facts.is_mixed else ""
    text = (
        f"{work}: {facts.prompts} prompts ({prompt_tokens:,} tokens) x {facts.samples} samples{kind},"
        f" {min(facts.rows, facts.sequences)} at once, {next(iter(tokens.values())):,} tokens"
    )
    others = [f"{side} {count:,}" for side, count in tokens.items() if count != next(iter(tokens.values()))]
    return f"{text} ({', '.join(others)})" if others else text


def collect_peaks(results: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Return each side's median peak memory by number of sequences."""
    peaks: dict[str, dict[int, float]] = {}
    for result in results.values():
        for side, figures in result["comparison"]["sides"].items():
            count = result["records"][side][0]["sequences"]
            peaks.setdefault(side, {})[count] = figures["peak_memory_bytes"]["median"]
    return peaks


def prepare(folder: Path, models: Sequence[str]) -> dict[str, Any]:
    """Write models, rows and prompts, in processes of their own; return what they are."""
    # A child's peak memory would start at that of a parent which holds torch.
    first = [sys.executable, "-m", "benchmarks.models", "--folder", str(folder), "--shapes", *models]
    done = subprocess.run(first, check=True, stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    second = [sys.executable, "-m", "benchmarks.sampling_work", "--folder", str(folder), "--model", models[0]]
    subprocess.run(second, check=True, stdout=subprocess.DEVNULL)
    return facts


def main() -> None:
    arguments = parse_arguments()
    if arguments.vllm_python and shutil.which(arguments.vllm_python) is None:
        raise SystemExit(f"--vllm-python: {arguments.vllm_python} is no program")
    facts = prepare(arguments.folder, arguments.models)
    commands = Commands(arguments)
    results: dict[str, Any] = {"source": facts["source"], "parts": {}}
    print(f"{facts['source']}; medians (range) of {arguments.rounds} runs a side in turn, second pass of each")
    for part in arguments.parts:
        models = arguments.models if part == "main" else arguments.models[:1]
        results["parts"][part] = {
            model: measure_part(commands, part, model, facts["parameters"][model], arguments.rounds) for model in models
        }
        path = arguments.folder / "sampling_speed.json"
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    first = next(iter(next(iter(next(iter(results["parts"].values())).values())).values()))
    machine = first["records"]["own"][0]["machine"]
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"every run: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
