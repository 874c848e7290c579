"""Recipes that tests write to disk: one that is right, and pieces to make it wrong."""

from __future__ import annotations

from pathlib import Path

GOOD = """\
schema: 1
name: demo
seed: 17
model: lab:seedling
chat: {template: plain, date: "2024-07-26", arguments: {enable_thinking: false}}
loggers: [tensorboard]
evaluate:
  - {name: held_out, data: {source: lab:conversations, split: held_out, rows: 200}, scorer: exact_match}
stages:
  - name: sft
    type: sft
    data:
      - {source: lab:conversations, rows: 100}
    epochs: 1
    learning_rate: 1e-3
"""


def write_recipe(folder: Path, text: str = GOOD, name: str = "demo.yaml") -> Path:
    """Write a recipe and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def with_line(line: str, text: str = GOOD) -> str:
    """Return the good recipe with one more top-level line."""
    return text + line + "\n"


def replaced(before: str, after: str, text: str = GOOD) -> str:
    """Return the good recipe with one piece replaced, which must be there."""
    assert before in text
    return text.replace(before, after, 1)
