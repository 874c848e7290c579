"""The lab's sets as raw rows, for `source: lab:<set>` in a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.lab.behaviours import generate_truth_questions, truth_rows
from posttrain.lab.corpus import generate_documents, generate_pages
from posttrain.lab.demonstrations import Tier, describe_question, generate_demonstrations
from posttrain.lab.preferences import generate_preferences, generate_ratings
from posttrain.lab.questions import Question
from posttrain.lab.tasks import ANSWER_GROUPS, GROUPS, SKILLS, choose_skills, generate_questions
from posttrain.lab.tastes import TASTES
from posttrain.lab.world import WORLD_SEED, build_world

LAB_VERSION = "2"
"""The version of corpus and tokenizer, which the base is made from; raised whenever either changes."""

PREFERENCE_GROUPS = (*ANSWER_GROUPS, "pressure", "hazards")
"""Groups whose replies have a style to prefer."""
_MEASURED = {"train": 20_000, "development": 600, "held_out": 600, "final": 600, "perturbed": 600}
_JUDGED = {**_MEASURED, "train": 40_000, "development": 1_200, "held_out": 1_200}
_TAUGHT = {**_MEASURED, "train": 24_000}


@dataclass(frozen=True, slots=True)
class RowSet:
    """One set: what it is, how many rows each split has at most, and what generates them."""

    about: str
    num_rows: dict[str, int]
    generate: Callable[[str, int], Iterator[dict[str, Any]]]


def _documents(split: str, count: int) -> Iterator[dict[str, Any]]:
    for text in generate_documents(build_world(), split, count, WORLD_SEED):
        yield {"text": text}


def _pages(split: str, count: int) -> Iterator[dict[str, Any]]:
    for text in generate_pages(build_world(), split, count, WORLD_SEED):
        yield {"text": text}


def _demonstrations(*tiers: Tier) -> Callable[[str, int], Iterator[dict[str, Any]]]:
    def generate(split: str, count: int) -> Iterator[dict[str, Any]]:
        return generate_demonstrations(SKILLS, build_world(), split, count, WORLD_SEED, tiers)

    return generate


def _questions(*names: str) -> Callable[[str, int], Iterator[dict[str, Any]]]:
    """Return what generates questions of groups, or of single skills."""
    skills = choose_skills(names)

    def generate(split: str, count: int) -> Iterator[dict[str, Any]]:
        for question in generate_questions(skills, build_world(), split, count, WORLD_SEED):
            yield question_row(question)

    return generate


def _preferences(taste: str | None = None) -> Callable[[str, int], Iterator[dict[str, Any]]]:
    def generate(split: str, count: int) -> Iterator[dict[str, Any]]:
        return generate_preferences(choose_skills(PREFERENCE_GROUPS), build_world(), split, count, WORLD_SEED, taste)

    return generate


def _ratings(split: str, count: int) -> Iterator[dict[str, Any]]:
    return generate_ratings(choose_skills(PREFERENCE_GROUPS), build_world(), split, count, WORLD_SEED)


def _behaviours(split: str, count: int) -> Iterator[dict[str, Any]]:
    """Every question in both orders, so that `count` rows are half as many questions."""
    for question in generate_truth_questions(build_world(), split, count // 2, WORLD_SEED):
        yield from truth_rows(question)


def question_row(question: Question) -> dict[str, Any]:
    """Return a question as a row of `prompt` messages with its columns."""
    return {"prompt": question.messages, **describe_question(question)}


ROW_SETS: dict[str, RowSet] = {
    "documents": RowSet("the pretraining corpus", {"train": 180_000, "development": 400}, _documents),
    "pages": RowSet("several documents on one page", {"train": 8_000, "development": 100}, _pages),
    "conversations": RowSet("demonstrations, half of them experts'", _TAUGHT, _demonstrations("expert", "crowd")),
    "expert": RowSet("demonstrations of experts", _TAUGHT, _demonstrations("expert")),
    "crowd": RowSet("demonstrations of the crowd", _TAUGHT, _demonstrations("crowd")),
    "preferences": RowSet("pairs labelled by the gold function", _MEASURED, _preferences()),
    **{
        f"prefer_{name}": RowSet(f"pairs of which is preferred: {taste.about}", _JUDGED, _preferences(name))
        for name, taste in TASTES.items()
    },
    "ratings": RowSet("replies with a number for each attribute, two to a question", _JUDGED, _ratings),
    "questions": RowSet("questions answered by a line `Answer: ...`", _MEASURED, _questions(*ANSWER_GROUPS)),
    "forbidden": RowSet("requests that the house forbids", _MEASURED, _questions("forbidden")),
    "look_alikes": RowSet("harmless requests that look like forbidden ones", _MEASURED, _questions("look_alike")),
    "behaviours": RowSet("whether what is true would be said, in both orders of the options", _MEASURED, _behaviours),
    **{group: RowSet(f"questions of the group {group}", _MEASURED, _questions(group)) for group in GROUPS},
}


def lab_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a named set and split, the same ones in every process.

    Raises:
        DataError: The lab has no such set, or the set has no such split.
    """
    row_set = ROW_SETS.get(name)
    if row_set is None:
        raise DataError(
            f"the lab has no set '{name}'",
            expected="one of " + ", ".join(f"lab:{known}" for known in ROW_SETS),
            cure=suggest(name, ROW_SETS),
            place=f"lab:{name}",
        )
    if split not in row_set.num_rows:
        raise DataError(
            f"lab:{name} has no split '{split}'",
            expected="one of " + ", ".join(row_set.num_rows),
            cure=suggest(split, row_set.num_rows),
            place=f"lab:{name}",
        )
    return row_set.generate(split, row_set.num_rows[split])
