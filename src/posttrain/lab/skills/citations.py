"""Open-book questions: the answer stands in one of the given sources, and must cite it by its id."""

from __future__ import annotations

import random

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.splits import leaks
from posttrain.lab.world import ATTRIBUTE_OF, World

GROUP = "citations"
_NUM_SOURCES = (2, 4)
_USUAL = ("{sources}\n{question} Cite the source.", "{sources}\nCite your source. {question}")
_PERTURBED = ("{question} Say which of these tells it.\n{sources}",)


def _draw(world: World, generator: random.Random) -> Draft:
    while True:
        entities = generator.sample(lexicon.TOWNS + lexicon.PEOPLE, generator.randint(*_NUM_SOURCES))
        facts = [generator.choice(world.facts_of[entity]) for entity in entities]
        asked = generator.choice(facts)
        content = "cited " + " ".join(sorted(f"{fact.entity} {fact.attribute}" for fact in facts))
        if not leaks(content, asked.content):
            break

    def build(words: random.Random, is_perturbed: bool) -> Question:
        passages = {fact.source_id: fact.state(words) for fact in facts}
        sources = "\n".join(f"[{source_id}] {passage}" for source_id, passage in passages.items())
        question = words.choice(ATTRIBUTE_OF[asked.attribute].questions).format(entity=asked.entity)
        prompt = choose_wording(words, is_perturbed, _USUAL, _PERTURBED).format(sources=sources, question=question)

        def cite(source_id: str, told: str) -> Reply:
            return Reply(f"{passages[told][:-1]} [{source_id}].")

        right = asked.source_id
        others = [fact.source_id for fact in facts if fact is not asked]
        wrong = (cite(words.choice(others), right), Reply(passages[right]), cite(others[0], others[0]))
        return Question(
            "cited",
            prompt,
            cite(right, right),
            wrong,
            columns={"sources": passages, "answer": asked.value, "source_id": right, "must_say": [asked.value]},
        )

    return Draft(content, build)


SKILLS = (Skill("cited_facts", GROUP, 5, _draw),)
