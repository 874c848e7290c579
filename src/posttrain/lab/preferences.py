"""Pairs of replies with a label drawn by a known taste, so that the best possible accuracy is known; and ratings.

Both replies of a pair are what the crowd or an expert might say. The label is drawn with the Bradley-Terry
probability of what they are worth, as a person's would be: sometimes the worse reply wins.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from posttrain.core.seeds import derive_seed
from posttrain.lab.demonstrations import Tier, choose_reply, describe_question, write_reply
from posttrain.lab.gold import Attributes, compute_preference, measure_attributes, weigh_gold
from posttrain.lab.questions import Question, Skill
from posttrain.lab.tasks import draw_question
from posttrain.lab.tastes import TASTES
from posttrain.lab.world import World

_MAX_TRIES = 20
Said = tuple[str, Attributes]
"""A reply, and what there is to like in it."""


def draw_reply(question: Question, generator: random.Random, needed_words: int) -> Said:
    """Return somebody's reply to a question and what there is to like in it."""
    tier: Tier = "expert" if generator.random() < 0.3 else "crowd"
    reply, style = choose_reply(question, tier, generator)
    is_right = reply in (question.right, question.brief)
    text = write_reply(question, reply, style, generator)
    return text, measure_attributes(text, float(is_right), needed_words)


def _draw_pair(
    question: Question, generator: random.Random, needed_words: int, may_meet: Callable[[Said, Said], bool]
) -> tuple[Said, Said] | None:
    """Return two replies to a question, the second one drawn until they may meet; None where that takes too long."""
    first = draw_reply(question, generator, needed_words)
    for _ in range(_MAX_TRIES):
        second = draw_reply(question, generator, needed_words)
        if second[0] != first[0] and may_meet(first, second):
            return first, second
    return None


# many parameters: what is asked, where, how often, and who labels
def generate_preferences(
    skills: Sequence[Skill], world: World, split: str, count: int, seed: int, taste: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of `prompt`, `chosen`, `rejected` with the columns of their questions.

    Further columns: `gold_chosen` and `gold_rejected`; `probability` of the label that was drawn. The best accuracy
    that a reward model can reach is the mean of max(probability, 1 - probability). Where a taste labels, the attributes
    of both replies stand beside them (`manner_chosen`, ...).

    Args:
        skills: What questions are asked about.
        world: Whose facts are true.
        split: Which contents.
        count: Rows.
        seed: Draws questions, replies and labels.
        taste: One of `TASTES`, by name; None: gold.
    """
    labeller = TASTES[taste] if taste is not None else None
    # A bias sees the pairs that gold sees: the stream is the same.
    own = [taste] if taste is not None and TASTES[taste].compared is not None else []
    generator = random.Random(derive_seed(seed, "lab", "preferences", *own, split, *(skill.name for skill in skills)))

    def may_meet(first: Said, second: Said) -> bool:
        return labeller is None or labeller.tells_apart(first[1], second[1])

    while count > 0:
        question = draw_question(skills, world, split, generator)
        columns = describe_question(question)
        pair = _draw_pair(question, generator, columns["needed_words"], may_meet)
        if pair is None:
            continue
        first, second = pair
        if labeller is None:
            probability = compute_preference(weigh_gold(first[1]), weigh_gold(second[1]))
        else:
            probability = compute_preference(labeller.rate(first[1]), labeller.rate(second[1]), scale=1.0)
        if generator.random() >= probability:
            first, second = second, first
            probability = 1 - probability
        count -= 1
        yield {
            "prompt": question.messages,
            "chosen": [{"role": "assistant", "content": first[0]}],
            "rejected": [{"role": "assistant", "content": second[0]}],
            "gold_chosen": weigh_gold(first[1]),
            "gold_rejected": weigh_gold(second[1]),
            "probability": probability,
            **(_describe_sides(first[1], second[1]) if labeller is not None else {}),
            **columns,
        }


def _describe_sides(chosen: Attributes, rejected: Attributes) -> dict[str, float]:
    sides = (("chosen", asdict(chosen)), ("rejected", asdict(rejected)))
    return {f"{name}_{side}": float(value) for side, values in sides for name, value in values.items()}


def generate_ratings(
    skills: Sequence[Skill], world: World, split: str, count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of `prompt`, `completion`, the reply's attributes and its gold: two of each question in turn.

    Each is somebody's reply as in `generate_preferences`; the two differ, and of an odd count the last stands alone.
    """
    generator = random.Random(derive_seed(seed, "lab", "ratings", split, *(skill.name for skill in skills)))
    while count > 0:
        question = draw_question(skills, world, split, generator)
        columns = describe_question(question)
        pair = _draw_pair(question, generator, columns["needed_words"], lambda first, second: True)
        for text, found in (pair or ())[:count]:
            count -= 1
            rated = {name: float(value) for name, value in asdict(found).items()}
            yield {
                "prompt": question.messages,
                "completion": [{"role": "assistant", "content": text}],
                **rated,
                "gold": weigh_gold(found),
                **columns,
            }
