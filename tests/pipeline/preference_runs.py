"""Recipes of preference stages over a tiny model and a few pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pipeline.tiny_runs import WORDS, Workshop, sft

LORA = {"rank": 2}


def make_pairs(path: Path, count: int, start: int = 0) -> Path:
    """Write pairs of answers to one question, all of other lengths; the chosen one names the first word."""
    lines = []
    for index in range(start, start + count):
        prompt = f"{WORDS[index % len(WORDS)] * (1 + index % 3)} {index}?"
        chosen, rejected = WORDS[index % 5], WORDS[5 + index % 7] * (1 + index % 2)
        lines.append(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected, "level": index}))
    path.write_text("\n".join(lines) + "\n")
    return path


def dpo(**changes: Any) -> dict[str, Any]:
    """A stage of four steps that logs each, in float32; None takes a key away."""
    own = {"name": "dpo", "type": "preference", "data": [{"source": "pairs.jsonl"}], "batch_size": 3, "beta": 0.5}
    return sft(**{**own, **changes})


def make_pair_workshop(folder: Path, base: Path) -> Workshop:
    """A workshop with ten pairs to train on and five to validate on."""
    workshop = Workshop(folder, base)
    make_pairs(workshop.folder / "pairs.jsonl", 10)
    make_pairs(workshop.folder / "held_pairs.jsonl", 5, start=40)
    return workshop
