"""Text to ids with token boundaries where they must be, and proof that the ids write the text.

A prompt is encoded as it stands, which is what a sampler sees. What is trained on must begin and end at
token boundaries and decode to exactly its text. One encoding of the whole text usually gives both; where
it does not, the answer is encoded as the continuation that it is.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.chat.control_text import ControlText, Range
from posttrain.core.errors import TemplateError
from posttrain.core.protocols import TextTokenizer

_ANCHORS = ("\n", "a", "\na")
_TAIL_CHARACTERS = 256
_REMEMBERED_TAILS = 4096
_UNICODE_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


@dataclass(frozen=True, slots=True)
class Span:
    """One turn to be trained on, in characters: its words are [start, stop_start), its stop token follows."""

    start: int
    stop_start: int
    stop_end: int


@dataclass(slots=True)
class EncodedText:
    """Ids and the [start, end) characters of each."""

    ids: list[int]
    starts: list[int]
    ends: list[int]

    def extend(self, ids: Sequence[int], offsets: Sequence[Range], shift: int) -> None:
        """Append tokens whose characters are counted from `shift`."""
        self.ids.extend(ids)
        self.starts.extend(start + shift for start, _ in offsets)
        self.ends.extend(end + shift for _, end in offsets)


class ExactEncoder:
    """Encodes rendered texts for one tokenizer.

    Args:
        tokenizer: Text to ids with offsets, and back.
        stop_ids: The ids that may end a turn.
    """

    def __init__(self, tokenizer: TextTokenizer, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        text_of = {index: text for text, index in tokenizer.special_tokens.items()}
        self.stop_texts = frozenset(text_of.get(index) or tokenizer.decode([index]) for index in stop_ids)
        # A stop token that the tokenizer does not mark as special must not be forged either.
        self.control = ControlText(self.stop_texts.union(tokenizer.special_tokens))
        self._special_ids = self.stop_ids.union(tokenizer.special_tokens.values()) - {tokenizer.unknown_id}
        self._added = ControlText(tokenizer.added_tokens).pattern
        self._tails: dict[str, list[int]] = {}
        self._anchors = [(anchor, tokenizer.encode_with_offsets(anchor)[0]) for anchor in _ANCHORS]

    def encode(self, text: str, ranges: Sequence[Range] = ()) -> EncodedText:
        """Return the encoding of a text, its control texts inside `ranges` as ordinary text.

        Raises:
            TemplateError: The tokenizer makes control tokens out of ordinary text.
        """
        check_encodable(text)
        encoded = EncodedText([], [], [])
        position = 0
        for start, end in (*ranges, (len(text), len(text))):
            for piece, offset, as_text in ((text[position:start], position, False), (text[start:end], start, True)):
                if piece:
                    is_first = not encoded.ids and not as_text
                    ids, offsets, _ = self._continue(piece, as_text=as_text, is_first=is_first)
                    encoded.extend(ids, offsets, offset)
            position = end
        self.check_control_tokens(encoded, text, ranges)
        return encoded

    def encode_batch(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return the encoding of each text as it stands; the caller checks what was found."""
        return [
            EncodedText(ids, [start for start, _ in offsets], [end for _, end in offsets])
            for ids, offsets in self.tokenizer.encode_batch_with_offsets(texts)
        ]

    def encode_turn(self, text: str, span: Span, ranges: Sequence[Range] = ()) -> tuple[EncodedText, tuple[int, int]]:
        """Return prompt, answer, stop token and what follows it, encoded one after the other.

        The second value is the [first, last) tokens to be trained on.

        Raises:
            TemplateError: The tokenizer has no ids that decode to exactly the answer.
        """
        before = [pair for pair in ranges if pair[1] <= span.start]
        inside = [pair for pair in ranges if span.start <= pair[0] and pair[1] <= span.stop_start]
        encoded = self.encode(text[: span.start], before)
        first, position = len(encoded.ids), span.start
        for start, end in (*inside, (span.stop_start, span.stop_start)):
            for piece, offset, as_text in ((text[position:start], position, False), (text[start:end], start, True)):
                if piece and not self._append(encoded, piece, offset, as_text=as_text):
                    raise _inexact(piece)
            position = end
        rest = text[span.stop_start :]
        ids, offsets = self.tokenizer.encode_with_offsets(rest)
        if not ids or ids[0] not in self.stop_ids:
            raise _inexact(text[span.stop_start : span.stop_end])
        last = len(encoded.ids) + 1
        encoded.extend(ids, offsets, span.stop_start)
        self.check_control_tokens(encoded, text, ranges)
        if not self.is_exact(encoded.ids[first : last - 1], text[span.start : span.stop_start]):
            raise _inexact(text[span.start : span.stop_start])
        return encoded, (first, last)

    def find_trainable(
        self, encoded: EncodedText, text: str, span: Span, ranges: Sequence[Range] = ()
    ) -> tuple[int, int] | None:
        """Return the [first, last) tokens of a turn, or None unless all of this holds.

        Its first token begins where its prompt ends; the ids before are what the prompt alone encodes to;
        its last token is a stop token; the ids between decode to exactly its words.
        """
        first = bisect_left(encoded.starts, span.start)
        stop = bisect_right(encoded.starts, span.stop_end - 1) - 1
        if first > 0 and encoded.ends[first - 1] > span.start:
            return None
        if stop < first or encoded.ids[stop] not in self.stop_ids:
            return None
        if not self.is_exact(encoded.ids[first:stop], text[span.start : span.stop_start]):
            return None
        if not self._has_prompt_ids(encoded, text, span.start, first, ranges):
            return None
        return first, stop + 1

    def is_exact(self, ids: Sequence[int], text: str) -> bool:
        """Return whether ids decode to a text, or to the canonical Unicode form that the tokenizer writes."""
        decoded = self.tokenizer.decode(ids)
        return decoded == text or any(unicodedata.normalize(form, text) == decoded for form in _UNICODE_FORMS)

    def check_control_tokens(self, encoded: EncodedText, text: str, ranges: Sequence[Range] = ()) -> None:
        """Check that there are no more control tokens than the template wrote.

        Raises:
            TemplateError: Ordinary text became a control token.
        """
        num_found = sum(1 for index in encoded.ids if index in self._special_ids)
        num_written = self.control.count(text, ranges)
        if num_found > num_written:
            raise TemplateError(
                f"ordinary text became {num_found - num_written} control token(s)",
                expected="control tokens that the template writes, and no others",
                cure="drop the row, or use a tokenizer that keeps control tokens apart from text",
            )

    def _has_prompt_ids(
        self, encoded: EncodedText, text: str, boundary: int, num_ids: int, ranges: Sequence[Range]
    ) -> bool:
        """Return whether the ids before a boundary are what the text before it encodes to alone.

        Text on the two sides of a control token is encoded apart, so that the last control token before
        the boundary and what follows it are all that need be looked at.
        """
        if any(start < boundary for start, _ in ranges):
            before = [pair for pair in ranges if pair[1] <= boundary]
            return self.encode(text[:boundary], before).ids == encoded.ids[:num_ids]
        tail = num_ids - 1
        while tail >= 0 and encoded.ids[tail] not in self._special_ids:
            tail -= 1
        tail_text = text[encoded.starts[tail] if tail >= 0 else 0 : boundary]
        expected = self._tails.get(tail_text)
        if expected is None:
            expected = self.tokenizer.encode_with_offsets(tail_text)[0]
            if len(tail_text) <= _TAIL_CHARACTERS and len(self._tails) < _REMEMBERED_TAILS:
                self._tails[tail_text] = expected
        return expected == encoded.ids[max(tail, 0) : num_ids]

    def _append(self, encoded: EncodedText, piece: str, position: int, *, as_text: bool) -> bool:
        """Append a piece as the continuation of what is there; return whether its ids decode to it.

        A piece that does not come out exact is tried again between the added tokens that it holds: a
        tokenizer may put a blank after each of them.
        """
        ids, offsets, is_exact = self._continue(piece, as_text=as_text, is_first=False)
        markers = () if is_exact or as_text else self._added.finditer(piece)
        parts: list[tuple[str, int]] = []
        end = 0
        for marker in markers:
            parts += [(piece[end : marker.start()], end), (marker.group(), marker.start())]
            end = marker.end()
        if not parts:
            encoded.extend(ids, offsets, position)
            return is_exact
        is_exact = True
        for part, offset in (*parts, (piece[end:], end)):
            if part:
                ids, offsets, is_part_exact = self._continue(part, as_text=False, is_first=False)
                encoded.extend(ids, offsets, position + offset)
                is_exact = is_exact and is_part_exact
        return is_exact

    def _continue(self, piece: str, *, as_text: bool, is_first: bool) -> tuple[list[int], list[Range], bool]:
        """Return ids and offsets of a piece, and whether they decode to it.

        The first piece of a text is encoded as it stands. A later one must not get the blank that some
        tokenizers put before a text, so it is encoded behind an anchor where that is what it takes.
        """
        ids, offsets = self.tokenizer.encode_with_offsets(piece, specials_as_text=as_text)
        if is_first or self.is_exact(ids, piece):
            return ids, offsets, self.is_exact(ids, piece)
        for anchor, anchor_ids in self._anchors:
            longer, longer_offsets = self.tokenizer.encode_with_offsets(anchor + piece, specials_as_text=as_text)
            own = longer[len(anchor_ids) :]
            if longer[: len(anchor_ids)] == anchor_ids and self.is_exact(own, piece):
                shift = len(anchor)
                return own, [(start - shift, end - shift) for start, end in longer_offsets[len(anchor_ids) :]], True
        return ids, offsets, False


def check_encodable(text: str) -> None:
    """Check that a text has a UTF-8 form.

    Raises:
        TemplateError: It holds half of a surrogate pair.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TemplateError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start})",
            expected="text that can be written as UTF-8",
            cure="drop the row, or mend how its file was written",
        ) from None


def _inexact(text: str) -> TemplateError:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return TemplateError(
        f"the tokenizer has no ids that decode to {shown!r}",
        expected="an answer that the model could have written token by token",
        cure="drop the row, or use a tokenizer that keeps all characters",
    )
