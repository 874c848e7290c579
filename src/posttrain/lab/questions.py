"""A question whose right reply is known, and the skills that ask them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from posttrain.core.records import Message
from posttrain.lab.splits import find_split
from posttrain.lab.world import World

Form = Literal["answer", "code", "calls", "constraint", "cited", "claims", "request"]
"""What a right reply looks like: words and a last line `Answer: ...`; a program; tool calls (or an answer where none is
needed); a text under a constraint; a sentence that cites; sentences of facts; help or a refusal."""

ANSWER_MARK = "Answer:"
"""What stands before the short answer in the last line of a reply."""
_MAX_FRUITLESS_DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Reply:
    """What somebody answers, before style: words, a short answer where the form has one, and calls of tools.

    Example: `Reply("7 + 8 = 15. 4 + 3 + 1 = 8.", "85")`.
    """

    words: str = ""
    answer: str | None = None
    calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, its right reply, and the wrong ones that people give.

    Made by the skills, read by the corpus, the demonstrations, the preferences and `lab/source.py`. `history` are the
    messages before the prompt; `columns` is what the scorers read; `brief` is the right reply without its working.
    `statements` say question and answer in prose. `ask` fills in skill, group and content.

    Example: skill `add_two_digits`, content `38 + 47`, prompt `What is 47 + 38?`, right reply with the answer `85`,
    wrong replies with `75` and `84`.
    """

    form: Form
    prompt: str
    right: Reply
    wrong: tuple[Reply, ...]
    brief: Reply | None = None
    statements: tuple[str, ...] = ()
    history: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    skill: str = ""
    group: str = ""
    content: str = ""

    @property
    def messages(self) -> list[Message]:
        """The conversation up to and with the prompt."""
        return [*self.history, {"role": "user", "content": self.prompt}]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a skill drew: the content, which decides the split, and the question once its wording is known."""

    content: str
    build: Callable[[random.Random, bool], Question]
    """Called with a generator and whether the wording is a perturbed one."""


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing to be good at. `weight` is its share of a mixture, relative to the others."""

    name: str
    group: str
    weight: int
    draw: Callable[[World, random.Random], Draft]


def ask(skill: Skill, world: World, split: str, generator: random.Random) -> Question:
    """Return a question of a skill whose content lies in a split, worded as that split words its questions."""
    for _ in range(_MAX_FRUITLESS_DRAWS):
        draft = skill.draw(world, generator)
        if find_split(draft.content) == split:
            return replace(
                draft.build(generator, split == "perturbed"), skill=skill.name, group=skill.group, content=draft.content
            )
    raise AssertionError(f"skill {skill.name} has no content in split {split}")


def choose_right(question: Question, generator: random.Random, worked_share: float) -> Reply:
    """Return the right reply with its working, for a share of those who answer, or at once where that can be done."""
    if question.brief is not None and generator.random() >= worked_share:
        return question.brief
    return question.right


def unmark(text: str) -> str:
    """Return a reply as people say it in prose, its answer not marked as one."""
    return text.replace(ANSWER_MARK, "It is")


def choose_wording(
    generator: random.Random, is_perturbed: bool, usual: tuple[str, ...], perturbed: tuple[str, ...]
) -> str:
    """Return one of the wordings of a split."""
    return generator.choice(perturbed if is_perturbed else usual)
