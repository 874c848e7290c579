"""Preferences of real people on a real model that is too small for them: DPO, KTO and a reward model, end to end.

    python -m benchmarks.real_preferences --data <folder of data> --folder .cache/real_preferences

The model is a pretrained Llama of 260 k parameters that has read stories for children, so that hardly more than form
can be learned; what is shown is that the whole way from published rows to figures with limits can be gone, and how
little comes out. Pairs are PandaLM's, and for the reward model hh-rlhf's harmless ones too. Both files are published as
test sets: they are split here by prompt, and nothing else is measured on them. Pairs that do not fit into the model's
512 tokens are left out. Prints markdown; settings are those below, for all seeds.

Of held-out pairs: how many have the higher implicit reward, or score, of the chosen one (a reward begins at 0 for all),
and by how much its mean is higher; and how many have the likelier chosen completion, by the sum of its log-probs and by
their mean, which no training is needed for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import format_table
from posttrain.cli.console import build_progress
from posttrain.core.records import Example
from posttrain.core.run_folder import RunFolder
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.models.loading import load_tokenizer
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.statistics.intervals import wilson_interval

MODEL = "tiny-llama-stories260k/hf"
SEEDS = (501, 502, 503)
"""Named before anything was run with them."""
CONTEXT_TOKENS, TEMPLATE_TOKENS = 512, 48


@dataclass(frozen=True, slots=True)
class PairSet:
    """A published file, the row at which it is split (no prompt is on both sides), and how many rows are held out."""

    path: str
    split: int
    rows: int | None = None


SETS = {
    "pandalm": PairSet("preference/pandalm_testset_v1.json", 703),
    "hh": PairSet("preference/hh_harmless_base_test.jsonl.gz", 700, 500),
}
TRAINED = {
    "dtype": "float32",
    "truncation": "drop",
    "epochs": 1,
    "batch_size": 16,
    "learning_rate": 1e-4,
    "checkpoint_every_steps": 5,
}
STAGES: dict[str, dict[str, Any]] = {
    "dpo": {"type": "preference", "algorithm": "dpo", **TRAINED},
    "kto": {"type": "kto", **TRAINED, "batch_size": 32},
    "rm": {"type": "reward_model", "centring": 0.01, **TRAINED, "learning_rate": 5e-4},
}
RUNS = [("pandalm", "dpo"), ("pandalm", "kto"), ("pandalm", "rm"), ("hh", "rm")]


def write_held_out(data: Path, folder: Path, name: str) -> int:
    """Write the held-out pairs of a set that fit the model, as pairs and as choices; return how many they are."""
    of, tokenizer = SETS[name], load_tokenizer(data / MODEL)
    source = DataSource(source=str(data / of.path), skip=of.split, rows=of.rows, max_bad_fraction=0.01)
    pairs, choices = [], []
    for example in load_examples([source], root=folder)[0]:
        answers = [example.chosen[0]["content"], example.rejected[0]["content"]]
        if not all(answers) or not fits(tokenizer, example, answers):
            continue
        prompt = example.messages
        pairs.append({"prompt": prompt, "chosen": [say(answers[0])], "rejected": [say(answers[1])]})
        choices.append({"prompt": prompt, "choices": answers, "answer": 0})
    for kind, rows in (("pairs", pairs), ("choices", choices)):
        (folder / f"{name}_{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(pairs)


def say(text: str) -> dict[str, str]:
    """Return an answer as a message."""
    return {"role": "assistant", "content": text}


def fits(tokenizer: Any, example: Example, answers: Sequence[str]) -> bool:
    """Return whether both conversations fit the model with any template's tokens."""
    said = "".join(message["content"] for message in example.messages)
    longest = max(len(tokenizer.backend_tokenizer.encode(said + answer).ids) for answer in answers)
    return longest + TEMPLATE_TOKENS <= CONTEXT_TOKENS


def write_recipe(data: Path, folder: Path, name: str, stage: str, seed: int) -> Path:
    """Write a run's recipe: the stage, and before and after it the choices of the held-out pairs."""
    of = SETS[name]
    train = {"source": str(data / of.path), "rows": of.split, "max_bad_fraction": 0.1}
    values: dict[str, Any] = {
        "schema": 1,
        "name": f"{name}-{stage}",
        "seed": seed,
        "model": str(data / MODEL),
        "chat": {"template": "plain"},
        "stages": [
            {"name": stage, "data": [train], "validation": [{"source": f"{name}_pairs.jsonl"}], **STAGES[stage]}
        ],
    }
    if stage != "rm":  # a reward model leaves the policy as it came
        task = {"name": "likelier", "type": "choice", "data": {"source": f"{name}_choices.jsonl"}}
        values["evaluate"] = [{**task, "normalisation": "sum", "parts": ["by_sum", "by_token"]}]
    path = folder / f"{name}_{stage}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def measure(data: Path, folder: Path, name: str, stage: str, seed: int) -> dict[str, Any]:
    """Carry out a run and return what it says of the held-out pairs."""
    num_pairs = write_held_out(data, folder, name)
    work = folder / "runs" / f"{name}-{stage}-{seed}"
    if not RunFolder(work).report.is_file():
        recipe = read_recipe(write_recipe(data, folder, name, stage, seed), folder=work)
        run_recipe(recipe, progress=build_progress(json=False))
    (metrics,) = work.glob("stages/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    key = "validation/reward_accuracy" if stage == "rm" else "validation/rewards/accuracies"
    losses = [line["validation/loss"] for line in lines if "validation/loss" in line]
    ledger = json.loads(next(work.glob("stages/*/ledger.json")).read_text(encoding="utf-8"))

    def find_last(name: str) -> float | None:
        return next((line[name] for line in reversed(lines) if name in line), None)

    return {
        "set": name,
        "stage": stage,
        "seed": seed,
        "trained_rows": ledger["rows_trained"],
        "held_out": num_pairs,
        "accuracy": find_last(key),
        "margin": find_last("validation/rewards/margins"),
        "losses": [losses[0], losses[-1]] if losses else [],
        "metrics": json.loads(RunFolder(work).run_json.read_text(encoding="utf-8"))["metrics"],
    }


def describe(found: Mapping[str, Any]) -> list[str]:
    """Return a row of the table."""
    count, share = found["held_out"], found["accuracy"]
    higher = "labels are of single answers"
    if share is not None:
        interval = wilson_interval(round(share * count), count)
        higher = f"{share:.1%} ({interval.low:.1%} to {interval.high:.1%})"
    shown = {(metric["stage"], metric["name"]): metric for metric in found["metrics"]}
    likelier = [
        " -> ".join(describe_share(shown[stage, name]) for stage in ("base", found["stage"]) if (stage, name) in shown)
        for name in ("by_sum", "by_token")
    ]
    return [
        f"{found['set']}, {found['stage']}, {found['seed']}",
        f"{found['trained_rows']}",
        f"{count}",
        higher,
        "" if found["margin"] is None else f"{found['margin']:.2f}",
        " -> ".join(f"{loss:.3f}" for loss in found["losses"]),
        *likelier,
    ]


def describe_share(metric: Mapping[str, Any]) -> str:
    """Return a task's figure with its limits."""
    return f"{metric['value']:.1%} ({metric['low']:.1%} to {metric['high']:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the sets and the model")
    parser.add_argument("--folder", type=Path, default=Path(".cache/real_preferences"), help="recipes and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--runs", nargs="+", default=[f"{name}-{stage}" for name, stage in RUNS])
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        describe(measure(arguments.data.resolve(), folder, name, stage, seed))
        for name, stage in RUNS
        if f"{name}-{stage}" in arguments.runs
        for seed in arguments.seeds
    ]
    header = ["set, stage, seed", "trained on", "held out", "chosen is higher (95 %)", "margin", "validation loss"]
    print(format_table([*header, "chosen is likelier, by sum", "by token"], rows))


if __name__ == "__main__":
    main()
