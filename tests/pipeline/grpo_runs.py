"""Recipes of a stage that samples, and a workshop with rewards of the tests' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.tiny_runs import Workshop, recipe_values

OWN = """\
def length(completions, **columns):
    return [float(len(text)) for text in completions]


def brevity(completions, **columns):
    return [-float(len(text)) for text in completions]


def vowels(completions, **columns):
    return [sum(text.lower().count(letter) for letter in "aeiou") / 8 for text in completions]


def nothing(completions, **columns):
    return [1.0 for _ in completions]


def zero(completions, **columns):
    return [0.0 for _ in completions]


def broken(completions, **columns):
    raise OSError("the disk is away")
"""


def rl(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "rl",
        "type": "grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": "own.py:length",
        "steps": 3,
        "problems_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 8,
        "learning_rate": 3e-3,
        "dtype": "float32",
        "log_every_steps": 1,
        "checkpoint_every_steps": 1,
    }
    return recipe_values({**values, **changes})


def make_workshop(folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> Workshop:
    """A workshop with the tests' own rewards, in which paths start; further files by their names without `.py`."""
    made = Workshop(folder, base)
    for name, text in {"own": OWN, **files}.items():
        (made.folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(made.folder)
    return made
