"""Required tags, such as `<think>...</think><answer>...</answer>`: each once, in order, closed, in linear time."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence


def find_tag_fault(
    text: str,
    tags: Sequence[str],
    *,
    may_be_empty: Collection[str] = (),
    allows_text_outside: bool = False,
) -> str | None:
    """Return None where a text consists of the tags' blocks, each once and in order, else what is wrong.

    A tag is exactly `<name>` or `</name>`; one in another case, with spaces or attributes, is a fault and not text,
    since a reader of the answer would take it for one.

    Args:
        text: What is judged.
        tags: The tags' names, in their order.
        may_be_empty: Tags that may hold nothing but white space.
        allows_text_outside: Whether words may stand before, between and after the blocks.
    """
    names = "|".join(re.escape(tag) for tag in tags)
    pattern = re.compile(rf"<\s*+(?:/\s*+)?(?:{names})(?![\w-])[^<>]*+>?", re.IGNORECASE)
    wanted = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    position = 0
    number = 0
    for match in pattern.finditer(text):
        if number == len(wanted):
            return f"{match[0][:40]!r} after the last tag"
        if match[0] != wanted[number]:
            return f"{match[0][:40]!r} where {wanted[number]} was expected"
        between = text[position : match.start()]
        tag = tags[number // 2]
        if number % 2 and not between.strip() and tag not in may_be_empty:
            return f"<{tag}> is empty"
        if not number % 2 and between.strip() and not allows_text_outside:
            return f"text before {wanted[number]}"
        position, number = match.end(), number + 1
    if number < len(wanted):
        return f"{wanted[number]} is missing"
    if text[position:].strip() and not allows_text_outside:
        return f"text after {wanted[-1]}"
    return None
