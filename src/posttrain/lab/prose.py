"""Questions as the corpus asks them, for a base model that knows no chat: `Q: ...` and `A:`, and where a reply ends."""

from __future__ import annotations

import json

from posttrain.lab.questions import Question, unmark

STOPS = ("\nQ:", "\n#", "\nUser:")
"""Texts that end a reply in the corpus, whatever its form."""


def write_prompt(question: Question) -> str:
    """Return a question as a thread of the corpus asks it, tools described before it."""
    lines = [json.dumps(tool) for tool in question.tools]
    for message in question.history:
        text = unmark(str(message["content"]))
        lines.append(f"Q: {text}" if message["role"] == "user" else f"A: {text}")
    lines.append(f"Q: {question.prompt}")
    if question.form == "calls":
        return "\n".join(lines) + "\n"
    return "\n".join(lines) + ("\nA:\n" if question.form == "code" else "\nA:")


def cut_reply(question: Question, text: str) -> str:
    """Return the part of a text that is the reply: its line, or its lines where the form has several."""
    text = text.strip("\n ") if question.form != "code" else text.strip("\n")
    if question.form == "calls":
        calls = [line for line in text.split("\n") if line.startswith("<tool_call>")]
        first = text.split("\n")[0]
        return "".join(calls) if first.startswith("<tool_call>") else first.removeprefix("A:").strip()
    if question.form == "code":
        lines = text.split("\n")
        kept = [line for line in lines[1:] if line.startswith("    ")]
        return "\n".join([lines[0], *kept])
    if question.form == "constraint" and text.startswith("- "):
        return "\n".join(line for line in text.split("\n") if line.startswith("- "))
    return text.split("\n")[0].strip()
