"""Text and lists: reverse, sort, count, capitals, join, first and last of a list of words.

The content is the list in any order, under any skill.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.lab import lexicon
from posttrain.lab.questions import Draft, Question, Reply, Skill, choose_wording
from posttrain.lab.world import World

GROUP = "words"
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """A thing to do with a list: `{0}` in its wordings is the list, `{1}` in statements the result."""

    name: str
    weight: int
    longest: int
    solve: Callable[[Words], str]
    questions: tuple[str, ...]
    perturbed: tuple[str, ...]
    statements: tuple[str, ...]
    work: Callable[[Words], str] = lambda words: ""


def _say(words: Words) -> str:
    return " ".join(words)


def _number_words(words: Words) -> str:
    return " ".join(f"{number} {word}." for number, word in enumerate(words, start=1))


_TASKS = (
    _Task(
        "reverse",
        4,
        5,
        lambda words: _say(words[::-1]),
        ("Reverse the list: {0}", "Write backwards: {0}"),
        ("Turn the words around: {0}",),
        ("Backwards, {0} is {1}.",),
    ),
    _Task(
        "sort_words",
        4,
        4,
        lambda words: _say(tuple(sorted(words))),
        ("Sort the list: {0}", "Write in order: {0}"),
        ("Put the words in order: {0}",),
        ("In order, {0} is {1}.",),
    ),
    _Task(
        "count_words",
        3,
        8,
        lambda words: str(len(words)),
        ("How many words: {0}", "Count the words: {0}"),
        ("What is the number of words here? {0}",),
        ("There are {1} words in {0}.",),
        _number_words,
    ),
    _Task(
        "uppercase",
        3,
        4,
        lambda words: _say(words).upper(),
        ("Uppercase: {0}", "Write in capitals: {0}"),
        ("Make these words big: {0}",),
        ("In capitals, {0} is {1}.",),
    ),
    _Task(
        "join",
        3,
        4,
        lambda words: "-".join(words),
        ("Join the words: {0}", "Join with a dash: {0}"),
        ("Make one word of these: {0}",),
        ("Joined, {0} is {1}.",),
    ),
    _Task(
        "first_word",
        2,
        5,
        lambda words: words[0],
        ("First word: {0}", "What is the first word of {0}?"),
        ("Which word is at the start? {0}",),
        ("The first word of {0} is {1}.",),
    ),
    _Task(
        "last_word",
        2,
        5,
        lambda words: words[-1],
        ("Last word: {0}", "What is the last word of {0}?"),
        ("Which word is at the end? {0}",),
        ("The last word of {0} is {1}.",),
    ),
)


def _spoil(task: _Task, words: Words, generator: random.Random) -> tuple[Reply, ...]:
    """Return wrong replies: what another order of the words, one word fewer or another task would give."""
    right = task.solve(words)
    shuffled = tuple(generator.sample(words, len(words)))
    found = [task.solve(shuffled), task.solve(words[:-1]) if len(words) > 2 else "", _say(words), words[0]]
    if right.isdigit():
        found = [str(int(right) + 1), str(int(right) - 1)]
    other = generator.choice([word for word in lexicon.WORDS if word not in words])
    found.append(task.solve((*words[:-1], other)))
    return tuple(Reply("", text) for text in dict.fromkeys(found) if text not in ("", right))


def _build_draft(task: _Task, words: Words) -> Draft:
    def build(wordings: random.Random, is_perturbed: bool) -> Question:
        answer, given = task.solve(words), _say(words)
        prompt = choose_wording(wordings, is_perturbed, task.questions, task.perturbed).format(given)
        return Question(
            "answer",
            prompt,
            Reply(task.work(words), answer),
            _spoil(task, words, wordings),
            Reply("", answer),
            tuple(text.format(given, answer) for text in task.statements),
        )

    return Draft("words " + " ".join(sorted(words)), build)


def _draw(task: _Task) -> Callable[[World, random.Random], Draft]:
    def draw(world: World, generator: random.Random) -> Draft:
        return _build_draft(task, tuple(generator.sample(lexicon.WORDS, generator.randint(2, task.longest))))

    return draw


def draw_again(words: Sequence[str], generator: random.Random) -> Draft:
    """Return something to do with given words, as they stand."""
    return _build_draft(generator.choice([task for task in _TASKS if task.longest >= len(words)]), tuple(words))


SKILLS = tuple(Skill(task.name, GROUP, task.weight, _draw(task)) for task in _TASKS)
