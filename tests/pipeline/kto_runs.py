"""Recipes of KTO stages over a tiny model and a few labelled completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pipeline.preference_runs import make_pair_workshop
from tests.pipeline.tiny_runs import WORDS, Workshop, sft


def make_labelled(path: Path, count: int, start: int = 0) -> Path:
    """Write labelled answers of unequal lengths, two of three desirable; the desirable ones are the first words."""
    lines = []
    for index in range(start, start + count):
        is_good = index % 3 > 0
        answer = WORDS[index % 5] if is_good else WORDS[5 + index % 7] * (1 + index % 2)
        row = {"prompt": f"{WORDS[index % len(WORDS)]} {index}?", "completion": answer, "label": is_good}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def labelled(**changes: Any) -> dict[str, Any]:
    """A stage of four steps that logs each, in float32; None takes a key away."""
    own = {"name": "kto", "type": "kto", "data": [{"source": "labelled.jsonl"}], "batch_size": 4, "beta": 0.5}
    return sft(**{**own, **changes})


def make_labelled_workshop(folder: Path, base: Path) -> Workshop:
    """A workshop with twelve labelled rows to train on and six to validate on, and with pairs."""
    workshop = make_pair_workshop(folder, base)
    make_labelled(workshop.folder / "labelled.jsonl", 12)
    make_labelled(workshop.folder / "held_labelled.jsonl", 6, start=40)
    return workshop
