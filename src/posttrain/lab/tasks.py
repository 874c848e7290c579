"""Generated problems whose right answers are known: graded arithmetic and small skills over words.

A problem's *content* is what it is about, whatever the skill and the wording: the two operands of a
sum in either order, or the words of a list in any order. The split is a hash of the content, so a
held-out sum or list occurs in no training row, neither the other way round nor under another skill.
The `perturbed` split has content of its own and words its questions in ways that no other split does.

Example: `reverse` of `dog, sun` has the content `words dog sun`; so has `first_word` of `sun, dog`,
and both lie in one split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from posttrain.core.hashing import hash_text
from posttrain.core.seeds import derive_seed

Operands = tuple[str, ...]

SPLIT_PERCENT = {"train": 70, "development": 5, "held_out": 10, "final": 5, "perturbed": 10}
WORDS = (
    *("ant", "bee", "blue", "box", "cat", "cow", "cup", "dog", "fish", "fox", "gold", "green"),
    *("hat", "hen", "leaf", "moon", "owl", "pig", "red", "road", "ship", "star", "sun", "tree"),
)
UNORDERED_FAMILIES = ("sum", "words")
"""Families of skills whose content does not depend on the order of the operands."""
_MAX_FRUITLESS_DRAWS = 300


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing to be good at: how to draw its operands, its gold answer, and its wordings.

    `weight` is the skill's share of a mixture, relative to the others. `questions` are the wordings of
    every split but `perturbed`, which has `perturbed_questions`. `statements` say question and answer
    in running prose. In a wording, `{0}` and `{1}` are operands, `{words}` the operands as a list, and
    `{answer}` the answer.
    """

    name: str
    weight: int
    family: str
    draw: Callable[[random.Random], Operands]
    solve: Callable[[Operands], str]
    questions: tuple[str, ...]
    perturbed_questions: tuple[str, ...]
    statements: tuple[str, ...]

    def content(self, operands: Operands) -> str:
        """Return what the problem is about, independent of order where an order would not make it another."""
        listed = sorted(operands) if self.family in UNORDERED_FAMILIES else operands
        return " ".join((self.family, *listed))


@dataclass(frozen=True, slots=True)
class LabProblem:
    """A question with its known answer; made here, read by `lab/source.py` and `lab/corpus.py`."""

    skill: Skill
    operands: Operands
    question: str
    answer: str

    @property
    def content(self) -> str:
        """What the problem is about (see the module's docstring)."""
        return self.skill.content(self.operands)

    def fill(self, wording: str) -> str:
        """Return a wording of the skill with operands and answer filled in."""
        return wording.format(*self.operands, words=", ".join(self.operands), answer=self.answer)


def find_split(content: str) -> str:
    """Return the one split that a content belongs to: a hash of the content alone, on every machine."""
    position = int(hash_text("lab-split", content)[:12], 16) % 100
    for split, percent in SPLIT_PERCENT.items():
        position -= percent
        if position < 0:
            return split
    raise AssertionError("split percentages do not add up to 100")


def _draw_digits(generator: random.Random) -> Operands:
    first = generator.randrange(10)
    return str(first), str(generator.randrange(10 - first))


def _draw_digits_descending(generator: random.Random) -> Operands:
    first, second = generator.randrange(10), generator.randrange(10)
    return str(max(first, second)), str(min(first, second))


def _draw_sum_without_carry(generator: random.Random) -> Operands:
    tens, ones = generator.randrange(1, 9), generator.randrange(10)
    other_tens, other_ones = generator.randrange(1, 10 - tens), generator.randrange(10 - ones)
    return f"{tens}{ones}", f"{other_tens}{other_ones}"


def _draw_difference_without_borrow(generator: random.Random) -> Operands:
    tens, ones = generator.randrange(2, 10), generator.randrange(10)
    other_tens, other_ones = generator.randrange(1, tens), generator.randrange(ones + 1)
    return f"{tens}{ones}", f"{other_tens}{other_ones}"


def _draw_words(fewest: int, most: int) -> Callable[[random.Random], Operands]:
    def draw(generator: random.Random) -> Operands:
        return tuple(generator.sample(WORDS, generator.randint(fewest, most)))

    return draw


def _draw_word_and_times(generator: random.Random) -> Operands:
    return generator.choice(WORDS), str(generator.randint(2, 3))


def _build_sum(name: str, weight: int, draw: Callable[[random.Random], Operands]) -> Skill:
    return Skill(
        name=name,
        weight=weight,
        family="sum",
        draw=draw,
        solve=lambda operands: str(int(operands[0]) + int(operands[1])),
        questions=("What is {0} + {1}?", "{0} + {1} =", "Add {0} and {1}."),
        perturbed_questions=("What do {0} and {1} make?", "{0} plus {1} is what?"),
        statements=("{0} + {1} = {answer}.", "Add {0} and {1} to get {answer}."),
    )


def _build_difference(name: str, weight: int, draw: Callable[[random.Random], Operands]) -> Skill:
    return Skill(
        name=name,
        weight=weight,
        family="difference",
        draw=draw,
        solve=lambda operands: str(int(operands[0]) - int(operands[1])),
        questions=("What is {0} - {1}?", "{0} - {1} =", "Take {1} from {0}."),
        perturbed_questions=("What is left of {0} without {1}?", "{0} minus {1} is what?"),
        statements=("{0} - {1} = {answer}.", "Take {1} from {0} to get {answer}."),
    )


SKILLS = (
    _build_sum("add_one_digit", 6, _draw_digits),
    _build_sum("add_two_digits", 6, _draw_sum_without_carry),
    _build_difference("subtract_one_digit", 6, _draw_digits_descending),
    _build_difference("subtract_two_digits", 5, _draw_difference_without_borrow),
    Skill(
        name="uppercase",
        weight=10,
        family="words",
        draw=_draw_words(1, 2),
        solve=lambda words: ", ".join(words).upper(),
        questions=("Uppercase: {words}", "Write in capitals: {words}"),
        perturbed_questions=("Make these words big: {words}",),
        statements=("In capitals, {words} is {answer}.",),
    ),
    Skill(
        name="reverse",
        weight=10,
        family="words",
        draw=_draw_words(2, 3),
        solve=lambda words: ", ".join(reversed(words)),
        questions=("Reverse the list: {words}", "Write backwards: {words}"),
        perturbed_questions=("Turn the words around: {words}",),
        statements=("Backwards, {words} is {answer}.",),
    ),
    Skill(
        name="first_word",
        weight=6,
        family="words",
        draw=_draw_words(2, 4),
        solve=lambda words: words[0],
        questions=("First word: {words}", "What is the first word of {words}?"),
        perturbed_questions=("Which word is at the start? {words}",),
        statements=("The first word of {words} is {answer}.",),
    ),
    Skill(
        name="last_word",
        weight=6,
        family="words",
        draw=_draw_words(2, 4),
        solve=lambda words: words[-1],
        questions=("Last word: {words}", "What is the last word of {words}?"),
        perturbed_questions=("Which word is at the end? {words}",),
        statements=("The last word of {words} is {answer}.",),
    ),
    Skill(
        name="count_words",
        weight=8,
        family="words",
        draw=_draw_words(2, 5),
        solve=lambda words: str(len(words)),
        questions=("How many words: {words}", "Count the words: {words}"),
        perturbed_questions=("What is the number of words here? {words}",),
        statements=("There are {answer} words in {words}.",),
    ),
    Skill(
        name="sort_words",
        weight=10,
        family="words",
        draw=_draw_words(2, 3),
        solve=lambda words: ", ".join(sorted(words)),
        questions=("Sort the list: {words}", "Write in order: {words}"),
        perturbed_questions=("Put the words in order: {words}",),
        statements=("In order, {words} is {answer}.",),
    ),
    Skill(
        name="repeat_word",
        weight=6,
        family="repetition",
        draw=_draw_word_and_times,
        solve=lambda operands: ", ".join([operands[0]] * int(operands[1])),
        questions=("Say {0} {1} times.", "Write {0} {1} times."),
        perturbed_questions=("I want {0} {1} times.",),
        statements=("To say {0} {1} times: {answer}.",),
    ),
)


def draw_problem(split: str, generator: random.Random) -> LabProblem:
    """Return a problem of a split: the skill by its weight, then operands until one lies in the split."""
    skill = generator.choices(SKILLS, weights=[skill.weight for skill in SKILLS])[0]
    for _ in range(_MAX_FRUITLESS_DRAWS):
        operands = skill.draw(generator)
        if find_split(skill.content(operands)) == split:
            return build_problem(skill, operands, split, generator)
    raise AssertionError(f"skill {skill.name} has no content in split {split}")


def build_problem(skill: Skill, operands: Operands, split: str, generator: random.Random) -> LabProblem:
    """Return the problem of given operands, worded as its split words questions."""
    wordings = skill.perturbed_questions if split == "perturbed" else skill.questions
    problem = LabProblem(skill, operands, "", skill.solve(operands))
    return replace(problem, question=problem.fill(generator.choice(wordings)))


def generate_problems(split: str, count: int, seed: int) -> Iterator[LabProblem]:
    """Yield `count` problems of a split, the same ones for the same seed.

    Training problems may repeat, as a small sum does in life. In every other split a question occurs
    once, so that no item counts twice.
    """
    generator = random.Random(derive_seed(seed, "lab", "problems", split))
    asked: set[str] = set()
    while count > 0:
        problem = draw_problem(split, generator)
        if split != "train" and problem.question in asked:
            continue
        asked.add(problem.question)
        count -= 1
        yield problem
