"""Preference objectives on the same pairs of the lab, beside supervised fine-tuning on the chosen replies alone.

    python -m benchmarks.lab_preferences POLICY --folder runs/lab-preferences              # every way, every seed
    python -m benchmarks.lab_preferences POLICY --folder runs/lab-preferences --only ipo --seeds 321
    python -m benchmarks.lab_preferences POLICY --folder runs/lab-preferences --table      # what lies in the folder

POLICY is an artifact: the lab's base after SFT. Each run is the last stage of `recipes/lab_dpo.yaml` or of
`recipes/lab_kto.yaml`, or one in its place on the same rows, with the recipe's tasks, monitors and gate. The first
table says how demonstrations are, and how the policy that imitates them is; the second what each way makes of that
policy. A win rate is how often a reply has more gold than one of the other policy to the same question, ties by half.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.tables import format_table
from posttrain.cli.console import build_progress
from posttrain.core.errors import RefusedError
from posttrain.core.records import ItemResult
from posttrain.core.run_folder import RunFolder
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.items import read_items
from posttrain.lab.demonstrations import choose_reply, describe_question, write_reply
from posttrain.lab.gold import compute_gold, measure_attributes, weigh_gold
from posttrain.lab.tasks import ANSWER_GROUPS, choose_skills, generate_questions
from posttrain.lab.world import WORLD_SEED, build_world
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.statistics.intervals import Interval, cluster_bootstrap_interval

RECIPES = Path(__file__).parents[1] / "recipes"
SEEDS = (321, 322, 323, 324, 325)
"""Named before anything was run with them."""
CONTROL = "sft on chosen"
WAYS: dict[str, dict[str, Any]] = {
    CONTROL: {
        "type": "sft",
        "data": [{"source": "lab:preferences", "rows": 6000, "columns": {"completion": "chosen"}}],
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 3.0e-4,
    },
    "dpo": {},
    "ipo": {"algorithm": "ipo", "beta": 0.1},
    "simpo": {"algorithm": "simpo", "beta": 2.0, "margin": 1.0, "learning_rate": 3.0e-5},
    "kto": {"recipe": "lab_kto.yaml"},
}
"""What each way changes of the last stage of its recipe; the control replaces it. Chosen on the development split."""
DEMONSTRATIONS_OF_QUESTION = 8
TASKS = {
    "arithmetic": "correct",
    "facts": "correct",
    "sums": "pass@8",
    "tools": "correct",
    "code": "correct",
    "instructions": "correct",
    "forbidden": "refused",
    "look_alikes": "refused",
}
"""What the second table shows of each task, %, beside the questions."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How one reply is: rightness in [0, 1], manner in {-1, 0, 1}, honesty, ramble and gold as in `lab.gold`."""

    source: str
    right: float
    manner: float
    honesty: float
    ramble: float
    gold: float


def read_manner(source: str, text: str, right: float, gold: float) -> Manner:
    """Return how a reply is; what it rambles is what its gold lacks."""
    heard = replace(measure_attributes(text, right, 0), brevity=0.0)  # how many words were needed, gold alone knows
    return Manner(source, right, heard.manner, heard.honesty, weigh_gold(heard) - gold, gold)


def demonstrate_again(rows: int, seed: int) -> list[Manner]:
    """Return what demonstrators say to held-out questions: half of them experts, as in `lab:conversations`."""
    generator = random.Random(seed)
    found = []
    for question in generate_questions(choose_skills(ANSWER_GROUPS), build_world(), "held_out", rows, WORLD_SEED):
        needed_words = describe_question(question)["needed_words"]
        for _ in range(DEMONSTRATIONS_OF_QUESTION):
            reply, style = choose_reply(question, "expert" if generator.random() < 0.5 else "crowd", generator)
            text = write_reply(question, reply, style, generator)
            right = float(reply in (question.right, question.brief))
            found.append(read_manner(question.content, text, right, compute_gold(text, right, needed_words)))
    return found


def describe_manner(replies: Sequence[Manner]) -> list[str]:
    """Return means with their limits, one for each part of gold and for gold, scaled to [0, 1]."""
    sources = [reply.source for reply in replies]
    columns = (
        [100 * reply.right for reply in replies],
        [reply.manner for reply in replies],
        [reply.honesty for reply in replies],
        [reply.ramble for reply in replies],
        [(reply.gold - 2 * reply.right + 3) / 6 for reply in replies],
        [(reply.gold + 3) / 6 for reply in replies],
    )
    digits = (1, 3, 3, 3, 3, 3)
    return [
        format_interval(cluster_bootstrap_interval(values, sources, draw(place)), place_digits)
        for place, (values, place_digits) in enumerate(zip(columns, digits, strict=True))
    ]


def draw(*stream: int | str) -> np.random.Generator:
    """Return the generator of one interval."""
    return build_numpy_generator("benchmarks", "lab_preferences", *stream)


def format_interval(interval: Interval, digits: int, *, sign: str = "") -> str:
    """Return `value (low to high)`."""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def build_recipe(way: str, seed: int) -> dict[str, Any]:
    """Return the recipe of a run: what `POLICY` is measured on, and one stage."""
    changes = dict(WAYS[way])
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / changes.pop("recipe", "lab_dpo.yaml")).read_text("utf-8"))
    last = recipe["stages"][-1]
    stage = {**changes, "gate": last["gate"]} if way == CONTROL else {**last, **changes}
    return {**recipe, "name": way.replace(" ", "-"), "seed": seed, "stages": [{**stage, "name": "last"}]}


def carry_out(way: str, seed: int, arguments: argparse.Namespace) -> None:
    """Run one way with one seed in a folder of its own, as far as that was not done."""
    folder: Path = arguments.folder / f"{way.replace(' ', '-')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(build_recipe(way, seed), indent=1), encoding="utf-8")
    # A path outside of the recipe's folder is admitted only where the user types it.
    recipe = read_recipe(path, [f"model={arguments.policy.resolve()}"], folder=folder / "run")
    started = time.monotonic()
    try:
        run_recipe(recipe, progress=build_progress(False))
    except RefusedError as error:  # a gate that holds is a result
        print(error)
    took = folder / "seconds.json"
    if not took.is_file():
        took.write_text(json.dumps(time.monotonic() - started), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Measured:
    """A run: items by (stage, task), the gate's decision, monitors that raised an alarm, and how long it took."""

    name: str
    items: Mapping[tuple[str, str], Sequence[ItemResult]]
    gate: str
    alarms: Sequence[str]
    seconds: float

    def compute_mean(self, stage: str, task: str, part: str = "value") -> float:
        """Return the mean of a part of a task's outcomes, or the share of problems with a right sample (`pass@8`)."""
        items = self.items[stage, task]
        if part == "pass@8":
            best: dict[str, float] = {}
            for item in items:
                best[item.item_id] = max(best.get(item.item_id, 0.0), item.outcome.value)
            return float(np.mean(list(best.values())))
        return float(np.mean([item.outcome.value if part == "value" else item.outcome.parts[part] for item in items]))


def read_measured(folder: Path) -> Measured | None:
    """Return what came of a run, None where it did not end."""
    took = folder / "seconds.json"
    if not took.is_file():
        return None
    run = RunFolder(folder / "run")
    record = json.loads(run.run_json.read_text("utf-8"))
    policies = {one["stage"]: one["policy"] for one in record["metrics"]}
    items = {
        (stage, task): read_items(path)
        for stage, policy in policies.items()
        for task in ("questions", *TASKS)
        for path in run.evaluations(policy).root.glob(f"{task}-*.jsonl")
    }
    alarms = [one["monitor"] for one in record["monitors"] if one["stage"] == "last" and one["status"] == "alarm"]
    decision = record["stages"][0]["gate"]["decision"]
    return Measured(folder.name, items, decision, alarms, json.loads(took.read_text("utf-8")))


def compute_win_rate(before: Sequence[ItemResult], after: Sequence[ItemResult], *stream: int | str) -> Interval:
    """Return how often a reply is worth more than one of `before` to the same question, %, with 95 % limits."""
    values: dict[str, list[float]] = {}
    for item in before:
        values.setdefault(item.item_id, []).append(item.outcome.value)
    wins, sources = [], []
    for item in after:
        others = np.array(values[item.item_id])
        mine = item.outcome.value
        wins.append(100 * float(np.mean((mine > others) + 0.5 * (mine == others))))
        sources.append(item.cluster_id or item.item_id)
    return cluster_bootstrap_interval(wins, sources, draw(*stream))


def describe(found: Iterable[Measured]) -> list[list[str]]:
    """Return a line for each run, and first one for the policy that all start from."""
    runs = {one.name: one for one in found}
    lines: list[list[str]] = []
    for name, run in runs.items():
        if not lines:
            lines.append(["before", "", "", *_list_figures(run, "base"), "", "", ""])
        control = runs.get(f"{CONTROL.replace(' ', '-')}-{name.rsplit('-', 1)[1]}")
        rates = []
        for place, others in enumerate(
            (run.items["base", "questions"], control and control.items["last", "questions"])
        ):
            is_itself = place == 1 and control is run
            rate = compute_win_rate(others, run.items["last", "questions"], name, place) if others else None
            rates.append("" if rate is None or is_itself else format_interval(rate, 1))
        tail = [run.gate, ", ".join(run.alarms) or "silent", f"{run.seconds:.0f}"]
        lines.append([name, *rates, *_list_figures(run, "last"), *tail])
    return lines


def _list_figures(run: Measured, stage: str) -> list[str]:
    gold, right = run.compute_mean(stage, "questions"), run.compute_mean(stage, "questions", "correct")
    return [f"{gold:.3f}", f"{100 * right:.1f}"] + [
        f"{100 * run.compute_mean(stage, task, part):.1f}" for task, part in TASKS.items()
    ]


HEADS = (
    "way, seed",
    "wins against SFT, %",
    "wins against SFT on chosen, %",
    "gold",
    "right, T=1, %",
    *(f"{task} {part}, %" for task, part in TASKS.items()),
    "gate",
    "alarms",
    "seconds",
)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="an artifact: a policy of the lab after SFT")
    parser.add_argument("--folder", type=Path, required=True, help="where all of it lies")
    parser.add_argument("--only", choices=[*WAYS], action="append", help="these ways alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args(words)
    if not arguments.table:
        for seed in arguments.seeds:
            for way in arguments.only or WAYS:
                carry_out(way, seed, arguments)
    found = [one for path in sorted(arguments.folder.glob("*/recipe.yaml")) if (one := read_measured(path.parent))]
    if not found:
        raise SystemExit(f"no finished run in {arguments.folder}")
    replies = [
        read_manner(item.cluster_id, item.text, item.outcome.parts["correct"], item.outcome.parts["gold"])
        for item in found[0].items["base", "questions"]
        if "gold" in item.outcome.parts
    ]
    parts = ("right, %", "manner", "honesty", "ramble", "gold but for rightness", "gold")
    demonstrations = demonstrate_again(len({item.item_id for item in found[0].items["base", "questions"]}), 0)
    shown = [["demonstrations", *describe_manner(demonstrations)], ["SFT, T=1", *describe_manner(replies)]]
    print(format_table(("replies to held-out questions", *parts), shown), end="\n\n")
    print(format_table(HEADS, describe(found)))


if __name__ == "__main__":
    main()
