"""A world: who lives where, what towns trade, what lies in the stores, all from one seed.

Facts are the knowledge base: `World.knowledge_base` gives it in the form that the facts scorer reads.
Stores are not in it: what they hold is for the look-up tool to say (logs of it in the corpus show some).
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Any

from posttrain.core.seeds import derive_seed
from posttrain.lab import lexicon

WORLD_SEED = 20_240_726
"""The world that the base model has read of."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """What can be said of a kind of entity.

    `statements` hold `{entity}` and `{value}`; `questions` and `perturbed_questions` hold `{entity}`.
    """

    name: str
    kind: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    perturbed_questions: tuple[str, ...]


_YEARS = tuple(str(year) for year in range(110, 990, 7))

ATTRIBUTES = (
    Attribute(
        "river",
        "town",
        lexicon.RIVERS,
        ("{entity} lies on the river {value}", "the river of {entity} is {value}"),
        ("What is the river of {entity}?", "On which river does {entity} lie?", "Which river flows by {entity}?"),
        ("Name the river that {entity} lies on.", "Which river is at {entity}?"),
    ),
    Attribute(
        "trade",
        "town",
        lexicon.GOODS,
        ("{entity} trades {value}", "the trade of {entity} is {value}"),
        ("What is the trade of {entity}?", "What does {entity} trade?", "What is sold by the people of {entity}?"),
        ("Name what {entity} trades.", "Which goods are traded at {entity}?"),
    ),
    Attribute(
        "market day",
        "town",
        lexicon.DAYS,
        ("the market day of {entity} is {value}", "{entity} has its market on {value}"),
        (
            "What is the market day of {entity}?",
            "On which day does {entity} have its market?",
            "Which day is market day in {entity}?",
        ),
        ("Name the market day of {entity}.", "When is the market at {entity}?"),
    ),
    Attribute(
        "mayor",
        "town",
        lexicon.PEOPLE,
        ("the mayor of {entity} is {value}", "{entity} has the mayor {value}"),
        ("Who is the mayor of {entity}?", "What is the name of the mayor of {entity}?", "Who leads {entity}?"),
        ("Name the mayor of {entity}.", "Which mayor does {entity} have?"),
    ),
    Attribute(
        "year",
        "town",
        _YEARS,
        ("{entity} was built in the year {value}", "the year of {entity} is {value}"),
        ("In which year was {entity} built?", "What is the year of {entity}?", "From which year is {entity}?"),
        ("Name the year in which {entity} was built.", "When was {entity} built?"),
    ),
    Attribute(
        "home",
        "person",
        lexicon.TOWNS,
        ("{entity} lives in {value}", "the home of {entity} is {value}"),
        ("Where does {entity} live?", "What is the home of {entity}?", "Which town is the home of {entity}?"),
        ("Name the town that {entity} lives in.", "In which town is the home of {entity}?"),
    ),
    Attribute(
        "job",
        "person",
        lexicon.JOBS,
        ("{entity} works as a {value}", "the job of {entity} is {value}"),
        ("What is the job of {entity}?", "As what does {entity} work?", "What work does {entity} do?"),
        ("Name the job of {entity}.", "Which job does {entity} have?"),
    ),
    Attribute(
        "pet",
        "person",
        lexicon.PETS,
        ("{entity} keeps a {value}", "the pet of {entity} is a {value}"),
        ("What is the pet of {entity}?", "Which pet does {entity} keep?", "What animal lives with {entity}?"),
        ("Name the pet of {entity}.", "What kind of pet is kept by {entity}?"),
    ),
    Attribute(
        "fruit",
        "person",
        lexicon.FRUITS,
        ("{entity} likes {value}", "the fruit of {entity} is {value}"),
        ("Which fruit does {entity} like?", "What is the fruit of {entity}?", "What fruit is best for {entity}?"),
        ("Name the fruit that {entity} likes.", "What does {entity} like to eat?"),
    ),
)
ATTRIBUTE_OF = {attribute.name: attribute for attribute in ATTRIBUTES}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is true, and the id by which it is cited. Example: `Fact("t3", "Arden", "river", "Wye")`."""

    source_id: str
    entity: str
    attribute: str
    value: str

    @property
    def content(self) -> str:
        """What a question about it is about."""
        return f"fact {self.entity} {self.attribute}"

    def state(self, generator: random.Random, value: str | None = None) -> str:
        """Return a sentence that says it, or says another value of it."""
        statement = generator.choice(ATTRIBUTE_OF[self.attribute].statements)
        text = statement.format(entity=self.entity, value=value or self.value)
        return text[0].upper() + text[1:] + "."


@dataclass(frozen=True, slots=True)
class World:
    """What is true. Made by `build_world`, read by every skill.

    `facts_of` holds the facts of each entity; `stores` the number of jars, bars or sacks of each of a town's goods.
    """

    seed: int
    facts: tuple[Fact, ...]
    facts_of: dict[str, tuple[Fact, ...]]
    stores: dict[tuple[str, str], int]

    def find(self, entity: str, attribute: str) -> Fact:
        """Return the fact of an entity and an attribute."""
        return next(fact for fact in self.facts_of[entity] if fact.attribute == attribute)

    @property
    def knowledge_base(self) -> dict[str, Any]:
        """The facts as the facts scorer reads them from a JSON file."""
        return {
            "facts": [{"entity": fact.entity, "attribute": fact.attribute, "value": fact.value} for fact in self.facts],
            "attributes": [
                {
                    "attribute": attribute.name,
                    "patterns": [text for text in attribute.statements if text.startswith("{entity} ")],
                }
                for attribute in ATTRIBUTES
            ],
        }


@functools.cache
def build_world(seed: int = WORLD_SEED) -> World:
    """Return the world of a seed: the same on every machine."""
    generator = random.Random(derive_seed(seed, "lab", "world"))
    facts: list[Fact] = []
    for kind, names, letter in (("town", lexicon.TOWNS, "t"), ("person", lexicon.PEOPLE, "p")):
        attributes = [attribute for attribute in ATTRIBUTES if attribute.kind == kind]
        for number, name in enumerate(names, start=1):
            facts += [
                Fact(f"{letter}{number}", name, attribute.name, generator.choice(attribute.values))
                for attribute in attributes
            ]
    facts_of: dict[str, list[Fact]] = {}
    for fact in facts:
        facts_of.setdefault(fact.entity, []).append(fact)
    stores = {(town, goods): generator.randint(11, 98) for town in lexicon.TOWNS for goods in lexicon.GOODS}
    return World(seed, tuple(facts), {entity: tuple(known) for entity, known in facts_of.items()}, stores)
