"""`tokenizer.model`: a byte-fallback BPE tokenizer in SentencePiece's format, for tools that read scores.

llama.cpp's converter takes no merges from a `tokenizer.json` of this kind: it gives every piece the same score,
and the runtime then joins whichever pair stands leftmost, which are other tokens than the model was trained on.
From a `tokenizer.model` beside it, it takes a score for each piece. The two files say the same where merges are
those of SentencePiece's rule: whenever two neighbours join to a piece they may be merged, and the piece with the
highest score goes first. A tokenizer that follows another rule has no such file.

Of added tokens that are not special (`<think>`) the converter learns from `added_tokens_decoder` in
`tokenizer_config.json` alone: without it they are ordinary text to llama.cpp, unlike control tokens.

Format: `sentencepiece_model.proto` of SentencePiece (github.com/google/sentencepiece), written here with the
few fields that decide ids and text.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

SENTENCEPIECE_FILE = "tokenizer.model"
_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE_KIND = 1, 2, 3, 4, 6
_BPE = 2


def build_sentencepiece_model(tokenizer: Mapping[str, Any]) -> bytes | None:
    """Return the content of `tokenizer.model` for the content of a `tokenizer.json`, None if there is none.

    A piece's score is minus the rank of its first merge; control tokens, bytes and characters have 0.

    Args:
        tokenizer: The JSON value of a `tokenizer.json`. For a file to be there it must be a BPE with all 256
            byte tokens, an unknown token, ids without gaps, blanks replaced (with or without one put first) and
            nothing else normalised or split, and merges that are every pair of pieces that joins to a piece, all
            pairs of one piece together.
    """
    model = tokenizer["model"]
    added, adds_blank = tokenizer.get("added_tokens", []), _find_prefix(tokenizer)
    if model.get("type") != "BPE" or not model.get("byte_fallback") or adds_blank is None:
        return None
    ids: dict[str, int] = {**model["vocab"], **{token["content"]: token["id"] for token in added}}
    pieces = sorted(ids, key=ids.__getitem__)
    ranks = _rank_pieces(model["vocab"], model["merges"])
    has_all = [ids[piece] for piece in pieces] == list(range(len(pieces))) and model.get("unk_token") in ids
    if ranks is None or not has_all or sum(map(bool, map(_BYTE.fullmatch, pieces))) != 256:
        return None
    special = {token["content"]: token["special"] for token in added}
    fields = []
    for piece in pieces:
        kind = _find_kind(piece, special, model["unk_token"])
        fields.append(_field(1, _field(1, piece.encode()) + _field(2, float(-ranks.get(piece, 0))) + _field(3, kind)))
    trainer = _field(3, _BPE) + _field(4, len(pieces)) + _field(35, 1) + _field(40, ids[model["unk_token"]])
    trainer += _field(45, model["unk_token"].encode())
    normalizer = _field(1, b"identity") + _field(3, int(adds_blank)) + _field(4, 0) + _field(5, 1)
    return b"".join(fields) + _field(2, trainer) + _field(3, normalizer)


def _find_prefix(tokenizer: Mapping[str, Any]) -> bool | None:
    """Whether a blank is put before a text, None where more happens to it before it is cut into pieces."""
    replacing = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepending = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, replacing]}
    if tokenizer.get("pre_tokenizer") is not None or tokenizer.get("normalizer") not in (replacing, prepending):
        return None
    return bool(tokenizer["normalizer"] == prepending)


def _rank_pieces(vocabulary: Mapping[str, int], merges: Sequence[Any]) -> dict[str, int] | None:
    """Return the rank, from 1, of every piece that is merged, None where merges are not those of scores."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    ranks: dict[str, int] = {}
    last = ""
    for left, right in pairs:
        piece = left + right
        if piece != last and piece in ranks:
            return None
        ranks.setdefault(piece, len(ranks) + 1)
        last = piece
    expected = {
        (piece[:cut], piece[cut:])
        for piece in vocabulary
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    }
    return ranks if set(pairs) == expected and all(piece in vocabulary for piece in ranks) else None


def _find_kind(piece: str, special: Mapping[str, bool], unknown: str) -> int:
    if piece == unknown:
        return _UNKNOWN
    if piece in special:
        return _CONTROL if special[piece] else _USER_DEFINED
    return _BYTE_KIND if _BYTE.fullmatch(piece) else _NORMAL


def _field(number: int, value: int | float | bytes) -> bytes:
    """Return one field as protocol buffers write it: whole numbers, 32-bit floats, and bytes with their length."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Return a number >= 0, seven bits a byte, the lowest first."""
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])
