"""Graded arithmetic: sums and differences of one to three digits, and word problems of two steps.

The right reply works digit by digit, from the ones up, and then answers. A wrong reply has one slip: a
digit off by one, a carry forgotten, the other operation. `brief` is the right answer without the working.

Steps of a working are sums themselves. Those of one digit are in no split; larger ones must not be held back
if the problem is not, and a difference of less than 20 and a digit is a borrowing step, so none is asked for.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.splits import leaks
from posttrain.lab.world import World

GROUP = "arithmetic"
_SUM_QUESTIONS = ("What is {0} + {1}?", "{0} + {1} =", "Add {0} and {1}.")
_SUM_PERTURBED = ("What do {0} and {1} make?", "{0} plus {1} is what?")
_DIFFERENCE_QUESTIONS = ("What is {0} - {1}?", "{0} - {1} =", "Take {1} from {0}.")
_DIFFERENCE_PERTURBED = ("What is left of {0} without {1}?", "{0} minus {1} is what?")
_GAINS, _LOSSES = ("buys", "finds", "gets"), ("eats", "sells", "loses")


def _name_sum(first: int, second: int) -> str:
    low, high = sorted((first, second))
    return f"{low} + {high}"


def work_sum(first: int, second: int) -> str:
    """Return the working of a sum, digit by digit: `7 + 8 = 15. 4 + 3 + 1 = 8.` for 47 + 38."""
    steps: list[str] = []
    carry = 0
    while first or second or carry:
        digits = [first % 10, second % 10]
        first, second = first // 10, second // 10
        if steps and not digits[1] and not second and not first and digits[0] == 0:
            break  # only a carry is left: the step before says it
        terms = digits + [carry] * bool(carry)
        total = sum(terms)
        steps.append(" + ".join(map(str, terms)) + f" = {total}.")
        carry = total // 10
    return " ".join(steps)


def work_difference(first: int, second: int) -> str:
    """Return the working of a difference: `12 - 8 = 4. 5 - 1 - 3 = 1.` for 52 - 38."""
    steps: list[str] = []
    borrow = 0
    while first:
        top, bottom = first % 10, second % 10
        first, second = first // 10, second // 10
        lends = top - borrow < bottom
        written = f"{top + 10 * lends}" + (f" - {borrow}" if borrow else "") + f" - {bottom}"
        steps.append(f"{written} = {top + 10 * lends - borrow - bottom}.")
        borrow = int(lends)
    return " ".join(steps)


def _slip(answer: int, generator: random.Random, others: tuple[int, ...] = ()) -> list[int]:
    """Return wrong answers, the likely ones first."""
    digits = len(str(answer))
    near = [answer - 10, answer + 1, answer - 1, answer + 10] + ([answer - 100, answer + 100] if digits > 2 else [])
    generator.shuffle(near)
    return [value for value in dict.fromkeys([*others, *near]) if value >= 0 and value != answer][:4]


def _make_replies(working: str, answer: int, wrong: list[int]) -> tuple[Reply, tuple[Reply, ...], Reply]:
    """Return the right reply, the wrong ones and the brief one: whoever errs answered at once, without working."""
    return Reply(working, str(answer)), tuple(Reply("", str(number)) for number in wrong), Reply("", str(answer))


def build_sum(first: int, second: int, generator: random.Random, is_perturbed: bool) -> Question:
    """Return the question of a sum."""
    answer = first + second
    without_carry = int("".join(str((int(a) + int(b)) % 10) for a, b in zip(*_align(first, second), strict=True)))
    right, wrong, brief = _make_replies(work_sum(first, second), answer, _slip(answer, generator, (without_carry,)))
    prompt = choose_wording(generator, is_perturbed, _SUM_QUESTIONS, _SUM_PERTURBED).format(first, second)
    statements = (f"{first} + {second} = {answer}.", f"{first} and {second} make {answer}.")
    columns = {"content_keys": [f"{first} + {second}", f"{second} + {first}"]}
    return Question("answer", prompt, right, wrong, brief, statements, columns=columns)


def build_difference(first: int, second: int, generator: random.Random, is_perturbed: bool) -> Question:
    """Return the question of a difference, the first operand the larger."""
    answer = first - second
    absolute = int("".join(str(abs(int(a) - int(b))) for a, b in zip(*_align(first, second), strict=True)))
    right, wrong, brief = _make_replies(work_difference(first, second), answer, _slip(answer, generator, (absolute,)))
    prompt = choose_wording(generator, is_perturbed, _DIFFERENCE_QUESTIONS, _DIFFERENCE_PERTURBED).format(first, second)
    statements = (f"{first} - {second} = {answer}.", f"{first} without {second} is {answer}.")
    columns = {"content_keys": [f"{first} - {second}"]}
    return Question("answer", prompt, right, wrong, brief, statements, columns=columns)


def _align(first: int, second: int) -> tuple[str, str]:
    width = max(len(str(first)), len(str(second)))
    return str(first).zfill(width), str(second).zfill(width)


def _draw_sum(low: tuple[int, int], high: tuple[int, int]) -> Callable[[World, random.Random], Draft]:
    def draw(world: World, generator: random.Random) -> Draft:
        operands = [generator.randint(*low), generator.randint(*high)]
        generator.shuffle(operands)
        first, second = operands
        return Draft(
            _name_sum(first, second), lambda words, is_perturbed: build_sum(first, second, words, is_perturbed)
        )

    return draw


def _draw_difference(low: tuple[int, int], high: tuple[int, int]) -> Callable[[World, random.Random], Draft]:
    def draw(world: World, generator: random.Random) -> Draft:
        second, first = sorted((generator.randint(*low), generator.randint(*high)))
        return Draft(
            f"{first} - {second}", lambda words, is_perturbed: build_difference(first, second, words, is_perturbed)
        )

    return draw


def _draw_one_digit(world: World, generator: random.Random) -> Draft:
    while True:
        terms = [generator.randint(1, 9) for _ in range(4)]
        totals = list(itertools.accumulate(terms))
        content = " + ".join(map(str, sorted(terms)))
        steps = list(zip(totals, terms[1:], totals[1:], strict=False))
        if not leaks(content, *(_name_sum(total, term) for total, term, _ in steps if total >= 10)):
            break

    def build(words: random.Random, is_perturbed: bool) -> Question:
        answer = totals[-1]
        wordings = ("What is {0}?", "{0} =", "Add {0}.")
        written = " + ".join(map(str, terms))
        prompt = choose_wording(words, is_perturbed, wordings, ("What do {0} make?",)).format(written)
        working = " ".join(f"{total} + {term} = {sum_}." for total, term, sum_ in steps)
        right, wrong, brief = _make_replies(working, answer, _slip(answer, words))
        statements = (f"{written} = {answer}.",)
        return Question("answer", prompt, right, wrong, brief, statements, columns={"content_keys": [written]})

    return Draft(content, build)


def _draw_two_steps(world: World, generator: random.Random) -> Draft:
    """A person has a number of fruits, gains some and loses some.

    Its steps are sums and differences of their own, which must not be held out if the problem is not.
    """
    while True:
        start, gain, loss = generator.randint(12, 60), generator.randint(3, 39), generator.randint(3, 39)
        gains_first = generator.random() < 0.5
        middle = start + gain if gains_first else start - loss
        answer = start + gain - loss
        if middle < 1 or answer < 1:
            continue
        content = f"{start} + {gain} - {loss}" if gains_first else f"{start} - {loss} + {gain}"
        steps = (
            (_name_sum(start, gain), f"{middle} - {loss}")
            if gains_first
            else (f"{start} - {loss}", _name_sum(middle, gain))
        )
        if not leaks(content, *steps):
            break
    person, fruit = generator.choice(lexicon.PEOPLE), generator.choice(lexicon.FRUITS)

    def build(words: random.Random, is_perturbed: bool) -> Question:
        gains, loses = f"{words.choice(_GAINS)} {gain}", f"{words.choice(_LOSSES)} {loss}"
        first, second = (gains, loses) if gains_first else (loses, gains)
        usual = (
            "{person} has {start} {fruit}, {first} and then {second}. How many are there?",
            "{person} has {start} {fruit}. {person} {first} and {second}. How many {fruit} are left?",
        )
        perturbed = ("How many {fruit} has {person}, who had {start}, {first} and {second}?",)
        prompt = choose_wording(words, is_perturbed, usual, perturbed).format(
            person=person, start=start, fruit=fruit, first=first, second=second
        )
        operations = (
            (f"{start} + {gain}", f"{middle} - {loss}") if gains_first else (f"{start} - {loss}", f"{middle} + {gain}")
        )
        working = f"{operations[0]} = {middle}. {operations[1]} = {answer}."
        right, wrong, brief = _make_replies(working, answer, _slip(answer, words, (middle, start + gain + loss)))
        statements = (f"{person} has {start} {fruit}, {first} and then {second}: {answer} are left.",)
        return Question("answer", prompt, right, wrong, brief, statements)

    return Draft(content, build)


SKILLS = (
    Skill("add_one_digit", GROUP, 3, _draw_one_digit),
    Skill("add_small", GROUP, 3, _draw_sum((1, 9), (10, 99))),
    Skill("add_two_digits", GROUP, 5, _draw_sum((10, 99), (10, 99))),
    Skill("add_three_digits", GROUP, 4, _draw_sum((100, 499), (100, 499))),
    Skill("subtract_small", GROUP, 3, _draw_difference((1, 9), (20, 99))),
    Skill("subtract_two_digits", GROUP, 5, _draw_difference((10, 99), (10, 99))),
    Skill("subtract_three_digits", GROUP, 4, _draw_difference((100, 999), (100, 999))),
    Skill("two_steps", GROUP, 4, _draw_two_steps),
)
