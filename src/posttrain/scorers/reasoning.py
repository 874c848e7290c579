"""Taking a model's reasoning block off its answer, in one pass over the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningBlock:
    """The tag that a model's reasoning stands in: at the start of its text, once.

    Made by a scorer's setting, read by `strip_reasoning`. Example: `ReasoningBlock("think")` for `<think>...</think>`.

    Args:
        tag: The tag's name.
        is_opened_by_prompt: The chat template writes the opening tag, so that the completion begins inside the block.

    Raises:
        ValueError: The tag's name is blank or holds a character that no tag may hold.
    """

    tag: str
    is_opened_by_prompt: bool = False

    def __post_init__(self) -> None:
        if not self.tag.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"a reasoning tag is a name of letters, digits, _ and -, found {self.tag!r}")


def strip_reasoning(text: str, block: ReasoningBlock | None) -> str | None:
    """Return the text after its reasoning block, None where the block is open, closed twice or stands elsewhere.

    Without a block in the text (and none opened by the prompt) the text is returned as it is.
    """
    if block is None:
        return text
    opening, closing = f"<{block.tag}>", f"</{block.tag}>"
    rest = text.lstrip()
    is_open = block.is_opened_by_prompt
    if rest.startswith(opening):
        rest, is_open = rest[len(opening) :], True
    if is_open:
        _, found, rest = rest.partition(closing)
        if not found:
            return None
    else:
        rest = text
    return None if opening in rest or closing in rest else rest
