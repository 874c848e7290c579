"""`tokenizer.model`: the same ids for a tool that reads scores, or no file at all."""

from __future__ import annotations

import copy
import json
import random
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from posttrain.chat.sentencepiece_file import SENTENCEPIECE_FILE, build_sentencepiece_model
from posttrain.lab.seedling import build_seedling

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "seedling"
    build_seedling(folder, 17)
    return folder


@pytest.fixture(scope="module")
def values(folder):
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def read_fields(content):
    """Yield (number, value) of each field: bytes, whole numbers, and 32-bit floats."""

    def read_varint(at):
        value = shift = 0
        while True:
            byte = content[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at

    at = 0
    while at < len(content):
        key, at = read_varint(at)
        if key & 7 == 5:
            value, at = struct.unpack("<f", content[at : at + 4])[0], at + 4
        else:
            value, at = read_varint(at)
            if key & 7 == 2:
                value, at = content[at : at + value], at + value
        yield key >> 3, value


def read_pieces(content):
    pieces = [dict(read_fields(value)) for number, value in read_fields(content) if number == 1]
    return [(piece[1].decode(), piece.get(2, 0.0), piece.get(3, NORMAL)) for piece in pieces]


def cut_by_scores(pieces, text):
    """Join the leftmost pair of the highest score until none is left; bytes for what is no piece."""
    scores = {piece: score for piece, score, _ in pieces}
    ids = {piece: index for index, (piece, _, _) in enumerate(pieces)}
    parts = list(text.replace(" ", "\u2581"))
    while True:
        known = [(-scores[a + b], index) for index, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not known:
            break
        _, index = min(known)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return [
        token
        for part in parts
        for token in ([ids[part]] if part in ids else [ids[f"<0x{b:02X}>"] for b in part.encode()])
    ]


def test_a_number_and_a_text_are_written_as_protocol_buffers_say():
    """Field 1 of 150 is 08 96 01, and field 2 of "testing" is 12 07 and the text (the format's own examples)."""
    from posttrain.chat.sentencepiece_file import _field

    assert _field(1, 150) == bytes.fromhex("089601")
    assert _field(2, b"testing") == bytes.fromhex("120774657374696e67")
    assert _field(3, -2.0) == bytes.fromhex("1d000000c0")


def test_the_seedling_has_the_file_and_it_is_that_of_its_tokenizer(folder, values):
    assert (folder / SENTENCEPIECE_FILE).read_bytes() == build_sentencepiece_model(values)


def test_pieces_stand_in_the_order_of_ids_with_their_kinds(values):
    pieces = read_pieces(build_sentencepiece_model(values))
    assert [piece for piece, _, _ in pieces] == sorted(values["model"]["vocab"], key=values["model"]["vocab"].get)
    kinds = {piece: kind for piece, _, kind in pieces}
    assert [kinds[piece] for piece in ("<unk>", "<s>", "</s>", "<pad>")] == [UNKNOWN, CONTROL, CONTROL, CONTROL]
    assert sum(kind == BYTE for kind in kinds.values()) == 256
    assert kinds["\u2581"] == kinds["\u2581the"] == kinds["7"] == NORMAL


def test_scores_fall_in_the_order_in_which_pieces_are_merged(values):
    scores = {piece: score for piece, score, _ in read_pieces(build_sentencepiece_model(values))}
    merged = [scores[left + right] for left, right in values["model"]["merges"]]
    assert merged == sorted(merged, reverse=True)
    assert merged[0] == -1


def test_cutting_by_scores_gives_the_ids_of_the_merges_on_texts_of_every_kind(values):
    pieces, tokenizer = read_pieces(build_sentencepiece_model(values)), Tokenizer.from_str(json.dumps(values))
    draw = random.Random(5)
    known = [piece.replace("\u2581", " ") for piece, _, kind in pieces if kind == NORMAL]
    texts = ["".join(draw.choices(known, k=25)) for _ in range(100)]
    texts += ["".join(draw.choices("aeiounstrhdl  BOX=-+\n\t\u00e9\u65e5", k=60)) for _ in range(100)]
    texts += ["eats", " a", "a  b   c", "\n\n x", "\U0001f600", "", "-" * 30 + " " * 20]
    for text in texts:
        assert cut_by_scores(pieces, text) == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_sentencepiece_itself_reads_the_file_and_gives_the_same_ids(folder, values):
    sentencepiece = pytest.importorskip("sentencepiece")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))
    tokenizer = Tokenizer.from_str(json.dumps(values))
    for text in ("The cat eats 12.", "  two  blanks\n\n\tand a tab ", "na\u00efve \u65e5\u672c \U0001f600", "<0x41>"):
        assert processor.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_blank_put_first_is_said_in_the_file(values):
    changed = copy.deepcopy(values)
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    changed["normalizer"] = {"type": "Sequence", "normalizers": [prepend, values["normalizer"]]}
    for tokenizer, expected in ((values, 0), (changed, 1)):
        normalizer = dict(read_fields(dict(read_fields(build_sentencepiece_model(tokenizer)))[3]))
        assert normalizer[3] == expected
        assert normalizer[5] == 1


@pytest.mark.real_data
def test_a_real_tokenizer_gets_the_pieces_of_its_own_sentencepiece_file(real_data: Path):
    """Scores differ in value and not in order; single characters, which nothing joins to, have theirs there too."""
    folder = real_data / "tiny-llama-stories260k"
    content = build_sentencepiece_model(json.loads((folder / "hf/tokenizer.json").read_text(encoding="utf-8")))
    own, original = read_pieces(content), read_pieces((folder / "original/tok512.model").read_bytes())
    assert [piece for piece, _, _ in own] == [piece for piece, _, _ in original]
    merged = [index for index, (_, score, _) in enumerate(own) if score < 0]
    assert len(merged) > 100
    by_own, by_original = (sorted(merged, key=lambda index: -pieces[index][1]) for pieces in (own, original))
    assert by_own == by_original


def find_second_pair(values):
    """Return the place of a merge whose piece the merge before it makes too."""
    made = [left + right for left, right in values["model"]["merges"]]
    return next(index for index in range(1, len(made)) if made[index] == made[index - 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["model"].update(byte_fallback=False),
        lambda values: values["model"].update(type="Unigram"),
        lambda values: values["model"].update(unk_token=None),
        lambda values: values.update(normalizer=None),
        lambda values: values.update(pre_tokenizer={"type": "ByteLevel"}),
        lambda values: values["model"]["merges"].pop(),
        lambda values: values["model"]["merges"].append(["t", "h"]),
        lambda values: values["model"]["merges"].insert(0, values["model"]["merges"].pop(find_second_pair(values))),
        lambda values: values["model"]["vocab"].pop("<0x41>"),
        lambda values: values["added_tokens"].append({"id": 900, "content": "<far>", "special": True}),
    ],
    ids=["no-bytes", "unigram", "no-unknown", "plain", "split", "missing", "foreign", "apart", "no-A", "gap"],
)
def test_a_tokenizer_that_scores_cannot_say_has_no_file(values, change):
    changed = copy.deepcopy(values)
    change(changed)
    assert build_sentencepiece_model(changed) is None


@pytest.mark.real_data
def test_other_families_have_no_file(real_data: Path):
    for name in ("gpt2_tokenizer.json", "gpt_neox_20b_tokenizer.json"):
        content = json.loads((real_data / "tokenizers" / name).read_text(encoding="utf-8"))
        assert build_sentencepiece_model(content) is None
