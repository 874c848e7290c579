"""Where turns begin and end, learned from the template itself by one small probe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from posttrain.core.protocols import TemplateRenderer

_TURNS = (("user", "PROBEQUESTIONONE"), ("assistant", "PROBEANSWERONE"), ("user", "PROBEQUESTIONTWO"))
_SYSTEM = ("system", "PROBEINSTRUCTION")
_TOOL = ("tool", "PROBERESULT")
_CALL = {"type": "function", "function": {"name": "probe", "arguments": {}}}


@dataclass(frozen=True, slots=True)
class TurnShape:
    """What a template puts around messages.

    Args:
        turn_end: The control token right after an assistant's turn, or None if there is none.
        headers: What stands right before the content of a role, for the roles that the template knows.

    Example: ChatML has `turn_end="<|im_end|>"` and `headers["user"]="<|im_start|>user\\n"`.
    """

    turn_end: str | None
    headers: Mapping[str, str] = field(default_factory=dict)


def probe_template(renderer: TemplateRenderer, special_tokens: Mapping[str, int]) -> TurnShape:
    """Return what a template puts around messages, as far as three small conversations tell.

    A template that refuses one of them (no system role, say) is asked the others; what cannot be learned
    is left out.
    """
    dialogue = [{"role": role, "content": content} for role, content in _TURNS]
    system = {"role": _SYSTEM[0], "content": _SYSTEM[1]}
    calling = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    tool = {"role": _TOOL[0], "content": _TOOL[1], "name": "probe"}
    texts = renderer.render(
        [
            {"messages": dialogue[:2]},
            {"messages": dialogue},
            {"messages": [system, *dialogue]},
            {"messages": [dialogue[0], calling, tool]},
        ]
    )
    shown = [text for text in texts if isinstance(text, str)]
    turn_end = find_turn_end(texts[0], _TURNS[1][1], special_tokens) if isinstance(texts[0], str) else None
    headers: dict[str, str] = {}
    for role, content in (_SYSTEM, *_TURNS, _TOOL):
        for text in shown:
            if (before := _literal_before(text, content)) is not None:
                headers[role] = _common_suffix(headers[role], before) if role in headers else before
    return TurnShape(turn_end, headers)


def find_turn_end(text: str, answer: str, special_tokens: Mapping[str, int]) -> str | None:
    """Return the control token that follows an answer in a rendered text, white space apart."""
    _, found, after = text.rpartition(answer)
    longest_first = sorted(special_tokens, key=len, reverse=True)
    match = (
        re.match(r"\s*(" + "|".join(map(re.escape, longest_first)) + ")", after) if found and longest_first else None
    )
    return match.group(1) if match else None


def find_stop_ids(
    eos_ids: Sequence[int], generation_eos_ids: Sequence[int], turn_end_ids: Sequence[int]
) -> tuple[int, ...]:
    """Return the ids at which sampling stops and trained turns end: turn ends first, each once.

    Args:
        eos_ids: The tokenizer's end of sequence.
        generation_eos_ids: What the model's generation config names.
        turn_end_ids: The control tokens that the template puts right after an assistant's turn.
    """
    return tuple(dict.fromkeys([*turn_end_ids, *eos_ids, *generation_eos_ids]))


def _literal_before(text: str, content: str) -> str | None:
    """Return what stands between the previous probe content (or the start) and this one."""
    before, found, _ = text.partition(content)
    if not found:
        return None
    contents = [known for _, known in (_SYSTEM, *_TURNS, _TOOL)]
    start = max((before.rfind(known) + len(known) for known in contents if known in before), default=0)
    return before[start:]


def _common_suffix(one: str, other: str) -> str:
    length = next((i for i, pair in enumerate(zip(one[::-1], other[::-1], strict=False)) if pair[0] != pair[1]), None)
    return min(one, other, key=len) if length is None else one[len(one) - length :]
