"""Instructions that a program can check: case, number of words, an ending, words to leave out, a list, JSON.

The text asked for is about two words or about an entity; that it names them is part of the rule.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.skills.facts import draw_facts
from posttrain.lab.world import World

GROUP = "instructions"
SENTENCES = (
    "The {0} is near the {1}.",
    "I see a {0} and a {1}.",
    "There is a {0} by the {1}.",
    "The {0} and the {1} are here.",
)
_SHORT = ("{0} and {1}.", "A {0} by a {1}.", "One {0} and one {1}.")
_ENDINGS = ("Good day.", "That is all.", "So it is.", "And there it ends.")
_REQUESTS = ("Write a sentence about a {0} and a {1}.", "Say something about a {0} and a {1}.")
_PERTURBED = ("I want to read of a {0} and a {1}.",)

REQUEST_OPENINGS = tuple(text.split(" a {0}")[0].casefold() for text in (*_REQUESTS, *_PERTURBED))
"""How requests begin: what no answer contains."""


@dataclass(frozen=True, slots=True)
class _Constraint:
    """A constraint on a sentence: how it is said, the rule, the text that keeps it, and texts that do not."""

    words: str
    rule: dict[str, Any]
    kept: str
    broken: tuple[str, ...]


def _draw_case(subject: tuple[str, str], generator: random.Random) -> _Constraint:
    sentence = generator.choice(SENTENCES).format(*subject)
    is_upper = generator.random() < 0.6
    if is_upper:
        broken = (sentence, " ".join(word.upper() if i % 2 else word for i, word in enumerate(sentence.split())))
        return _Constraint("Use capital letters only.", {"rule": "upper_case"}, sentence.upper(), broken)
    return _Constraint(
        "Use small letters only.", {"rule": "lower_case"}, sentence.lower(), (sentence, sentence.upper())
    )


def _draw_length(subject: tuple[str, str], generator: random.Random) -> _Constraint:
    kept = generator.choice(_SHORT).format(*subject)
    kept = kept[0].upper() + kept[1:]
    most = generator.randint(len(kept.split()), 5)
    long = generator.choice(SENTENCES).format(*subject)
    rule = {"rule": "words_between", "min": 1, "max": most}
    return _Constraint(f"Use at most {most} words.", rule, kept, (long, f"{long} {kept}"))


def _draw_ending(subject: tuple[str, str], generator: random.Random) -> _Constraint:
    sentence = generator.choice(SENTENCES).format(*subject)
    ending, other = generator.sample(_ENDINGS, 2)
    rule = {"rule": "ends_with", "phrase": ending}
    return _Constraint(
        f"End with: {ending}", rule, f"{sentence} {ending}", (sentence, f"{ending} {sentence}", f"{sentence} {other}")
    )


def _draw_absence(subject: tuple[str, str], generator: random.Random) -> _Constraint:
    absent = generator.choice(("the", "and", "is", "a"))
    spaced = [text.format(*subject) for text in (*SENTENCES, *_SHORT)]
    keeps = [text for text in spaced if absent not in text.lower().replace(".", "").split()]
    broken = tuple(text for text in spaced if text not in keeps)
    kept = generator.choice(keeps)
    rule = {"rule": "words_absent", "words": [absent]}
    return _Constraint(f'Do not use the word "{absent}".', rule, kept[0].upper() + kept[1:], broken[:2])


def _draw_bullets(subject: tuple[str, str], generator: random.Random) -> _Constraint:
    count = generator.choice((2, 3))
    lines = generator.sample(SENTENCES, count)
    texts = [line.format(*subject) for line in lines]
    rule = {"rule": "markdown", "min": {"list_items": count}, "max": {"list_items": count}}
    bullets = "\n".join(f"- {text}" for text in texts)
    return _Constraint(
        f"Write a list of {count} lines that begin with a dash.", rule, bullets, (" ".join(texts), f"- {texts[0]}")
    )


_DRAWS = {
    "case": _draw_case,
    "length": _draw_length,
    "ending": _draw_ending,
    "absence": _draw_absence,
    "bullets": _draw_bullets,
}


def _draw_constrained(kind: str) -> Callable[[World, random.Random], Draft]:
    def draw(world: World, generator: random.Random) -> Draft:
        subject = (generator.choice(lexicon.WORDS), generator.choice(lexicon.WORDS))
        while subject[0] == subject[1]:
            subject = (subject[0], generator.choice(lexicon.WORDS))

        def build(words: random.Random, is_perturbed: bool) -> Question:
            constraint = _DRAWS[kind](subject, words)
            request = choose_wording(words, is_perturbed, _REQUESTS, _PERTURBED).format(*subject)
            prompt = f"{request} {constraint.words}" if words.random() < 0.7 else f"{constraint.words} {request}"
            columns = {**constraint.rule, "also": {"rule": "words_present", "words": list(subject)}}
            wrong = tuple(Reply(text) for text in constraint.broken)
            return Question("constraint", prompt, Reply(constraint.kept), wrong, columns=columns)

        return Draft(f"{kind} {' '.join(sorted(subject))}", build)

    return draw


def _draw_json(world: World, generator: random.Random) -> Draft:
    while True:
        entity = generator.choice(lexicon.TOWNS + lexicon.PEOPLE)
        if facts := draw_facts(world, generator, entity, 2, f"json {entity}"):
            break
    keys = [fact.attribute for fact in facts]

    def build(words: random.Random, is_perturbed: bool) -> Question:
        usual = ("Write {0} as JSON with the keys {1} and {2}.", "Give the {1} and the {2} of {0} as JSON.")
        perturbed = ("I need JSON for {0}: {1}, {2}.",)
        prompt = choose_wording(words, is_perturbed, usual, perturbed).format(entity, *keys)
        values = {fact.attribute: fact.value for fact in facts}
        kept = json.dumps(values)
        wrong = (
            Reply(" ".join(fact.state(words) for fact in facts)),
            Reply(json.dumps({keys[0]: values[keys[0]]})),
            Reply(kept[:-1]),
        )
        columns = {"rule": "json_object", "keys": keys, "types": dict.fromkeys(keys, "str"), "values": values}
        return Question("constraint", prompt, Reply(kept), wrong, columns=columns)

    return Draft(f"json {entity}", build)


SKILLS = (
    *(Skill(f"instruction_{kind}", GROUP, 2, _draw_constrained(kind)) for kind in _DRAWS),
    Skill("instruction_json", GROUP, 2, _draw_json),
)
