"""Small Python functions from a described behaviour, with hidden tests.

A function takes a number `x` or a list `items`. The description is put together from one or two
operations, so most functions of the held-out split were never seen while each operation was.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.world import World

GROUP = "code"
_NUM_TESTS = 4


@dataclass(frozen=True, slots=True)
class _Operation:
    """One step: its words (`{k}` is a constant), its Python (`{0}` is what it is applied to), and what it computes."""

    words: str
    code: str
    apply: Callable[[Any, int], Any]

    def say(self, constant: int) -> str:
        return self.words.format(k=constant)

    def write(self, inner: str, constant: int) -> str:
        return self.code.format(inner, k=constant)


_NUMBER = (
    _Operation("adds {k}", "{0} + {k}", lambda x, k: x + k),
    _Operation("subtracts {k}", "{0} - {k}", lambda x, k: x - k),
    _Operation("multiplies by {k}", "{0} * {k}", lambda x, k: x * k),
    _Operation("takes the rest of a division by {k}", "{0} % {k}", lambda x, k: x % k),
)
_LIST_TO_LIST = (
    _Operation(
        "keeps the items above {k}", "[i for i in {0} if i > {k}]", lambda items, k: [i for i in items if i > k]
    ),
    _Operation(
        "keeps the items below {k}", "[i for i in {0} if i < {k}]", lambda items, k: [i for i in items if i < k]
    ),
    _Operation("adds {k} to every item", "[i + {k} for i in {0}]", lambda items, k: [i + k for i in items]),
    _Operation("multiplies every item by {k}", "[i * {k} for i in {0}]", lambda items, k: [i * k for i in items]),
    _Operation("sorts the items", "sorted({0})", lambda items, k: sorted(items)),
    _Operation("reverses the items", "{0}[::-1]", lambda items, k: items[::-1]),
)
_LIST_TO_NUMBER = (
    _Operation("sums the items", "sum({0})", lambda items, k: sum(items)),
    _Operation("counts the items", "len({0})", lambda items, k: len(items)),
)
_WORDINGS = ("Write a function f({0}) that {1}.", "Write f({0}): it {1}.")
_PERTURBED = ("I need a function f({0}) which {1}.",)


@dataclass(frozen=True, slots=True)
class _Program:
    """A chain of operations with their constants, on an argument."""

    argument: str
    steps: tuple[tuple[_Operation, int], ...]

    @property
    def description(self) -> str:
        return " and then ".join(operation.say(constant) for operation, constant in self.steps)

    @property
    def source(self) -> str:
        inner = self.argument
        for number, (operation, constant) in enumerate(self.steps):
            is_term = number > 0 and not inner.endswith((")", "]"))
            inner = operation.write(f"({inner})" if is_term else inner, constant)
        return f"def f({self.argument}):\n    return {inner}"

    def run(self, value: Any) -> Any:
        for operation, constant in self.steps:
            value = operation.apply(value, constant)
        return value


def _spoil(program: _Program, generator: random.Random) -> tuple[_Program, ...]:
    """Return programs with one slip (another constant, another operation, the other order) that do something else."""
    steps = list(program.steps)
    place = generator.randrange(len(steps))
    operation, constant = steps[place]
    family = next(known for known in (_NUMBER, _LIST_TO_LIST, _LIST_TO_NUMBER) if operation in known)
    other = generator.choice([known for known in family if known is not operation])
    changed = [steps[:], steps[:]]
    changed[0][place] = (operation, constant + 1 if constant < 9 else constant - 1)
    changed[1][place] = (other, constant or 2)
    if steps[-1][0] not in _LIST_TO_NUMBER:
        changed.append(steps[::-1])
    behaviour = _probe(program)
    programs = [_Program(program.argument, tuple(chain)) for chain in changed]
    return tuple(spoiled for spoiled in programs if _probe(spoiled) != behaviour)


def _list_neighbours(program: _Program) -> list[_Program]:
    """Return the program with each of its constants one less and one more: what tests must tell from it."""
    found = []
    for place, (operation, constant) in enumerate(program.steps):
        for other in (constant - 1, constant + 1) if "{k}" in operation.words else ():
            steps = (*program.steps[:place], (operation, other), *program.steps[place + 1 :])
            found.append(_Program(program.argument, steps))
    return found


@functools.cache
def _list_probes(argument: str) -> tuple[Any, ...]:
    """Return inputs on which two programs that differ are told apart."""
    if argument == "x":
        return tuple(range(31))
    generator = random.Random(0)
    return tuple([generator.randint(0, 12) for _ in range(generator.randint(1, 6))] for _ in range(24))


@functools.lru_cache(maxsize=1 << 16)
def _probe(program: _Program) -> list[Any]:
    return [program.run(value) for value in _list_probes(program.argument)]


def _is_telling(program: _Program) -> bool:
    """Return whether results differ from input to input and every step matters, so that nonsense passes no tests."""
    results = _probe(program)
    shorter = [
        _Program(program.argument, program.steps[:place] + program.steps[place + 1 :])
        for place in range(len(program.steps))
    ]
    return len({str(result) for result in results}) >= 4 and all(_probe(each) != results for each in shorter)


def _build(program: _Program, generator: random.Random, is_perturbed: bool) -> Question:
    prompt = choose_wording(generator, is_perturbed, _WORDINGS, _PERTURBED).format(
        program.argument, program.description
    )
    wrong = _spoil(program, generator)
    probes = _list_probes(program.argument)
    values = generator.sample(probes, _NUM_TESTS)
    for spoiled in wrong:  # every wrong program fails at least one test
        values.append(next(value for value in probes if spoiled.run(value) != program.run(value)))
    for other in _list_neighbours(program):
        values += [value for value in probes if other.run(value) != program.run(value)][:1]
    tests = [{"args": [value], "expected": program.run(value)} for value in values]
    replies = dict.fromkeys(spoiled.source for spoiled in wrong)
    return Question(
        "code",
        prompt,
        Reply(program.source),
        tuple(Reply(source) for source in replies),
        columns={"entry": "f", "tests": tests},
    )


def _draw_constant(operation: _Operation, generator: random.Random) -> int:
    return generator.randint(2, 9) if "{k}" in operation.words else 0


def _draw_chain(argument: str, families: tuple[tuple[_Operation, ...], ...]) -> Callable[[World, random.Random], Draft]:
    def draw(world: World, generator: random.Random) -> Draft:
        while True:
            chosen = [generator.choice(family) for family in families]
            program = _Program(argument, tuple((each, _draw_constant(each, generator)) for each in chosen))
            if _is_telling(program):
                break
        return Draft(
            f"code {argument} {program.description}", lambda words, is_perturbed: _build(program, words, is_perturbed)
        )

    return draw


SKILLS = (
    Skill("code_number", GROUP, 3, _draw_chain("x", (_NUMBER,))),
    Skill("code_number_twice", GROUP, 4, _draw_chain("x", (_NUMBER, _NUMBER))),
    Skill("code_list", GROUP, 3, _draw_chain("items", (_LIST_TO_LIST,))),
    Skill("code_list_twice", GROUP, 4, _draw_chain("items", (_LIST_TO_LIST, _LIST_TO_LIST))),
    Skill("code_list_number", GROUP, 3, _draw_chain("items", (_LIST_TO_LIST, _LIST_TO_NUMBER))),
)
