"""The corpus: the same from a seed, of training contents alone, with right and wrong, polite and rude."""

from __future__ import annotations

import random
import re

from posttrain.lab.corpus import WRONG_SHARE, choose_reply, generate_documents
from posttrain.lab.splits import find_split
from posttrain.lab.style import BOASTS, HEDGES, POLITE_OPENERS, RUDE_OPENERS
from posttrain.lab.tasks import choose_skills, draw_question
from posttrain.lab.world import ATTRIBUTE_OF, build_world

WORLD = build_world()
DOCUMENTS = list(generate_documents(WORLD, "train", 4_000, 9))
TEXT = "\n\n".join(DOCUMENTS)


def test_a_seed_gives_the_same_documents_and_another_seed_others() -> None:
    assert list(generate_documents(WORLD, "train", 50, 9)) == DOCUMENTS[:50]
    assert list(generate_documents(WORLD, "train", 50, 10)) != DOCUMENTS[:50]


def test_every_sum_and_difference_that_is_stated_or_asked_lies_in_training() -> None:
    """Borrowing steps (`12 - 8`) and steps of one digit belong to no split."""
    seen = 0
    for first, sign, second in re.findall(r"(?<![\d+\-] )(?<!\d)(\d+) ([+-]) (\d+)(?! [+-])(?!\d)", TEXT):
        low, high = sorted((int(first), int(second)))
        if high < 10 or (sign == "-" and int(first) < 20):
            continue
        seen += 1
        assert find_split(f"{low} + {high}" if sign == "+" else f"{first} - {second}") == "train"
    assert seen > 3_000


def test_every_fact_is_stated_and_none_that_is_held_back_is_asked_for() -> None:
    for fact in WORLD.facts:
        attribute = ATTRIBUTE_OF[fact.attribute]
        stated = [text.format(entity=fact.entity, value=fact.value) for text in attribute.statements]
        assert any(text[1:] in TEXT for text in stated), fact
        asked = any(question.format(entity=fact.entity) in TEXT for question in attribute.questions)
        assert not asked or find_split(fact.content) == "train", fact


def test_perturbed_wordings_never_occur() -> None:
    for attribute in ATTRIBUTE_OF.values():
        for wording in attribute.perturbed_questions:
            assert wording.split("{entity}")[0] + "Arden" not in TEXT
    assert " plus " not in TEXT and " minus " not in TEXT


def test_a_quarter_of_the_answers_are_wrong() -> None:
    generator = random.Random(2)
    skills = choose_skills(["arithmetic"])
    wrong = 0
    for _ in range(2_000):
        question = draw_question(skills, WORLD, "train", generator)
        wrong += choose_reply(question, generator).answer != question.right.answer
    assert abs(wrong / 2_000 - WRONG_SHARE) < 0.05  # five standard errors


def test_all_manners_occur_and_nothing_is_marked_as_an_answer() -> None:
    for sentences in (POLITE_OPENERS, RUDE_OPENERS, HEDGES, BOASTS):
        assert all(sentence in TEXT for sentence in sentences)
    assert "I cannot help with that." in TEXT
    assert "Answer:" not in TEXT and "Assistant:" not in TEXT
