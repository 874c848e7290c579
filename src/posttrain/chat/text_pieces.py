"""A completion's text in pieces, while its tokens are drawn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

_INCOMPLETE = "\ufffd"
_MOST_TOKENS_OF_A_CHARACTER = 8


class TextPieces:
    """Turns tokens into pieces of text that never end inside a character, and never show a stop string.

    What might become one of either is held back until it is known. All pieces together are the completion's
    text, provided that `finish` is given it.

    Args:
        decode: Gives the text of ids, whatever stands around them.
        stop_ids: Token ids that are no part of the text.
        stop_strings: Texts that end a completion and are no part of it.

    Example: with the stop string "END" the tokens "a", " EN", "D" give the pieces "a", " ", "".
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        stop_ids: Collection[int] = (),
        stop_strings: Sequence[str] = (),
    ) -> None:
        self._decode = decode
        self._stop_ids = frozenset(stop_ids)
        self._stop_strings = tuple(stop_strings)
        self._ids: list[int] = []  # tokens whose text is not known yet
        self._held = ""  # text that may be the beginning of a stop string
        self._has_ended = False
        self.shown = ""
        """All pieces so far."""

    def push(self, ids: Sequence[int]) -> str:
        """Take tokens and return the text that can be shown now."""
        self._ids += [token for token in ids if token not in self._stop_ids]
        text = self._decode(self._ids)
        if text.endswith(_INCOMPLETE) and len(self._ids) < _MOST_TOKENS_OF_A_CHARACTER:
            return ""
        self._ids.clear()
        return self._release(text)

    def finish(self, text: str) -> str:
        """Return the rest of a completion whose whole text is given."""
        rest = text[len(self.shown) :] if text.startswith(self.shown) else ""
        self.shown += rest
        return rest

    def _release(self, text: str) -> str:
        if self._has_ended:
            return ""
        held = self._held + text
        ends = [found for stop in self._stop_strings if (found := held.find(stop)) >= 0]
        if ends:
            self._has_ended = True
            piece, self._held = held[: min(ends)], ""
        else:
            length = max((_count_begun(held, stop) for stop in self._stop_strings), default=0)
            piece, self._held = held[: len(held) - length], held[len(held) - length :]
        self.shown += piece
        return piece


def _count_begun(text: str, stop: str) -> int:
    """Return how many characters at a text's end are the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
