"""The text tokenizer adds nothing, hides nothing, and is moved by nobody else's settings."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.core.errors import ModelError
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer

TEXTS = ["Hello  there\n", " two words", "", "naïve café 🦩 שלום", "<s>Hi</s>", "\n\n x"]


def build_bytes(*, trim_offsets: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer whose post-processor trims offsets, as GPT-2's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    backend.add_special_tokens([AddedToken("<s>", normalized=False), AddedToken("</s>", normalized=False)])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def build_blanks() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose decoder drops the blank before the first word, as SentencePiece's does."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "<s>"], show_progress=False)
    backend.train_from_iterator(["a b hello there two words"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


def test_ids_are_those_of_transformers_and_offsets_keep_their_blanks() -> None:
    tokenizer = build_bytes()
    texts = HuggingFaceTextTokenizer(tokenizer)
    for text in TEXTS:
        ids, offsets = texts.encode_with_offsets(text)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert texts.decode(ids) == text
        assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
    _, offsets = texts.encode_with_offsets(" two words")
    assert offsets[0][0] == 0 and offsets[-1][1] == 10
    assert texts.encode_batch_with_offsets(TEXTS) == [texts.encode_with_offsets(text) for text in TEXTS]


def test_truncation_and_padding_set_elsewhere_do_not_reach_it() -> None:
    tokenizer = build_bytes()
    tokenizer.pad_token = "</s>"
    before = HuggingFaceTextTokenizer(tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=2, padding="max_length")
    after = HuggingFaceTextTokenizer(tokenizer)
    for texts in (before, after):
        assert texts.decode(texts.encode_with_offsets(TEXTS[0])[0]) == TEXTS[0]
    backend = tokenizer.backend_tokenizer
    assert (backend.truncation or {}).get("max_length") == 2  # and its own state is left as it is


def test_control_text_can_be_encoded_as_text() -> None:
    tokenizer = build_bytes()
    texts = HuggingFaceTextTokenizer(tokenizer)
    assert texts.special_tokens == {"<s>": tokenizer.bos_token_id, "</s>": tokenizer.eos_token_id}
    assert set(texts.added_tokens) == {"<s>", "</s>", "<think>"}
    ids, _ = texts.encode_with_offsets("<s>Hi</s>", specials_as_text=True)
    assert not set(ids) & set(texts.special_tokens.values())
    assert texts.decode(ids) == "<s>Hi</s>"
    assert texts.encode_with_offsets("<s>Hi</s>")[0][0] == tokenizer.bos_token_id
    assert tokenizer("<s>", add_special_tokens=False)["input_ids"] == [tokenizer.bos_token_id]


def test_pieces_decode_to_what_they_are_inside_the_whole() -> None:
    texts = HuggingFaceTextTokenizer(build_blanks())
    ids, _ = texts.encode_with_offsets("hello there two words")
    for cut in range(len(ids) + 1):
        assert texts.decode(ids[:cut]) + texts.decode(ids[cut:]) == texts.decode(ids)
    (word,) = [i for i in range(len(ids)) if texts.decode(ids[i:]) == " two words"][-1:]
    assert word > 0
    assert texts.unknown_id == 0
    assert texts.template_tokens == {"bos_token": "<s>", "unk_token": "<unk>"}


def test_a_tokenizer_without_a_backend_is_refused() -> None:
    with pytest.raises(ModelError, match="not a fast tokenizer"):
        HuggingFaceTextTokenizer(object())
