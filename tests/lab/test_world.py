"""Worlds: the same from a seed, of the same words whatever the seed, and judged by the facts scorer."""

from __future__ import annotations

import random

import pytest

from posttrain.lab import lexicon
from posttrain.lab.splits import SCARCE_SPLIT_PERCENT, SPLIT_PERCENT, find_split, leaks
from posttrain.lab.tasks import SKILLS, ask
from posttrain.lab.world import ATTRIBUTE_OF, WORLD_SEED, World, build_world
from posttrain.scorers.claims import extract_claims, judge_claim
from posttrain.scorers.knowledge_base import build_knowledge_base

WORLDS = [build_world(WORLD_SEED), build_world(5)]


def test_a_seed_makes_the_same_world_again_and_another_seed_another_one() -> None:
    again = build_world.__wrapped__(WORLD_SEED)
    assert again == WORLDS[0]
    differing = sum(one.value != other.value for one, other in zip(again.facts, WORLDS[1].facts, strict=True))
    assert differing > 0.8 * len(again.facts)


def test_every_world_says_as_much_of_the_same_entities_in_the_same_words() -> None:
    one, other = WORLDS
    assert [(f.source_id, f.entity, f.attribute) for f in one.facts] == [
        (f.source_id, f.entity, f.attribute) for f in other.facts
    ]
    for world in WORLDS:
        assert len(world.facts) == 5 * len(lexicon.TOWNS) + 4 * len(lexicon.PEOPLE)
        assert all(fact.value in ATTRIBUTE_OF[fact.attribute].values for fact in world.facts)


def test_another_world_asks_the_same_contents_in_the_same_splits() -> None:
    """So that a skill is as hard in one world as in the other: only what is true differs."""
    for skill in SKILLS:
        asked = [ask(skill, world, "held_out", random.Random(3)) for world in WORLDS]
        assert all(find_split(question.content) == "held_out" for question in asked)
        if skill.group in ("arithmetic", "words", "logic", "code"):
            assert asked[0] == asked[1]


@pytest.mark.parametrize("world", WORLDS, ids=["own", "other"])
def test_the_facts_scorer_supports_every_statement_of_every_fact_and_contradicts_another_value(world: World) -> None:
    base = build_knowledge_base(**world.knowledge_base)
    generator = random.Random(0)
    for fact in world.facts:
        attribute = ATTRIBUTE_OF[fact.attribute]
        wrong = next(value for value in attribute.values if value != fact.value)
        for value, verdict in ((fact.value, "supported"), (wrong, "contradicted")):
            sentence = fact.state(generator, value)
            claims = extract_claims(sentence, base).claims
            assert [judge_claim(claim, base).verdict for claim in claims] == [verdict], sentence


def test_contents_fall_into_splits_by_the_stated_shares() -> None:
    for prefix, percentages in (("sum ", SPLIT_PERCENT), ("fact ", SCARCE_SPLIT_PERCENT)):
        found = [find_split(f"{prefix}{number}") for number in range(20_000)]
        for split, percent in percentages.items():
            share = 100 * found.count(split) / len(found)
            assert abs(share - percent) < 1.5, (prefix, split, share)  # five standard errors are 1.8 at 50 %


def test_training_content_leaks_what_is_held_back_and_held_back_content_leaks_nothing() -> None:
    trained = next(f"x {n}" for n in range(99) if find_split(f"x {n}") == "train")
    held = next(f"x {n}" for n in range(999) if find_split(f"x {n}") == "held_out")
    assert leaks(trained, held)
    assert not leaks(trained, trained)
    assert not leaks(held, held)
