"""Tools: a calculator, and a look-up of what lies in the towns' stores.

Some questions need one call, some two, some none; where none is needed, a call is wrong.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.skills.facts import build_fact_question
from posttrain.lab.splits import find_split
from posttrain.lab.world import World

GROUP = "tools"


def _describe(name: str, **parameters: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


TOOLS = (_describe("calculator", expression="string"), _describe("stock", town="string", goods="string"))
"""What a model is offered, as OpenAI writes it."""


def write_call(call: Mapping[str, Any]) -> str:
    """Return a call as the plain chat template writes it."""
    return f"<tool_call>{json.dumps(call)}</tool_call>"


def run_tool(world: World, name: str, arguments: Mapping[str, Any]) -> str:
    """Return what a tool answers, as text; what it cannot answer is said in its words and raises nothing.

    The calculator takes two whole numbers and one of `+ - *`.
    """
    if name == "calculator":
        parts = str(arguments.get("expression", "")).split()
        if len(parts) != 3 or parts[1] not in "+-*" or not all(part.isdigit() for part in parts[::2]):
            return "error: write two numbers and one of + - * between them"
        first, second = int(parts[0]), int(parts[2])
        return str({"+": first + second, "-": first - second, "*": first * second}[parts[1]])
    if name == "stock":
        found = world.stores.get((str(arguments.get("town", "")), str(arguments.get("goods", ""))))
        return "error: no such store" if found is None else str(found)
    return f"error: there is no tool {name}"


def _call(name: str, **arguments: str) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def _key(calls: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Return the answer key in BFCL's form: each argument with the values that are right."""
    return [{call["name"]: {key: _list_right(value) for key, value in call["arguments"].items()}} for call in calls]


def _list_right(value: str) -> list[str]:
    """Return the ways to write an argument: factors in either order."""
    return list(dict.fromkeys([value, " * ".join(value.split(" * ")[::-1])]))


def _build(prompt: str, calls: tuple[dict[str, Any], ...], answer: str, wrong: tuple[Reply, ...]) -> Question:
    return Question(
        "calls", prompt, Reply("", answer, calls), wrong, tools=TOOLS, columns={"ground_truth": _key(calls)}
    )


def _name_product(first: int, second: int) -> str:
    return f"{min(first, second)} * {max(first, second)}"


def _draw_product(world: World, generator: random.Random) -> Draft:
    first, second = generator.randint(12, 99), generator.randint(12, 99)

    def build(words: random.Random, is_perturbed: bool) -> Question:
        usual = ("What is {0} * {1}?", "Multiply {0} by {1}.", "{0} * {1} =")
        prompt = choose_wording(words, is_perturbed, usual, ("What do {0} times {1} make?",)).format(first, second)
        right = (_call("calculator", expression=f"{first} * {second}"),)
        guess = str(words.randint(200, 9000))
        while (other := words.randint(12, 99)) == second or find_split(_name_product(first, other)) != "train":
            pass
        wrong = (
            Reply("", guess),
            Reply("", str(first * other), (_call("calculator", expression=f"{first} * {other}"),)),
        )
        return _build(prompt, right, str(first * second), wrong)

    return Draft(_name_product(first, second), build)


def _draw_stock(world: World, generator: random.Random) -> Draft:
    town, goods = generator.choice(lexicon.TOWNS), generator.choice(lexicon.GOODS)

    def build(words: random.Random, is_perturbed: bool) -> Question:
        usual = ("How much {1} is in the store of {0}?", "How much {1} does {0} have?")
        prompt = choose_wording(words, is_perturbed, usual, ("Tell me the {1} that lies at {0}.",)).format(town, goods)
        right = (_call("stock", town=town, goods=goods),)
        other = words.choice([name for name in lexicon.TOWNS if name != town])
        wrong = (
            Reply("", str(words.randint(11, 98))),
            Reply("", str(world.stores[other, goods]), (_call("stock", town=other, goods=goods),)),
        )
        return _build(prompt, right, str(world.stores[town, goods]), wrong)

    return Draft(f"stock {town} {goods}", build)


def _draw_two_stocks(world: World, generator: random.Random) -> Draft:
    goods = generator.choice(lexicon.GOODS)
    while True:
        towns = generator.sample(lexicon.TOWNS, 2)
        if world.stores[towns[0], goods] != world.stores[towns[1], goods]:
            break

    def build(words: random.Random, is_perturbed: bool) -> Question:
        usual = ("Who has more {2}, {0} or {1}?", "Which has more {2}: {0} or {1}?")
        perturbed = ("Say which of {0} and {1} has the most {2}.",)
        prompt = choose_wording(words, is_perturbed, usual, perturbed).format(*towns, goods)
        right = tuple(_call("stock", town=town, goods=goods) for town in towns)
        answer = max(towns, key=lambda town: world.stores[town, goods])
        wrong = (Reply("", words.choice(towns)), Reply("", towns[0], right[:1]))
        return _build(prompt, right, answer, wrong)

    return Draft(f"stock {' '.join(sorted(towns))} {goods}", build)


def _draw_none(world: World, generator: random.Random) -> Draft:
    entity = generator.choice(lexicon.TOWNS + lexicon.PEOPLE)
    fact = generator.choice(world.facts_of[entity])

    def build(words: random.Random, is_perturbed: bool) -> Question:
        question = build_fact_question(fact, words, is_perturbed)
        wrong = (
            Reply("", fact.value, (_call("stock", town=entity, goods=words.choice(lexicon.GOODS)),)),
            question.wrong[0],
        )
        return Question(
            "calls",
            question.prompt,
            Reply("", fact.value),
            wrong,
            tools=TOOLS,
            columns={"ground_truth": []},
        )

    return Draft(fact.content, build)


SKILLS = (
    Skill("tool_calculator", GROUP, 3, _draw_product),
    Skill("tool_stock", GROUP, 3, _draw_stock),
    Skill("tool_two_calls", GROUP, 3, _draw_two_stocks),
    Skill("tool_none", GROUP, 2, _draw_none),
)
