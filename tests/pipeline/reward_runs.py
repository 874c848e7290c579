"""Rows of pairs, ratings and steps whose labels follow a rule, and recipes that learn it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.core.run_folder import REWARD_REPORT
from posttrain.models.reward_models import FACTS_FILE
from tests.pipeline.tiny_runs import WORDS, Finished, Workshop

GOOD, BAD = "zebra", "quit"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Pairs of which the one that ends in a good word is chosen, whichever is longer."""
    rows = []
    for index in range(start, start + count):
        first, second = WORDS[index % 7], WORDS[(index + 1) % 5] * (1 + index % 2)
        rows.append({
            "prompt": f"{WORDS[index % 12]} {index}?", "chosen": f"{first} {GOOD}", "rejected": f"{second} {BAD}",
            "margin": index % 3, "true_chosen": 1.0, "true_rejected": 0.0, "chance": 0.9,
        })  # fmt: skip
    return rows


def make_long(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Pairs of which the longer one is chosen, whichever is better."""
    rows = []
    for index in range(start, start + count):
        chosen, rejected = f"{WORDS[index % 7] * 3} {GOOD}", BAD + WORDS[index % 5][:1] * (index % 2)
        rows.append({"prompt": f"{WORDS[index % 12]} {index}?", "chosen": chosen, "rejected": rejected,
                     "true_chosen": index % 3, "true_rejected": 1})  # fmt: skip
    return rows


def make_rated(count: int, start: int = 0) -> list[dict[str, Any]]:
    rows = []
    for index in range(start, start + count):
        is_good = index % 2
        text = f"{WORDS[index % 7]} {GOOD if is_good else BAD}"
        rows.append({"prompt": f"{index}?", "completion": text, "help": 4 if is_good else 1, "harm": None if index % 3
                     else 3.5 - is_good})  # fmt: skip
    return rows


def make_stepwise(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Solutions of two or three steps, of which those that say a bad word are wrong."""
    rows = []
    for index in range(start, start + count):
        labels = [bool((index >> place) & 1) for place in range(2 + index % 2)]
        steps = [f"{WORDS[(index + place) % 9]} {GOOD if right else BAD}" for place, right in enumerate(labels)]
        rows.append({"prompt": f"{index}?", "completions": steps, "labels": labels})
    return rows


def make_reward_workshop(folder: Path, base: Path) -> Workshop:
    made = Workshop(folder, base)
    write_reward_rows(made.folder)
    return made


def write_reward_rows(folder: Path) -> None:
    """Files of pairs, ratings and steps, and pairs of which one is too long."""
    for name, make in (
        ("pairs", make_pairs),
        ("long_ones", make_long),
        ("rated", make_rated),
        ("steps", make_stepwise),
    ):
        write_rows(folder / f"judged_{name}.jsonl", make(24))
        write_rows(folder / f"judged_{name}_held_out.jsonl", make(12, start=100))
    rows = make_pairs(8)
    rows[5]["chosen"] = "much too long " * 8
    write_rows(folder / "judged_long.jsonl", rows)


def rm(rows: str = "pairs", **changes: Any) -> dict[str, Any]:
    """A stage of a few steps in float32; None takes a key away."""
    stage = {
        "name": "rm",
        "type": "reward_model",
        "data": [{"source": f"judged_{rows}.jsonl"}],
        "validation": [{"source": f"judged_{rows}_held_out.jsonl"}],
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "dtype": "float32",
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
        **changes,
    }
    return {key: value for key, value in stage.items() if value is not None}


def find_artifact(run: Finished, stage: int = 0) -> Path:
    """The folder of a stage's reward model."""
    return run.folder.artifacts / run.record["stages"][stage]["outputs"]["reward_model"]


def read_report(run: Finished) -> dict[str, Any]:
    return json.loads((find_artifact(run) / REWARD_REPORT).read_text())


def read_facts(run: Finished) -> dict[str, Any]:
    return json.loads((find_artifact(run) / FACTS_FILE).read_text())
