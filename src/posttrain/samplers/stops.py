"""Stop strings, found while tokens come in: whether the last token has completed one, and what stands before it.

The text of the whole row is decoded only when a stop string has been found. Most tokens are told apart by the
characters that they can add; for the others a tail is decoded that reaches as far back as a stop string can begin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no whole character
_MOST_PARTS = 4  # tokens that one character may be spread over: its UTF-8 bytes
_FIRST_WINDOW = 16


class StopStrings:
    """Finds the first of several texts in what rows have drawn; one object serves all rows.

    The text of ids is what `decode` gives for all of them, and the earliest match in it ends it. `decode` must give
    the text of later ids alone as the end of the text of all, wherever no character is cut in two.

    Args:
        texts: Of at least one character each.
        decode: Gives the text of ids.

    Example: with texts `("\\n\\n", "END")`, after the tokens `Yes`, `.\\n` and `\\nNo` the text is `Yes.`.
    """

    def __init__(self, texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._texts = tuple(texts)
        self._decode = decode
        self._longest = max((len(text) for text in texts), default=0)
        self._last_characters = {text[-1] for text in texts}
        self._may_complete: dict[int, bool] = {}
        self._is_boundary: dict[int, bool] = {}

    def find_text(self, ids: Sequence[int]) -> str | None:
        """Return the text before a stop string if the last token has completed one, else None.

        Args:
            ids: All that a row has drawn; this was asked after each token before, and None was the answer.
        """
        if not self._texts or not self._can_complete(ids[-1]):
            return None
        tail = self._decode_tail(ids)
        if not any(text in tail for text in self._texts):
            return None
        whole = self._decode(ids)
        starts = [start for start in map(whole.find, self._texts) if start >= 0]
        return whole[: min(starts)] if starts else None

    def _can_complete(self, token_id: int) -> bool:
        """Return whether the last character of some stop string can come from this token."""
        if token_id not in self._may_complete:
            # Twice, since a decoder may treat the first token of a text in another way.
            text = self._decode([token_id, token_id])
            is_known = bool(text) and _REPLACEMENT not in text
            self._may_complete[token_id] = not is_known or not self._last_characters.isdisjoint(text)
        return self._may_complete[token_id]

    def _decode_tail(self, ids: Sequence[int]) -> str:
        """Return the end of the text, with every stop string in it that the last token can have completed.

        Such a string ends in what the tokens add that the last character is spread over, and begins less than
        its length before.
        """
        needed = len(self._decode(ids[-_MOST_PARTS:])) + self._longest - 1
        window = _FIRST_WINDOW
        while True:
            start = self._find_boundary(ids, len(ids) - window)
            tail = self._decode(ids[start:])
            if start == 0 or len(tail) >= needed:
                return tail
            window *= 2

    def _find_boundary(self, ids: Sequence[int], start: int) -> int:
        """Return the last position up to `start` whose token begins with a whole character, or 0."""
        while start > 0 and not self._begins_whole(ids[start]):
            start -= 1
        return max(start, 0)

    def _begins_whole(self, token_id: int) -> bool:
        if token_id not in self._is_boundary:
            self._is_boundary[token_id] = self._decode([token_id])[:1] not in ("", _REPLACEMENT)
        return self._is_boundary[token_id]
