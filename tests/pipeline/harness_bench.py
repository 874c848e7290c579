"""Rows about animals, and a task of lm-evaluation-harness of each type over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness_tasks import CHOICES, DRAWN, LAST_WORD, ROLLING, TASKS_FOLDER, write_rows, write_task
from posttrain.pipeline.evaluating import Evaluated

ANIMALS = ("ant", "elephant", "cow", "kiwi")


def write_tasks(folder: Path, count: int) -> None:
    """Write rows about animals and a task of each type: `tiny_choices`, `tiny_texts`, `tiny_words`, `tiny_answers`."""
    rows = [
        {
            "question": f"which animal is {n}?",
            "choices": list(ANIMALS[n % 2 : n % 2 + 3]),
            "gold": n % 3,
            "text": f"the {ANIMALS[n % 4]} met {n} others, "
            + f"a {ANIMALS[n % 3]} " * (1 + 20 * (n % 4))
            + "and slept.",
        }
        for n in range(count)
    ]
    file = write_rows(folder / "questions.jsonl", rows)
    question = "{{question}}"
    write_task(folder, "tiny_choices", "multiple_choice", file, CHOICES.format(question=question, right="gold"))
    write_task(folder, "tiny_texts", "loglikelihood_rolling", file, ROLLING.format())
    write_task(folder, "tiny_words", "loglikelihood", file, LAST_WORD.format(words=3))
    drawn = DRAWN.format(question=question, target="{{choices[0]}}", tokens=12)
    write_task(folder, "tiny_answers", "generate_until", file, drawn)


def add_task(folder: Path, name: str, source: str, *changes: tuple[str, str]) -> None:
    """Copy a task under another name, with texts of its YAML replaced."""
    text = (folder / TASKS_FOLDER / f"{source}.yaml").read_text().replace(source, name)
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    (folder / TASKS_FOLDER / f"{name}.yaml").write_text(text)


def find_metrics(evaluated: Evaluated) -> dict[str, list[dict[str, Any]]]:
    """The figures of every task."""
    return {name: measured.metrics for name, measured in evaluated.measured.items()}
