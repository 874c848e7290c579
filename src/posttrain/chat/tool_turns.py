"""Turns that call tools: in which form a template writes calls, and what a turn that a model wrote calls.

A rollout goes on with the very tokens that were drawn, so a template must write a conversation onwards from where the
turn ended: one that takes thoughts out of earlier turns would show a policy in training what it never sees in use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from posttrain.chat.calls import Call, CallRefusedError, Syntax, read_calls
from posttrain.chat.conversations import CALL_ID, CALLING
from posttrain.chat.rendering import Renderer
from posttrain.core.errors import TemplateError
from posttrain.core.records import Message

MAX_CALLS = 16
"""Calls of one turn."""
_QUESTION, _THOUGHT, _RESULT = "PROBEQUESTION", "PROBETHOUGHT", "PROBERESULT"
_BLOCK = re.compile(r"<tool_call>.*?(?:</tool_call>|$)", re.DOTALL)
_NAMED = re.compile(r'\s*\[?\s*\{\s*"(?:name|type|function|tool_calls)"')
_CURE = (
    "use a training variant of the template that keeps what was thought (chat.template: a file), set its arguments "
    "(chat.arguments), or use chat.template: plain"
)


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """A turn that calls tools, or tries to.

    Made by `read_turn`. `calls` are what it calls; where they cannot be read there are none, and `fault` says why.
    """

    message: Message
    calls: tuple[Call, ...]
    fault: str | None = None


def find_call_syntax(renderer: Renderer) -> Syntax:
    """Return the form in which a renderer's template writes calls.

    Raises:
        TemplateError: The template shows no results of tools, writes calls in no form that can be read, or writes what
            was said before otherwise once a conversation goes on.
    """
    user = {"role": "user", "content": _QUESTION}
    thinking = {"role": "assistant", "content": f"<think>\n{_THOUGHT}\n</think>\n\n"}
    reply = {"role": "tool", "name": "probe", "tool_call_id": CALL_ID, "content": _RESULT}
    prompt = renderer.render_text([user])
    plain, thoughtful = (renderer.render_text([user, turn, reply]) for turn in (CALLING, thinking))
    if _RESULT not in plain:
        raise _refuse("the template does not show what a tool replies")
    if not plain.startswith(prompt) or not thoughtful.startswith(prompt) or _THOUGHT not in thoughtful:
        raise _refuse("the template rewrites what the assistant wrote once a tool has replied")
    renderer.render_observations([([user], None, [reply])])
    turn = plain[len(prompt) : plain.index(_RESULT)]
    if "<tool_call>" in turn:
        return "hermes"
    if _NAMED.match(turn):
        return "json"
    raise _refuse(f"the template writes a call as {turn[:80]!r}")


def read_turn(text: str, syntax: Syntax) -> ToolTurn | None:
    """Return what a turn calls, None for one that tries to call nothing.

    Args:
        text: What the model wrote, without the stop token; what it thought is taken off.
        syntax: The form that calls are written in (`find_call_syntax`).
    """
    said = text.rpartition("</think>")[2]
    if not ("<tool_call>" in said or "</tool_call>" in said if syntax == "hermes" else _NAMED.match(said)):
        return None
    try:
        calls = read_calls(said, syntax, allows_text=True)
    except CallRefusedError as error:
        return ToolTurn({"role": "assistant", "content": text}, (), str(error))
    if len(calls) > MAX_CALLS:
        return ToolTurn({"role": "assistant", "content": text}, (), f"{len(calls)} calls, more than {MAX_CALLS}")
    words = _BLOCK.sub("", text).strip() if syntax == "hermes" else ""
    return ToolTurn({"role": "assistant", "content": words, "tool_calls": [_wrap(call) for call in calls]}, (*calls,))


def _wrap(call: Call) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _refuse(found: str) -> TemplateError:
    return TemplateError(
        found,
        expected="a template that writes calls as <tool_call>{...}</tool_call> or as JSON, shows tools' replies, and "
        "goes on from where the assistant's turn ended",
        cure=_CURE,
        place="chat template",
    )
