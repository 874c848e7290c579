"""Pairs of replies with a label drawn from the gold function, so that the best possible accuracy is known.

Both replies of a pair are what the crowd or an expert might say. The label is drawn with the Bradley-Terry
probability of their gold values, as a person's would be: sometimes the worse reply wins.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.core.seeds import derive_seed
from posttrain.lab.demonstrations import Tier, choose_reply, describe_question, write_reply
from posttrain.lab.gold import compute_gold, compute_preference
from posttrain.lab.questions import Question, Skill
from posttrain.lab.tasks import draw_question
from posttrain.lab.world import World

_MAX_TRIES = 20


def draw_reply(question: Question, generator: random.Random, needed_words: int) -> tuple[str, float]:
    """Return somebody's reply to a question and its gold value."""
    tier: Tier = "expert" if generator.random() < 0.3 else "crowd"
    reply, style = choose_reply(question, tier, generator)
    is_right = reply in (question.right, question.brief)
    text = write_reply(question, reply, style, generator)
    return text, compute_gold(text, float(is_right), needed_words)


def generate_preferences(
    skills: Sequence[Skill], world: World, split: str, count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of `prompt`, `chosen`, `rejected` with the columns of their questions.

    Further columns: `gold_chosen` and `gold_rejected`; `probability` of the label that was drawn. The best accuracy
    that a reward model can reach is the mean of max(probability, 1 - probability).
    """
    generator = random.Random(derive_seed(seed, "lab", "preferences", split, *(skill.name for skill in skills)))
    while count > 0:
        question = draw_question(skills, world, split, generator)
        columns = describe_question(question)
        first, gold_first = draw_reply(question, generator, columns["needed_words"])
        for _ in range(_MAX_TRIES):
            second, gold_second = draw_reply(question, generator, columns["needed_words"])
            if second != first:
                break
        else:
            continue
        probability = compute_preference(gold_first, gold_second)
        if generator.random() >= probability:
            first, second, gold_first, gold_second = second, first, gold_second, gold_first
            probability = 1 - probability
        count -= 1
        yield {
            "prompt": question.messages,
            "chosen": [{"role": "assistant", "content": first}],
            "rejected": [{"role": "assistant", "content": second}],
            "gold_chosen": gold_first,
            "gold_rejected": gold_second,
            "probability": probability,
            **columns,
        }
