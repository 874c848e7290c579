"""Raw text over the lab's skills, for a model to read before it is taught to answer.

A document is a few lines about one topic, which is a list of words or a pair of numbers: questions with
their answers as `Q: ... A: ...`, the same said in running prose, and plain sentences. It knows nothing of
chat turns. As in real text, what was named before is likely to be named again, so that a reader
profits from looking back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from posttrain.core.seeds import derive_seed
from posttrain.lab.tasks import SKILLS, UNORDERED_FAMILIES, WORDS, LabProblem, build_problem, draw_problem

_LINES_PER_DOCUMENT = (3, 6)
_QUESTION_SHARE, _STATEMENT_SHARE = 0.6, 0.3
_SENTENCES = (
    "The {0} is near the {1}.",
    "I see a {0} and a {1}.",
    "There is a {0} by the {1}.",
    "The {0} and the {1} are here.",
)


def _vary(topic: LabProblem, split: str, generator: random.Random) -> LabProblem:
    """Return a problem of the same content: another skill, the operands perhaps in another order."""
    skill = generator.choice([skill for skill in SKILLS if skill.family == topic.skill.family])
    operands = list(topic.operands)
    if skill.family in UNORDERED_FAMILIES and generator.random() < 0.5:
        generator.shuffle(operands)
    return build_problem(skill, tuple(operands), split, generator)


def _write_line(topic: LabProblem, split: str, generator: random.Random) -> str:
    kind = generator.random()
    if kind >= _QUESTION_SHARE + _STATEMENT_SHARE:
        known = [word for word in topic.operands if word in WORDS]
        return generator.choice(_SENTENCES).format(*generator.sample(known if len(known) > 1 else WORDS, 2))
    problem = _vary(topic, split, generator)
    if kind < _QUESTION_SHARE:
        return f"Q: {problem.question}\nA: {problem.answer}"
    return problem.fill(generator.choice(problem.skill.statements))


def generate_documents(split: str, count: int, seed: int) -> Iterator[str]:
    """Yield `count` documents whose problems all belong to one split, the same ones for the same seed."""
    generator = random.Random(derive_seed(seed, "lab", "documents", split))
    for _ in range(count):
        topic = draw_problem(split, generator)
        num_lines = generator.randint(*_LINES_PER_DOCUMENT)
        yield "\n".join(_write_line(topic, split, generator) for _ in range(num_lines))
