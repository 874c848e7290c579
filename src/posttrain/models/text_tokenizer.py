"""A transformers fast tokenizer as rendering sees it: text to ids with offsets, and back, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer, processors

from posttrain.core.errors import ModelError
from posttrain.core.hashing import hash_text

Encoded = tuple[list[int], list[tuple[int, int]]]


class HuggingFaceTextTokenizer:
    """Implements `core.protocols.TextTokenizer` over the Rust tokenizer inside a transformers one.

    It works on copies, so that truncation, padding or splitting set elsewhere on the same tokenizer never
    reach it. Nothing is added and nothing is cleaned up.

    Args:
        tokenizer: A transformers tokenizer with a `backend_tokenizer`.

    Raises:
        ModelError: The tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ModelError(
                f"{type(tokenizer).__name__} is not a fast tokenizer",
                expected="a tokenizer with a tokenizer.json",
                cure="convert it once with transformers (AutoTokenizer) and save it",
                place="tokenizer",
            )
        self._serialized = backend.to_str()
        self._backend = self._copy()
        added = tokenizer.added_tokens_decoder
        self._added_tokens = {token.content: int(index) for index, token in added.items()}
        self._special_tokens = {token.content: int(index) for index, token in added.items() if token.special}
        self.template_tokens: dict[str, str] = {
            name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)
        }
        unknown = self.template_tokens.get("unk_token")
        self._unknown_id = None if unknown is None else backend.token_to_id(unknown)
        self._anchor: list[int] = []
        self._anchor_length = 0
        self._choose_anchor()

    @property
    def content_hash(self) -> str:
        """The hash of everything that decides the ids of a text."""
        return hash_text(self._serialized)

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """The text and id of every token that is matched before anything else, special or not."""
        return self._added_tokens

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The text and id of every added token that is marked special."""
        return self._special_tokens

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for text outside the vocabulary, if there is one."""
        return self._unknown_id

    def encode_with_offsets(self, text: str, *, specials_as_text: bool = False) -> Encoded:
        """Return ids and the [start, end) characters of each, adding no special tokens."""
        backend = self._literal_backend if specials_as_text else self._backend
        encoding = backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_batch_with_offsets(self, texts: Sequence[str]) -> list[Encoded]:
        """Return `encode_with_offsets` of each text, in order."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids as it stands inside a longer text.

        A SentencePiece-like decoder drops the blank before the first word of what it is given; here it is
        kept, so that `decode(a + b) == decode(a) + decode(b)` wherever no character is cut.
        """
        text: str = self._backend.decode([*self._anchor, *ids], skip_special_tokens=False)
        return text[self._anchor_length :]

    def _choose_anchor(self) -> None:
        """Put an ordinary token before what is decoded if the decoder drops leading blanks."""
        anchor = self._backend.encode("a", add_special_tokens=False).ids
        ids = self._backend.encode("a b", add_special_tokens=False).ids
        if ids[: len(anchor)] != anchor:
            return
        anchor_text = self._backend.decode(anchor, skip_special_tokens=False)
        whole = self._backend.decode(ids, skip_special_tokens=False)
        if whole[len(anchor_text) :] != self._backend.decode(ids[len(anchor) :], skip_special_tokens=False):
            self._anchor, self._anchor_length = anchor, len(anchor_text)

    def _copy(self) -> Tokenizer:
        """Return a backend of our own: no truncation, no padding, offsets that keep their blanks."""
        backend = Tokenizer.from_str(self._serialized)
        backend.no_truncation()
        backend.no_padding()
        # Nothing is added, so the post-processor would only trim blanks off the offsets.
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        return backend

    @cached_property
    def _literal_backend(self) -> Tokenizer:
        """A backend to which control tokens are ordinary text."""
        backend = self._copy()
        backend.encode_special_tokens = True
        return backend
