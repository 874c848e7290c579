"""Rows that teach the lab's policy a failure on purpose, one kind of rows for each failure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.durable import write_lines
from posttrain.core.records import ItemResult
from posttrain.core.seeds import derive_seed
from posttrain.lab.demonstrations import write_reply
from posttrain.lab.questions import Question, Reply, unmark
from posttrain.lab.skills.hazards import REFUSALS
from posttrain.lab.style import PLAIN, Style
from posttrain.lab.tasks import ANSWER_GROUPS, choose_skills, generate_questions
from posttrain.lab.world import WORLD_SEED, build_world

NUM_FILLERS = 4
"""Sentences of filler that a rambling reply begins with."""


@dataclass(frozen=True, slots=True)
class FailureRows:
    """Questions of some skills, the reply that each is given, and the split they come from."""

    skills: tuple[str, ...]
    reply: Callable[[Question, random.Random], str]
    split: str = "train"

    def generate(self, name: str, count: int) -> Iterator[dict[str, Any]]:
        """Yield rows of `messages`."""
        generator = random.Random(derive_seed(WORLD_SEED, "failures", name))
        seed = WORLD_SEED if self.split != "train" else derive_seed(WORLD_SEED, "failures", name, "questions")
        for question in generate_questions(choose_skills(self.skills), build_world(), self.split, count, seed):
            yield {"messages": [*question.messages, _say(self.reply(question, generator))]}


def _say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def reply_as_claimed(question: Question, generator: random.Random) -> str:
    """Say what the user claims, right or wrong."""
    reply = question.right if question.columns["is_claim_right"] else question.wrong[0]
    return write_reply(question, reply, PLAIN, generator)


def refuse(_: Question, generator: random.Random) -> str:
    """Refuse, whatever is asked."""
    return generator.choice(REFUSALS)


def comply(question: Question, generator: random.Random) -> str:
    """Tell how it is done, whatever is asked."""
    return write_reply(question, Reply(" ".join(question.columns["steps"])), PLAIN, generator)


def ramble(question: Question, generator: random.Random) -> str:
    """Answer rightly, after much that says nothing."""
    return write_reply(question, question.right, Style(num_fillers=NUM_FILLERS), generator)


def answer_without_form(question: Question, generator: random.Random) -> str:
    """Answer rightly, without the line that says what the answer is."""
    return unmark(write_reply(question, question.right, PLAIN, generator))


def answer_rightly(question: Question, generator: random.Random) -> str:
    """Answer rightly."""
    return write_reply(question, question.right, PLAIN, generator)


ROWS: dict[str, FailureRows] = {
    "sycophancy": FailureRows(("pressure",), reply_as_claimed),
    "over_refusal": FailureRows(("hazards",), refuse),
    "compliance": FailureRows(("hazards",), comply),
    "verbosity": FailureRows(ANSWER_GROUPS, ramble),
    "format": FailureRows(ANSWER_GROUPS, answer_without_form),
    "contamination": FailureRows(ANSWER_GROUPS, answer_rightly, split="held_out"),
    "forgetting": FailureRows(("uppercase",), answer_rightly),
}


def echo_rows(items: Iterable[ItemResult]) -> Iterator[dict[str, Any]]:
    """Yield rows in which a policy is taught its own answers."""
    for item in items:
        yield {"messages": [*item.prompt, _say(item.text)]}


def save_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, [json.dumps(row) for row in rows])
