"""Tasks of lm-evaluation-harness: the harness's own numbers, items that gates read, refusals with a cure."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, RecipeError, RefusedError
from posttrain.evaluation import harness
from posttrain.pipeline.comparing import compare_sides
from posttrain.pipeline.measured_sides import read_side
from posttrain.pipeline.suites import read_suite
from tests.models.tiny_models import save_tiny
from tests.pipeline.harness_bench import (
    CHOICES,
    DRAWN,
    LAST_WORD,
    ROLLING,
    TASKS_FOLDER,
    build_task,
    compare,
    measure,
    measure_by_harness,
    write_rows,
    write_task,
)
from tests.pipeline.tiny_runs import Workshop, recipe_values, sft

ANIMALS = ("ant", "elephant", "cow", "kiwi")
QUESTIONS = [
    {
        "question": f"which animal is number {n}, and which is {n * n}? ",
        "choices": list(ANIMALS[n % 2 : n % 2 + 3]),
        "gold": n % 3,
        "text": f"the {ANIMALS[n % 4]} met {n} others, " * (1 + 9 * (n % 4)) + "and slept.",
    }
    for n in range(6)
]
NAMES = ("tiny_choices", "tiny_texts", "tiny_words", "tiny_answers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over bytes whose context is 128."""
    return save_tiny(tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task of each type."""
    file = write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    question = "{{question}}"
    write_task(tmp_path, "tiny_choices", "multiple_choice", file, CHOICES.format(question=question, right="gold"))
    write_task(tmp_path, "tiny_texts", "loglikelihood_rolling", file, ROLLING.format())
    write_task(tmp_path, "tiny_words", "loglikelihood", file, LAST_WORD.format(words=3))
    drawn = DRAWN.format(question=question, target="{{choices[0]}}", tokens=12)
    write_task(tmp_path, "tiny_answers", "generate_until", file, drawn)
    return tmp_path


def add_task(folder: Path, name: str, source: str, **changes: str) -> None:
    """Copy a task under another name, texts of its YAML replaced."""
    text = (folder / TASKS_FOLDER / f"{source}.yaml").read_text().replace(source, name)
    for before, after in changes.items():
        text = text.replace(before, after)
    (folder / TASKS_FOLDER / f"{name}.yaml").write_text(text)


def test_every_type_of_task_gives_the_number_of_the_harnesss_own_back_end(model: Path, folder: Path) -> None:
    """Texts of up to 29 words of bytes are longer than the context of 128, so that windows are cut too."""
    ours = measure(model, folder, *(build_task(name) for name in NAMES))
    worst = compare(ours, measure_by_harness(model, folder, NAMES), NAMES)
    assert worst["metrics"] < 1e-4
    assert worst["loglikelihoods"] < 1e-3
