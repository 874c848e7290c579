"""Logic: orderings with one solution, and conclusions that follow, are denied, or cannot be told."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.splits import find_split
from posttrain.lab.world import World

GROUP = "logic"
_LONGEST_ORDER = 4
_RELATIONS = (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))
_ATOMS = (
    *("it rains", "the road is wet", "the sun is out", "the bell rings", "the gate is open", "the lamp is lit"),
    *(
        "the mill turns",
        "the inn is full",
        "the river is high",
        "the market is on",
        "the dog barks",
        "the bread is warm",
    ),
)


def solve_order(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return every ordering, most first, in which each pair's first stands before its second.

    By trying all of them, so that a puzzle's solution does not rest on how it was made.
    """
    names = sorted({name for pair in pairs for name in pair})
    return [
        order
        for order in itertools.permutations(names)
        if all(order.index(more) < order.index(less) for more, less in pairs)
    ]


def solve_implications(rules: Sequence[tuple[str, str]], known: tuple[str, bool], asked: str) -> str:
    """Return `yes`, `no` or `unknown`: what all truth assignments that keep the rules and the fact say of an atom."""
    atoms = sorted({atom for rule in rules for atom in rule} | {known[0], asked})
    seen = set()
    for values in itertools.product((False, True), repeat=len(atoms)):
        truth = dict(zip(atoms, values, strict=True))
        if truth[known[0]] == known[1] and all(truth[then] or not truth[when] for when, then in rules):
            seen.add(truth[asked])
    return "unknown" if len(seen) == 2 else ("yes" if seen == {True} else "no")


def _draw_order(world: World, generator: random.Random) -> Draft:
    """Three or four people; where a puzzle is held back, four: three could stand within a longer one of training."""
    while True:
        order = generator.sample(lexicon.PEOPLE, generator.choice((3, 3, 4)))
        relation, most, least = generator.choice(_RELATIONS)
        asks_most = generator.random() < 0.5
        content = f"order {relation} " + " ".join(sorted(order))
        if len(order) == _LONGEST_ORDER or find_split(content) == "train":
            break

    def build(words: random.Random, is_perturbed: bool) -> Question:
        pairs = list(itertools.pairwise(order))
        words.shuffle(pairs)
        given = " ".join(f"{more} is {relation} than {less}." for more, less in pairs)
        wordings = (f"{given} Who is the {most if asks_most else least}?",)
        perturbed = (f"Who is the {most if asks_most else least}, if this is true? {given}",)
        right = order[0] if asks_most else order[-1]
        others = [name for name in (order[::-1] if asks_most else order) if name != right]
        return Question(
            "answer",
            choose_wording(words, is_perturbed, wordings, perturbed),
            Reply(" > ".join(order) + ".", right),
            tuple(Reply("", name) for name in others),
            Reply("", right),
            (f"{given} So {right} is the {most if asks_most else least}.",),
        )

    return Draft(content, build)


def _negate(atom: str) -> str:
    return f"it is not true that {atom}"


def _draw_conclusion(world: World, generator: random.Random) -> Draft:
    first, second, third = generator.sample(_ATOMS, 3)
    rules = [(first, second)] + ([(second, third)] if generator.random() < 0.4 else [])
    asked_pairs = [(first, True, rules[-1][1]), (rules[-1][1], False, first), (rules[-1][1], True, first)]
    asked_pairs.append((first, False, rules[-1][1]))
    known, holds, asked = generator.choice(asked_pairs)
    answer = solve_implications(rules, (known, holds), asked)

    def build(words: random.Random, is_perturbed: bool) -> Question:
        shown = list(rules)
        words.shuffle(shown)
        given = " ".join(f"If {when}, then {then}." for when, then in shown)
        fact = known if holds else _negate(known)
        wordings = (f"{given} {_capital(fact)}. Is it true that {asked}?",)
        perturbed = (f"{_capital(fact)}. {given} Can we say that {asked}?",)
        others = [text for text in ("yes", "no", "unknown") if text != answer]
        words.shuffle(others)
        chain = ", so ".join([rules[0][0], *(then for _, then in rules)]) if answer == "yes" else ""
        working = {"yes": f"{_capital(chain)}.", "no": f"If {asked}, then {known}.", "unknown": "It may or may not be."}
        return Question(
            "answer",
            choose_wording(words, is_perturbed, wordings, perturbed),
            Reply(working[answer], answer),
            tuple(Reply("", text) for text in others),
            Reply("", answer),
            (f"{given} {_capital(fact)}. Is it true that {asked}? The answer is {answer}.",),
        )

    return Draft(f"conclusion {' / '.join(' > '.join(rule) for rule in rules)} / {known} / {holds}", build)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


SKILLS = (Skill("order", GROUP, 4, _draw_order), Skill("conclusion", GROUP, 4, _draw_conclusion))
