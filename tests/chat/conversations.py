"""Generated conversations that hold what real ones hold, and what breaks renderers."""

from __future__ import annotations

import random
from typing import Any

WORDS = [
    "Paris", "is", "the", "capital", "of", "France", "hello", "there", "12", "+", "30", "=", "42", "user", "assistant",
    "naïve", "café", "🦩", "👩‍👩‍👧‍👦", "שלום", "עולם", "مرحبا", "你好", "e\u0301", "n\u0303o", "—", "…", "\u200b",
    "\u202e", "ﬁne", "x_y", "`code`", "{{ not }}", "{% raw %}", "a\tb", "line\nbreak", "para\n\ngraph", "  two  blanks",
    "#", "<b>", "&amp;", '"quoted"', "back\\slash", "\u00a0", "Assistant:", "[INST]",
]  # fmt: skip
EDGES = ["", " ", "\n", "\n\n", "  ", "\t", " \n "]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Weather of a "city" — ünïcode',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def build_text(draw: random.Random, *, can_be_empty: bool = True) -> str:
    """Return words, sometimes none, sometimes with white space at the edges."""
    if can_be_empty and draw.random() < 0.06:
        return draw.choice(EDGES)
    text = " ".join(draw.choices(WORDS, k=draw.randint(1, 12)))
    if draw.random() < 0.25:
        text = draw.choice(EDGES) + text + draw.choice(EDGES)
    return text


def build_conversation(index: int, shows: frozenset[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Return the messages and tools of conversation `index`, holding only what a template can show."""
    draw = random.Random(f"conversation {index}")
    messages: list[dict[str, Any]] = []
    if "system" in shows and draw.random() < 0.5:
        messages.append({"role": "system", "content": build_text(draw)})
    has_tools = "tools" in shows and draw.random() < 0.35
    for _ in range(draw.choice([1, 1, 1, 2, 3, 5])):
        messages.append({"role": "user", "content": build_text(draw)})
        if has_tools and draw.random() < 0.7:
            messages.extend(build_tool_use(draw, shows))
        answer: dict[str, Any] = {"role": "assistant", "content": build_text(draw)}
        if "thinking" in shows and draw.random() < 0.4:
            answer["reasoning_content"] = build_text(draw, can_be_empty=False)
        messages.append(answer)
    return messages, TOOLS if has_tools else None


def build_tool_use(draw: random.Random, shows: frozenset[str]) -> list[dict[str, Any]]:
    """Return a tool call and its result."""
    arguments = {"city": build_text(draw), "days": draw.randint(0, 9), "deep": {"list": [None, True, 1.5]}}
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    calling: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    if "thinking" in shows and draw.random() < 0.3:
        calling["reasoning_content"] = build_text(draw, can_be_empty=False)
    return [calling, {"role": "tool", "name": "get_weather", "content": build_text(draw)}]
