"""Taking a model's reasoning block off its answer, in one pass over the text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from posttrain.core.records import Completion, Outcome
from posttrain.scorers.endings import judge_ending

_SPELLINGS = ("think", "thinking", "thought", "reasoning")


@dataclass(frozen=True, slots=True)
class ReasoningBlock:
    """The tag that a model's reasoning stands in: at the start of its text, once.

    Made by a scorer's setting, read by `strip_reasoning`. Example: `ReasoningBlock("think")` for `<think>...</think>`;
    `think` stands for `thinking`, `thought` and `reasoning` too.

    Args:
        tag: The tag's name; upper and lower case are one.
        is_opened_by_prompt: Whether the chat template writes the opening tag, so that the completion begins inside the
            block. None takes a closing tag alone for that: right where only the answer is judged, wrong where
            something could hide in what a reader sees before the tag.

    Raises:
        ValueError: The tag's name is blank or holds a character that no tag may hold.
    """

    tag: str = "think"
    is_opened_by_prompt: bool | None = False

    def __post_init__(self) -> None:
        if not self.tag.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"a reasoning tag is a name of letters, digits, _ and -, found {self.tag!r}")


ANSWER_ONLY = ReasoningBlock(is_opened_by_prompt=None)
"""For scorers that look for an answer and judge nothing else."""


def strip_reasoning(text: str, block: ReasoningBlock | None) -> str | None:
    """Return the text after its reasoning block, None where the block is open, closed twice or stands elsewhere.

    Without a block in the text (and none opened by the prompt) the text is returned as it is.
    """
    if block is None:
        return text
    tags = list(_build_pattern(block.tag).finditer(text))
    if not tags:
        return None if block.is_opened_by_prompt else text
    if tags[-1][1] == "":
        return None  # opened, and never closed
    opens = [tag for tag in tags if not tag[1]]
    begins_with_tag = bool(opens) and not text[: opens[0].start()].strip() and opens[0] is tags[0]
    may_begin_inside = block.is_opened_by_prompt is not False
    if len(tags) - len(opens) > 1 or len(opens) > 1 or not (begins_with_tag or (may_begin_inside and not opens)):
        return None
    return text[tags[-1].end() :]


def read_reply(completion: Completion, block: ReasoningBlock | None) -> str | Outcome:
    """Return what a completion says after its reasoning, or the failure that stands in the place of a score."""
    failure = judge_ending(completion)
    if failure is not None:
        return failure
    text = strip_reasoning(completion.text, block)
    if text is None:
        return Outcome("unparsed", 0.0, why="the reasoning block does not end, or not once", fault="policy")
    return text


def _build_pattern(tag: str) -> re.Pattern[str]:
    names = _SPELLINGS if tag.lower() == "think" else (tag,)
    return re.compile(rf"<\s*+(/?)\s*+(?:{'|'.join(map(re.escape, names))})\s*+>", re.IGNORECASE)
