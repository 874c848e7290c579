"""The seedling: the same bytes from a seed, a tokenizer that loses nothing, a model that can be trained."""

import json
import math
import random
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.hashing import hash_folder, sha256_file
from posttrain.lab.lexicon import WORDS
from posttrain.lab.seedling import build_seedling
from posttrain.lab.source import lab_rows
from posttrain.lab.tokenizer import VOCABULARY_SIZE


@pytest.fixture(scope="module")
def seedling(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "seedling"
    build_seedling(folder, 17)
    return folder


@pytest.fixture(scope="module")
def tokenizer(seedling):
    return AutoTokenizer.from_pretrained(seedling)


@pytest.fixture(scope="module")
def model(seedling):
    return AutoModelForCausalLM.from_pretrained(seedling)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.invariants
def test_another_process_makes_the_same_bytes_from_the_same_seed(seedling, tmp_path):
    program = "import sys, pathlib, posttrain.lab.seedling as lab; lab.build_seedling(pathlib.Path(sys.argv[1]), 17)"
    environment = {"PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "2", "RAYON_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "s"], env=environment, check=True, capture_output=True)
    assert hash_folder(tmp_path / "s") == hash_folder(seedling)


def test_another_seed_makes_other_weights_and_the_same_tokenizer(seedling, tmp_path):
    build_seedling(tmp_path / "other", 18)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        assert sha256_file(tmp_path / "other" / name) == sha256_file(seedling / name)
    one, other = (load_file(folder / "model.safetensors") for folder in (seedling, tmp_path / "other"))
    assert all(not torch.equal(one[name], other[name]) for name in one if one[name].ndim == 2)


def test_no_global_generator_is_read_or_moved(seedling, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    build_seedling(tmp_path / "again", 17)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert hash_folder(tmp_path / "again") == hash_folder(seedling)


def test_a_finished_seedling_is_left_as_it_is(seedling, tmp_path):
    build_seedling(tmp_path / "s", 17)
    (tmp_path / "s" / "note").write_text("mine")
    build_seedling(tmp_path / "s", 18)
    assert (tmp_path / "s" / "note").read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "What is 23 + 45?",
        " two  blanks   three\n\n\ttab and end ",
        "na\u00efve \u65e5\u672c\u8a9e \U0001f600 \u0000 \u2028",
        "RED, fox </ s> <0x41> <",
        "",
        "\n",
    ],
)
def test_texts_come_back_from_their_ids(tokenizer, text):
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
    assert tokenizer.unk_token_id not in ids


def test_all_training_text_comes_back_from_its_ids(tokenizer):
    for row in lab_rows("documents", "development"):
        ids = encode(tokenizer, row["text"])
        assert tokenizer.decode(ids) == row["text"]
        assert max(ids) < VOCABULARY_SIZE


def test_digits_are_single_tokens(tokenizer):
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "1234567890")) == list("1234567890")
    vocabulary = tokenizer.get_vocab()
    with_digits = [t for t in vocabulary if any(c.isdigit() for c in t) and not t.startswith("<0x")]
    assert sorted(with_digits) == sorted("0123456789")


def test_every_word_of_a_list_is_one_token_after_a_space(tokenizer):
    for word in WORDS:
        assert len(encode(tokenizer, f" {word}")) == 1, word
        (token,) = encode(tokenizer, f" {word}")
        for text in (f"a {word}", f"fox, {word}.", f"Answer: {word}"):
            assert token in encode(tokenizer, text), text


def test_every_byte_has_a_token_of_its_own(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[f"<0x{byte:02X}>"] for byte in range(256)] == list(range(3, 259))


def test_a_token_holds_a_space_at_its_start_alone_or_nothing_but_spaces(tokenizer):
    pieces = [token for token, index in tokenizer.get_vocab().items() if index >= 260]
    shapes = r"\u2581?[A-Za-z]+|[0-9]|\n|\u2581?[^A-Za-z0-9\n\u2581]+|\u2581+"
    assert all(re.fullmatch(shapes, piece) or piece.strip("\u2581") == "return" for piece in pieces)


def test_tokenizer_model_and_generation_agree_on_special_tokens(tokenizer, model, seedling):
    assert len(tokenizer) == VOCABULARY_SIZE == model.config.vocab_size
    for name in ("bos", "eos", "pad"):
        assert getattr(tokenizer, f"{name}_token_id") == getattr(model.config, f"{name}_token_id")
        generation = json.loads((seedling / "generation_config.json").read_text())
        assert generation[f"{name}_token_id"] == getattr(tokenizer, f"{name}_token_id")
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer.chat_template is None
    assert tokenizer("fox").input_ids[0] == tokenizer.bos_token_id


def test_merges_are_those_of_a_tool_that_knows_only_pieces_and_their_ranks(tokenizer):
    """Joining, again and again, the leftmost pair whose union has the lowest id gives the same tokens."""
    vocabulary = tokenizer.get_vocab()
    for row in list(lab_rows("questions", "perturbed"))[:60]:
        text = row["prompt"][0]["content"]
        pieces = list(text.replace(" ", "\u2581"))
        while True:
            known = [(vocabulary[a + b], i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in vocabulary]
            if not known:
                break
            _, index = min(known)
            pieces[index : index + 2] = [pieces[index] + pieces[index + 1]]
        assert tokenizer.convert_ids_to_tokens(encode(tokenizer, text)) == pieces


def test_the_model_starts_without_knowing_anything(model, tokenizer):
    """Chance is ln(1536) = 7.34 nats a token."""
    texts = [row["text"] for row in lab_rows("documents", "development")][:10]
    losses = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([encode(tokenizer, text)])
            losses.append(float(model(ids, labels=ids).loss))
    assert abs(np.mean(losses) - math.log(VOCABULARY_SIZE)) < 0.5


def test_the_model_starts_by_looking_back_at_what_followed_the_same_word(seedling, tokenizer):
    """In `a b c ... a b c ...`, words of the second half attend to what came after them in the first: by chance a
    twelfth of the attention would go there, and a word would be no likelier than any other."""
    model = AutoModelForCausalLM.from_pretrained(seedling, attn_implementation="eager")
    generator = random.Random(3)
    texts = [" " + " ".join(generator.sample(WORDS, 8)) for _ in range(10)]
    ids = torch.tensor([encode(tokenizer, text + text) for text in texts])
    assert ids.shape == (10, 16)
    with torch.no_grad():
        found = model(ids, output_attentions=True)
    before, same = (attention[:, 0] for attention in found.attentions[:2])
    assert all(before[:, place, place - 1].min() > 0.9 for place in range(2, 16))
    followed = torch.stack([same[:, 8 + place, place + 1] for place in range(7)])
    assert followed.mean() > 0.3
    logprobs = found.logits.log_softmax(-1)
    seen_before = logprobs[:, 8:15].gather(-1, ids[:, 1:8, None]).mean()
    assert seen_before > logprobs[:, :7].gather(-1, ids[:, 1:8, None]).mean() + 0.3


def test_head_size_and_tied_embeddings_are_what_every_tool_reads(model):
    assert model.config.head_dim == 32
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert 2e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6


def test_a_few_steps_teach_it_two_answers(seedling, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(seedling)
    ids = torch.tensor([encode(tokenizer, f"Uppercase: {word}\n{word.upper()}") for word in ("fox", "cat")])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model(ids).logits[:, -2].argmax(-1)
    assert drawn.tolist() == ids[:, -1].tolist()
