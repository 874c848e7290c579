"""Sample completions: the same items answered by the base and after every stage, side by side.

An item's line is an `ItemResult`; two further keys are shown where a task writes them: `prompt` (text,
or a list of messages) and `reference` (the expected answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.reports.columns import list_columns
from posttrain.reports.item_tables import ItemTable, match_items, read_value
from posttrain.reports.numbers import format_compact, format_count
from posttrain.reports.raw_values import list_of, mapping_of, text_of
from posttrain.reports.run_files import RunFiles
from posttrain.reports.visible_text import cut_text

NUM_FIRST = 4
NUM_FAILED = 2
MAX_PROMPT_CHARACTERS = 1200
MAX_ANSWER_CHARACTERS = 1600


@dataclass(frozen=True, slots=True)
class Answer:
    """What one policy wrote for an item, and how it was judged; `mark` is `good`, `bad`, `part` or `masked`.

    `label` says whose it is: `base`, or `after sft`.
    """

    label: str
    text: str
    num_left_out: int
    verdict: str
    why: str
    mark: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One item with its prompt (role and text of each message) and the answers in the order of the run."""

    item_id: str
    prompt: list[tuple[str, str]]
    reference: str
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class TaskSamples:
    """A task's samples, and the sentence that says what changed over all of its items."""

    task: str
    summary: str
    samples: list[Sample]


def build_samples(files: RunFiles) -> list[TaskSamples]:
    """Return some items of each task, chosen by place and not by charm.

    The first `NUM_FIRST` items are shown, then the first `NUM_FAILED` further ones that the last policy
    did not get fully right.
    """
    shown = [
        _Column(column.answerer, files.items.get(column.label, {}), not column.remark)
        for column in list_columns(files.run)
    ]
    in_order = [text_of(mapping_of(metric).get("task")) for metric in list_of(files.run.get("metrics"))]
    measured = {task: [column for column in shown if column.tables.get(task)] for task in dict.fromkeys(in_order)}
    return [_build_task(task, asked) for task, asked in measured.items() if asked]


@dataclass(frozen=True, slots=True)
class _Column:
    """What one policy answered, by task; `is_step` says whether it was passed on."""

    label: str
    tables: Mapping[str, ItemTable]
    is_step: bool


def _build_task(task: str, columns: Sequence[_Column]) -> TaskSamples:
    tables = [(column.label, column.tables[task]) for column in columns]
    steps = [pair for pair, column in zip(tables, columns, strict=True) if column.is_step] or tables
    (name, first), (_, last) = steps[0], steps[-1]
    keys, values = list(last.places), last.read_values()
    failed = [
        key for place, key in enumerate(keys) if place >= NUM_FIRST and last.applies[place] and not values[place] >= 1.0
    ]
    chosen = [*keys[:NUM_FIRST], *failed[:NUM_FAILED]]
    return TaskSamples(
        task=task,
        summary=_summarize(name, first, last) if len(steps) > 1 else f"{format_count(len(last))} items",
        samples=[_build_sample(key, tables) for key in chosen],
    )


def _summarize(name: str, before: ItemTable, after: ItemTable) -> str:
    first, second = match_items(before, after)
    changes = after.read_values()[second] - before.read_values()[first]
    known = changes[~np.isnan(changes)]
    better, worse = int((known > 0).sum()), int((known < 0).sum())
    text = f"{format_count(known.size)} items paired with {name}: {better} better, {worse} worse, "
    text += f"{known.size - better - worse} the same"
    return text + (f"; {changes.size - known.size} masked" if changes.size > known.size else "")


def _build_sample(key: bytes, tables: Sequence[tuple[str, ItemTable]]) -> Sample:
    return build_sample([(name, table.read_item(table.places[key])) for name, table in tables if key in table.places])


def build_sample(found: Sequence[tuple[str, Mapping[str, Any]]]) -> Sample:
    """Return one item with its answers side by side.

    Args:
        found: Whose answer it is, and the item's line.
    """
    prompt = next((item["prompt"] for _, item in found if item.get("prompt")), None)
    reference = next((text_of(item["reference"]) for _, item in found if item.get("reference") is not None), "")
    return Sample(
        item_id=next((text_of(item["item_id"]) for _, item in found if item.get("item_id") is not None), ""),
        prompt=read_prompt(prompt),
        reference=cut_text(reference, MAX_PROMPT_CHARACTERS)[0],
        answers=[_build_answer(label, item) for label, item in found],
    )


def read_prompt(prompt: Any) -> list[tuple[str, str]]:
    """Return role and text of each message of a prompt, which is text or a list of messages."""
    messages = [mapping_of(message) for message in list_of(prompt)] or [{"role": "", "content": prompt}]
    parts = [(text_of(message.get("role")), text_of(message.get("content"))) for message in messages]
    shown = [(role, *cut_text(content, MAX_PROMPT_CHARACTERS)) for role, content in parts if content]
    return [(role, text + (" …" if left_out else "")) for role, text, left_out in shown]


def _build_answer(label: str, item: Mapping[str, Any]) -> Answer:
    outcome = mapping_of(item.get("outcome"))
    status, value = text_of(outcome.get("status")), read_value(item)
    text, num_left_out = cut_text(text_of(item.get("text")), MAX_ANSWER_CHARACTERS)
    verdict = status.replace("_", " ") or "no outcome"
    if status == "scored" and value is not None:
        verdict = name_score(value)
    if outcome.get("fault") == "harness":
        verdict, mark = f"{verdict} (not the policy's fault, masked)", "masked"
    elif status == "not_applicable":
        mark = "masked"
    else:
        mark = mark_score(value)
    return Answer(label, text, num_left_out, verdict, text_of(outcome.get("why")), mark)


def name_score(value: float) -> str:
    """Return a score in words where it is all or nothing."""
    return "correct" if value == 1 else "wrong" if value == 0 else f"score {format_compact(value)}"


def mark_score(value: float | None) -> str:
    """Return how a score is drawn: `good`, `part` or `bad`."""
    return "good" if value == 1 else "part" if value and 0 < value < 1 else "bad"
