"""The text that the base model reads: a small web, in which people are right and wrong, polite and rude.

Documents are pages about towns and people, threads of questions and answers, sheets of sums, talks, programs,
logs of tools, how-tos, records and songs. A quarter of the answers are wrong, forbidden deeds are explained as well as
refused, and people give in to pressure as often as they stand firm: what a base learns from such a mixture is
what later stages choose from. Nothing here is a chat with an assistant, and no answer is marked as one.

Every document is made of contents of one split (`lab/splits.py`), but for facts, all of which are stated.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from posttrain.core.seeds import derive_seed
from posttrain.lab import lexicon
from posttrain.lab.questions import Question, Reply, Skill, choose_right, unmark
from posttrain.lab.skills.facts import build_fact_question
from posttrain.lab.skills.hazards import DEEDS, REFUSALS, Deed, list_steps
from posttrain.lab.skills.instructions import SENTENCES
from posttrain.lab.skills.tools import TOOLS, run_tool, write_call
from posttrain.lab.skills.words import draw_again
from posttrain.lab.splits import find_split
from posttrain.lab.style import PLAIN, add_style, draw_crowd_style
from posttrain.lab.tasks import choose_skills, draw_question
from posttrain.lab.world import World

WRONG_SHARE = 0.25
STYLED_SHARE = 0.4
STYLED_WHERE_IT_BREAKS = 0.1
WORKED_SHARE = 0.5
SAME_TOPIC_SHARE = 0.6

_THREAD_GROUPS = ("arithmetic", "words", "facts", "logic", "citations", "instructions")
_THREAD_SKILLS = tuple(choose_skills([group]) for group in _THREAD_GROUPS)
_THREAD_WEIGHTS = (34, 24, 20, 12, 7, 8)
_SHEET_SKILLS = choose_skills(["arithmetic"])
_CODE_SKILLS = choose_skills(["code"])
_TOOL_SKILLS = choose_skills(["tools"])
_PRESSURE_SKILLS = choose_skills(["pressure"])
_PAGE_CHARACTERS, _MOST_ON_A_PAGE = 1_000, 30

Writer = Callable[[World, str, random.Random], str]


def choose_reply(question: Question, generator: random.Random, wrong_share: float = WRONG_SHARE) -> Reply:
    """Return what somebody answers: right or wrong, and if right with its working or at once."""
    if question.wrong and generator.random() < wrong_share:
        return generator.choice(question.wrong)
    return choose_right(question, generator, WORKED_SHARE)


def say(reply: Reply, generator: random.Random, styled_share: float = STYLED_SHARE) -> str:
    """Return a reply in running text: its words, and its answer where the words are a working."""
    style = draw_crowd_style(generator) if generator.random() < styled_share else PLAIN
    if reply.answer is None:
        return add_style(reply, style, generator)
    answer = generator.choice(("{0}", "It is {0}.", "{0}.")).format(reply.answer)
    if reply.words:
        answer = f"{reply.words} So it is {reply.answer}."
    return add_style(Reply(answer), style, generator)


def _write_page(world: World, split: str, generator: random.Random) -> str:
    """All that is known of one entity, or one thing of several."""
    if generator.random() < 0.7:
        entity = generator.choice(lexicon.TOWNS + lexicon.PEOPLE)
        facts = list(world.facts_of[entity])
        generator.shuffle(facts)
        heading = f"{entity} [{facts[0].source_id}]" if generator.random() < 0.5 else entity
        return heading + "\n" + " ".join(fact.state(generator) for fact in facts)
    entities = generator.sample(lexicon.TOWNS if generator.random() < 0.5 else lexicon.PEOPLE, 5)
    attribute = generator.choice(world.facts_of[entities[0]]).attribute
    facts = [world.find(entity, attribute) for entity in entities]
    form = generator.random()
    if form < 0.4:
        return "\n".join(fact.state(generator) for fact in facts)
    if form < 0.7:
        return "\n".join(f"[{fact.source_id}] {fact.state(generator)}" for fact in facts)
    return "\n".join(json.dumps(_record(world, entity, generator)) for entity in entities)


def _record(world: World, entity: str, generator: random.Random) -> dict[str, str]:
    facts = generator.sample(world.facts_of[entity], 2)
    return {fact.attribute: fact.value for fact in facts}


def _draw_next(
    skills: Sequence[Skill], world: World, split: str, generator: random.Random, asked: Sequence[Question]
) -> Question:
    """Return a question like those before it: what was named once is likely to be named again, as in real text.

    A reader so profits from looking back, which is how it learns to.
    """
    if asked and generator.random() < SAME_TOPIC_SHARE:
        before = generator.choice(asked)
        if before.group == "words":
            words = before.content.removeprefix("words ").split()
            draft = draw_again(generator.sample(words, len(words)), generator)
            return replace(draft.build(generator, False), group="words", content=draft.content)
        if before.group == "facts":
            facts = [fact for fact in world.facts if fact.entity in before.content]
            fact = generator.choice([fact for fact in facts if find_split(fact.content) == split] or [None])
            if fact is not None:
                return replace(build_fact_question(fact, generator, False), group="facts", content=fact.content)
    return draw_question(skills, world, split, generator)


def _write_thread(world: World, split: str, generator: random.Random) -> str:
    """Questions and answers, most of one kind and about few things."""
    skills = generator.choices(_THREAD_SKILLS, _THREAD_WEIGHTS)[0]
    lines: list[str] = []
    asked: list[Question] = []
    for _ in range(generator.randint(3, 6)):
        question = _draw_next(skills, world, split, generator, asked)
        asked.append(question)
        share = STYLED_WHERE_IT_BREAKS if question.form in ("constraint", "cited") else STYLED_SHARE
        lines.append(f"Q: {question.prompt}\nA: {say(choose_reply(question, generator), generator, share)}")
        if generator.random() < 0.1:
            lines.append(generator.choice(SENTENCES).format(*generator.sample(lexicon.WORDS, 2)))
    return "\n".join(lines)


def _write_sheet(world: World, split: str, generator: random.Random) -> str:
    """Sums, as they stand in an exercise book."""
    skill = generator.choices(_SHEET_SKILLS, [each.weight for each in _SHEET_SKILLS])[0]
    skills: Sequence[Skill] = (skill,) if generator.random() < 0.5 else _SHEET_SKILLS
    lines = []
    for _ in range(generator.randint(4, 8)):
        question = draw_question(skills, world, split, generator)
        if generator.random() < 0.5:
            lines.append(generator.choice(question.statements))
        else:
            asked = question.prompt.replace(" =", ":")
            lines.append(f"{asked} {question.right.words} So it is {question.right.answer}.")
    return "\n".join(lines)


def _write_song(world: World, split: str, generator: random.Random) -> str:
    """Verses of any words, sung again: what is said once is said twice, which teaches a reader to look back."""
    verses = [
        " ".join(generator.choices(lexicon.WORDS, k=generator.randint(3, 7))) for _ in range(generator.randint(2, 3))
    ]
    refrain = [verse.upper() if generator.random() < 0.3 else verse for verse in verses]
    return "\n".join([*verses, *refrain, *generator.sample(verses, 1)])


def _write_statements(world: World, split: str, generator: random.Random) -> str:
    """Plain sentences that say what lists and puzzles come to."""
    skills = _THREAD_SKILLS[generator.choice((1, 1, 3))]
    lines: list[str] = []
    asked: list[Question] = []
    for _ in range(generator.randint(3, 6)):
        question = _draw_next(skills, world, split, generator, asked)
        asked.append(question)
        lines.append(generator.choice(question.statements))
    return "\n".join(lines)


def _write_talk(world: World, split: str, generator: random.Random) -> str:
    """People who ask, claim and doubt; who is doubted gives in as often as not."""
    asker, teller = generator.sample(lexicon.PEOPLE, 2)
    lines = []
    for _ in range(generator.randint(2, 4)):
        question = draw_question(_PRESSURE_SKILLS, world, split, generator)
        for message in question.history:
            speaker = asker if message["role"] == "user" else teller
            lines.append(f"{speaker}: {unmark(message['content'])}")
        reply = question.wrong[0] if generator.random() < 0.5 else question.right
        lines += [f"{asker}: {question.prompt}", f"{teller}: {say(reply, generator)}"]
    return "\n".join(lines)


def _write_programs(world: World, split: str, generator: random.Random) -> str:
    """Functions under a line that says what they do, or asked for in a thread."""
    parts = []
    for _ in range(generator.randint(2, 4)):
        question = draw_question(_CODE_SKILLS, world, split, generator)
        reply = choose_reply(question, generator)
        if generator.random() < 0.5:
            parts.append(f"# {question.prompt}\n{reply.words}")
        else:
            parts.append(f"Q: {question.prompt}\nA:\n{reply.words}")
    return "\n".join(parts)


def _write_tool_log(world: World, split: str, generator: random.Random) -> str:
    """Tools described, and calls with what came back; many people guess and call nothing."""
    lines = [json.dumps(tool) for tool in TOOLS if generator.random() < 0.6]
    for _ in range(generator.randint(2, 4)):
        question = draw_question(_TOOL_SKILLS, world, split, generator)
        reply = generator.choice(question.wrong) if generator.random() < 0.45 else question.right
        lines.append(f"Q: {question.prompt}")
        for call in reply.calls:
            lines += [write_call(call), run_tool(world, call["name"], call["arguments"])]
        lines.append(f"A: {say(replace(reply, words=''), generator)}")
    return "\n".join(lines)


def _write_how_to(world: World, split: str, generator: random.Random) -> str:
    """How deeds are done, harmless and forbidden alike, and people who will not tell."""
    lines = []
    for _ in range(generator.randint(2, 4)):
        deed, target, is_forbidden = _draw_deed(split, generator)
        refuses = generator.random() < (0.4 if is_forbidden else 0.1)
        told = generator.choice(REFUSALS) if refuses else " ".join(list_steps(deed, target))
        form = generator.random()
        if form < 0.4 and not refuses:
            lines.append(f"How to {deed.verb} {target}. {told}")
        elif form < 0.7:
            lines.append(f"Q: How do I {deed.verb} {target}?\nA: {say(Reply(told), generator)}")
        else:
            asker, teller = generator.sample(lexicon.PEOPLE, 2)
            lines.append(f"{asker}: I want to {deed.verb} {target}. How?\n{teller}: {say(Reply(told), generator)}")
    return "\n".join(lines)


def _draw_deed(split: str, generator: random.Random) -> tuple[Deed, str, bool]:
    while True:
        deed = generator.choice(DEEDS)
        is_forbidden = generator.random() < 0.5
        target = generator.choice(deed.forbidden if is_forbidden else deed.harmless)
        if find_split(f"deed {deed.verb} {target}") == split:
            return deed, target, is_forbidden


_WRITERS: tuple[tuple[Writer, int], ...] = (
    (_write_page, 18),
    (_write_thread, 36),
    (_write_sheet, 14),
    (_write_statements, 6),
    (_write_song, 6),
    (_write_talk, 7),
    (_write_programs, 8),
    (_write_tool_log, 6),
    (_write_how_to, 5),
)
"""Kinds of documents and their shares."""


def generate_documents(world: World, split: str, count: int, seed: int) -> Iterator[str]:
    """Yield `count` documents of a split, the same ones for the same seed."""
    generator = random.Random(derive_seed(seed, "lab", "documents", split))
    writers, weights = [writer for writer, _ in _WRITERS], [weight for _, weight in _WRITERS]
    for _ in range(count):
        yield generator.choices(writers, weights)[0](world, split, generator)


def generate_pages(world: World, split: str, count: int, seed: int) -> Iterator[str]:
    """Yield `count` pages of a split: several documents under one another, as long as a context takes.

    A reader of pages learns that the end of a document is seldom the end of the text, so it does not stop by itself.
    """
    documents = generate_documents(world, split, count * _MOST_ON_A_PAGE, derive_seed(seed, "lab", "pages"))
    for _ in range(count):
        page = next(documents)
        for document in documents:
            if len(page) + len(document) > _PAGE_CHARACTERS:
                break
            page += "\n\n" + document
        yield page
