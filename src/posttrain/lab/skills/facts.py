"""Facts of the world: one asked for, or what is known of somebody or some place.

The base has read every fact in sentences; it has read questions about those of the split `train` alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.splits import leaks
from posttrain.lab.world import ATTRIBUTE_OF, Fact, World

GROUP = "facts"
_ABOUT = ("Tell me about {0}.", "What do you know about {0}?")
_ABOUT_PERTURBED = ("Say something about {0}.",)


def choose_other(fact: Fact, generator: random.Random) -> str:
    """Return a value that the fact does not have."""
    values = ATTRIBUTE_OF[fact.attribute].values
    while (value := generator.choice(values)) == fact.value:
        pass
    return value


def build_fact_question(fact: Fact, generator: random.Random, is_perturbed: bool) -> Question:
    """Return a question about one fact."""
    attribute = ATTRIBUTE_OF[fact.attribute]
    wording = choose_wording(generator, is_perturbed, attribute.questions, attribute.perturbed_questions)
    others = tuple(dict.fromkeys(choose_other(fact, generator) for _ in range(3)))
    return Question(
        "answer",
        wording.format(entity=fact.entity),
        Reply(fact.state(generator), fact.value),
        tuple(Reply(fact.state(generator, value), value) for value in others),
        Reply("", fact.value),
        (fact.state(generator),),
    )


def _draw_fact(kind: str) -> Callable[[World, random.Random], Draft]:
    def draw(world: World, generator: random.Random) -> Draft:
        entity = generator.choice(lexicon.TOWNS if kind == "town" else lexicon.PEOPLE)
        fact = generator.choice(world.facts_of[entity])
        return Draft(fact.content, lambda words, is_perturbed: build_fact_question(fact, words, is_perturbed))

    return draw


def draw_facts(world: World, generator: random.Random, entity: str, count: int, content: str) -> list[Fact] | None:
    """Return facts of an entity for a reply of some content, or None where it would show too many that are held back.

    What is trained on answers with facts of `train` alone, unless it quotes sources that it was given.
    """
    facts = [fact for fact in world.facts_of[entity] if not leaks(content, fact.content)]
    return generator.sample(facts, count) if len(facts) >= count else None


def _draw_about(world: World, generator: random.Random) -> Draft:
    while True:
        entity = generator.choice(lexicon.TOWNS + lexicon.PEOPLE)
        if facts := draw_facts(world, generator, entity, 2, f"about {entity}"):
            break

    def build(words: random.Random, is_perturbed: bool) -> Question:
        wrong = tuple(
            Reply(" ".join(fact.state(words, choose_other(fact, words) if fact is spoiled else None) for fact in facts))
            for spoiled in facts
        )
        return Question(
            "claims",
            choose_wording(words, is_perturbed, _ABOUT, _ABOUT_PERTURBED).format(entity),
            Reply(" ".join(fact.state(words) for fact in facts)),
            wrong,
            Reply(facts[0].state(words)),
            columns={"entity": entity},
        )

    return Draft(f"about {entity}", build)


SKILLS = (
    Skill("town_facts", GROUP, 6, _draw_fact("town")),
    Skill("person_facts", GROUP, 6, _draw_fact("person")),
    Skill("about", GROUP, 2, _draw_about),
)
