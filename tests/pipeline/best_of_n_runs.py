"""Recipes that study best-of-n on a tiny model: reward models on a few pairs, and scores of a text's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.core.run_folder import STUDY_FIGURES
from tests.pipeline.tiny_runs import Finished, make_rows

SCORERS = """
def near_four(prompts, completions, completion_ids, **columns):
    return [-abs(len(text) - 4.0) for text in completions]


def long(prompts, completions, completion_ids, **columns):
    return [float(len(text)) for text in completions]


def near_zero(prompts, completions, completion_ids, **columns):
    return [-float(len(text)) for text in completions]


def broken(prompts, completions, completion_ids, **columns):
    raise RuntimeError("the judge is away")
"""
"""Gold that likes four characters or none, a proxy that likes many, and one whose harness fails."""


def write_study_files(folder: Path) -> None:
    """Write questions to be asked and scorers of texts."""
    make_rows(folder / "asked.jsonl", 24, start=60)
    (folder / "texts.py").write_text(SCORERS)


def study(**changes: Any) -> dict[str, Any]:
    """A stage that asks 24 questions eight times each; a random policy's answers end at a vowel, sooner or later."""
    stage = {
        "name": "study",
        "type": "best_of_n",
        "data": [{"source": "asked.jsonl"}],
        "n": 8,
        "gold": "texts.py:near_four",
        "proxies": {"long": "texts.py:long"},
        "max_new_tokens": 30,
        "temperature": 1.5,
        "stop": list("aeiou 0123456789"),
        "dtype": "float32",
        **changes,
    }
    return {key: value for key, value in stage.items() if value is not None}


def find_study(run: Finished, stage: int = -1) -> Path:
    """The folder of a stage's study."""
    return run.folder.artifacts / run.record["stages"][stage]["outputs"]["evaluation"]


def read_study(run: Finished, stage: int = -1) -> dict[str, Any]:
    """The figures of a stage's study."""
    found: dict[str, Any] = json.loads((find_study(run, stage) / STUDY_FIGURES).read_text())
    return found
