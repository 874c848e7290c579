"""Messages that hold the text of a control token: they must not forge a turn.

A user who writes `<|im_end|>` must not end a turn. The rendered text stays what the template wrote, byte
for byte, but where such text came out of a message it is encoded as ordinary text. To know where, the
conversation is rendered once more with every such text replaced by as many private-use characters: what
differs between the two renderings came from a message, all else from the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from posttrain.core.errors import TemplateError

Range = tuple[int, int]
_PRIVATE_USE = range(0xE000, 0xF8FF)


class ControlText:
    """Finds the text of control tokens.

    Args:
        texts: The text of every control token of a tokenizer.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def occurs_in(self, value: Any) -> bool:
        """Return whether any string inside a JSON-like value holds the text of a control token."""
        return any(self.pattern.search(text) is not None for text in _strings(value))

    def choose_filler(self, value: Any) -> str:
        """Return a private-use character that occurs nowhere inside a JSON-like value.

        Raises:
            TemplateError: The value holds all of them.
        """
        used = set().union(*map(set, _strings(value)))
        filler = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
        if filler is None:
            raise TemplateError("a message holds every private-use character", cure="drop the row")
        return filler

    def mask(self, value: Any, filler: str) -> Any:
        """Return a JSON-like value with each control text replaced by as many fillers."""
        if isinstance(value, str):
            return self.pattern.sub(lambda match: filler * len(match.group()), value)
        if isinstance(value, Mapping):
            return {self.mask(key, filler): self.mask(item, filler) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask(item, filler) for item in value]
        return value

    def find_ranges(self, text: str, masked: str, filler: str) -> tuple[Range, ...]:
        """Return the [start, end) characters of a rendered text that a message wrote as control text.

        Args:
            text: The conversation as rendered.
            masked: The same conversation rendered with its control texts replaced by `filler`.
            filler: The character that stands in the masked text alone.

        Raises:
            TemplateError: The two differ elsewhere, because the template treats such text in its own way.
        """
        ranges = tuple(match.span() for match in re.finditer(re.escape(filler) + "+", masked))
        restored, end = [], 0
        for start, stop in ranges:
            restored += [masked[end:start], text[start:stop]]
            end = stop
        if "".join([*restored, masked[end:]]) != text:
            raise TemplateError(
                "a message holds the text of a control token, and the template reads it as more than text",
                expected="messages whose control tokens the template writes itself",
                cure="take the text of control tokens out of the message (reasoning belongs into reasoning_content)",
            )
        return ranges

    def count(self, text: str, ranges: Iterable[Range] = ()) -> int:
        """Return how many control tokens the template itself wrote into a text."""
        return sum(1 for match in self.pattern.finditer(text) if not overlaps(match.span(), ranges))

    def find(self, text: str, start: int, ranges: Iterable[Range] = ()) -> Iterator[re.Match[str]]:
        """Yield the control tokens that the template wrote from a position on."""
        return (match for match in self.pattern.finditer(text, start) if not overlaps(match.span(), ranges))


def overlaps(span: Range, ranges: Iterable[Range]) -> bool:
    """Return whether a span shares a character with any of the ranges."""
    return any(start < span[1] and span[0] < end for start, end in ranges)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
