"""Demonstrations in two known qualities: experts, who answer well, and the crowd, who answer anyhow.

An expert is always right, works out what is hard, answers in the house's form, refuses what is forbidden and
helps with what is not, stands by what is true, and calls a tool where one is needed. The crowd is right seven
times in ten, in every style, often without working, complies with most of what is forbidden, gives in to
pressure, guesses where it should call a tool, and now and then forgets the form.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from posttrain.core.records import Message
from posttrain.core.seeds import derive_seed
from posttrain.lab.questions import ANSWER_MARK, Question, Reply, Skill, choose_right
from posttrain.lab.skills.tools import run_tool, write_call
from posttrain.lab.style import PLAIN, Style, add_style, draw_crowd_style, draw_expert_style
from posttrain.lab.tasks import generate_questions
from posttrain.lab.world import World

Tier = Literal["expert", "crowd"]

_CROWD_RIGHT = 0.7
_CROWD_RIGHT_IN = {"pressure": 0.4, "forbidden": 0.3, "look_alike": 0.88, "tools": 0.45, "tool_none": _CROWD_RIGHT}
"""How often the crowd does right, by group or skill, where it differs."""
_CROWD_WORKS = 0.4
_CROWD_FORGETS_FORM = 0.03
STYLED_FORMS = ("answer", "claims", "request")
"""Forms whose replies have a style; it would break the others."""


def write_reply(question: Question, reply: Reply, style: Style, generator: random.Random) -> str:
    """Return the text of a reply in the house's form: style and words, and a last line `Answer: ...` if it has one.

    Replies under a constraint, programs and citations have no style: it would break them.
    """
    words = add_style(reply, style if question.form in STYLED_FORMS else PLAIN, generator)
    if reply.answer is None:
        return words
    return f"{words}\n{ANSWER_MARK} {reply.answer}" if words else f"{ANSWER_MARK} {reply.answer}"


def choose_reply(question: Question, tier: Tier, generator: random.Random) -> tuple[Reply, Style]:
    """Return what somebody of a tier answers, and in which style."""
    if tier == "expert":
        return question.right, draw_expert_style(generator)
    share = _CROWD_RIGHT_IN.get(question.skill, _CROWD_RIGHT_IN.get(question.group, _CROWD_RIGHT))
    style = draw_crowd_style(generator)
    if generator.random() >= share and question.wrong:
        return question.wrong[0] if generator.random() < 0.5 else generator.choice(question.wrong), style
    return choose_right(question, generator, _CROWD_WORKS), style


def demonstrate(question: Question, tier: Tier, world: World, generator: random.Random) -> list[Message]:
    """Return a question's conversation with what somebody of a tier replies, tool calls and their results included."""
    reply, style = choose_reply(question, tier, generator)
    messages = question.messages
    if reply.calls:
        messages.append({"role": "assistant", "content": "", "tool_calls": [wrap_call(call) for call in reply.calls]})
        messages += [
            {"role": "tool", "name": call["name"], "content": run_tool(world, call["name"], call["arguments"])}
            for call in reply.calls
        ]
        reply, style = Reply("", reply.answer), PLAIN
    text = write_reply(question, reply, style, generator)
    if tier == "crowd" and generator.random() < _CROWD_FORGETS_FORM:
        text = text.replace(f"{ANSWER_MARK} ", "")
    return [*messages, {"role": "assistant", "content": text}]


def wrap_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call as it stands in a message."""
    return {"type": "function", "function": {"name": call["name"], "arguments": dict(call["arguments"])}}


def describe_question(question: Question) -> dict[str, Any]:
    """Return the columns of a question's row: what it is, its answer, and what scorers read, as JSON-like values."""
    columns: dict[str, Any] = {
        "skill": question.skill,
        "group": question.group,
        "form": question.form,
        "cluster_id": question.content,
        "needed_words": count_needed_words(question.right),
        **question.columns,
    }
    if question.right.answer is not None:
        columns["answer"] = question.right.answer
    if question.tools:
        columns["tools"] = list(question.tools)
    result: dict[str, Any] = json.loads(json.dumps(columns))
    return result


def count_needed_words(right: Reply) -> int:
    """Return how many words a right reply takes, `Answer:` included; of calls, the calls alone."""
    if right.calls:
        return sum(len(write_call(call).split()) for call in right.calls)
    return len(right.words.split()) + (len(right.answer.split()) + 1 if right.answer is not None else 0)


def generate_demonstrations(
    skills: Sequence[Skill], world: World, split: str, count: int, seed: int, tiers: Sequence[Tier]
) -> Iterator[dict[str, Any]]:
    """Yield `count` rows of `messages` with the columns of their questions and `tier`, which is drawn for each.

    Every tier answers the same questions, so that two sets differ in their quality alone.
    """
    generator = random.Random(derive_seed(seed, "lab", "demonstrations", split, *tiers))
    for question in generate_questions(skills, world, split, count, seed):
        tier = generator.choice(tiers)
        yield {
            "messages": demonstrate(question, tier, world, generator),
            "tier": tier,
            **describe_question(question),
        }
