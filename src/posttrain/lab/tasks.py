"""All skills of the lab, by group, and questions drawn from them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from posttrain.core.seeds import derive_seed
from posttrain.lab.questions import Question, Skill, ask
from posttrain.lab.skills import (
    arithmetic,
    citations,
    code,
    facts,
    hazards,
    instructions,
    logic,
    pressure,
    tools,
    words,
)
from posttrain.lab.world import World

SKILLS: tuple[Skill, ...] = tuple(
    skill
    for family in (arithmetic, words, facts, logic, code, instructions, tools, citations, pressure, hazards)
    for skill in family.SKILLS
)
GROUPS = tuple(dict.fromkeys(skill.group for skill in SKILLS))
ANSWER_GROUPS = ("arithmetic", "words", "facts", "logic")
"""Groups whose right replies end in a line `Answer: ...` (but for `about`, which tells)."""


_MAX_FRUITLESS = 400
"""So many questions in a row that were asked before end a set: its contents are used up."""


def choose_skills(names: Sequence[str]) -> tuple[Skill, ...]:
    """Return the skills of some groups, or single skills by their names."""
    return tuple(skill for skill in SKILLS if skill.group in names or skill.name in names)


def draw_question(skills: Sequence[Skill], world: World, split: str, generator: random.Random) -> Question:
    """Return a question of one of the skills, chosen by their weights."""
    skill = generator.choices(skills, [each.weight for each in skills])[0]
    return ask(skill, world, split, generator)


def generate_questions(skills: Sequence[Skill], world: World, split: str, count: int, seed: int) -> Iterator[Question]:
    """Yield `count` questions of a split, the same ones for the same seed.

    Training questions may repeat, as a small sum does in life. In every other split a conversation occurs once, so
    that no item counts twice; where a split runs out of conversations the rest is not given.
    """
    generator = random.Random(derive_seed(seed, "lab", "questions", split, *(skill.name for skill in skills)))
    asked: set[tuple[str, ...]] = set()
    fruitless = 0
    while count > 0 and fruitless < _MAX_FRUITLESS:
        question = draw_question(skills, world, split, generator)
        text = tuple(str(message["content"]) for message in question.messages)
        if split != "train" and text in asked:
            fruitless += 1
            continue
        fruitless = 0
        asked.add(text)
        count -= 1
        yield question
