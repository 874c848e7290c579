"""The seedling: a small Llama made on the spot from a seed, knowing nothing yet.

It is a Hugging Face folder like any other: byte-fallback BPE tokenizer in the form that llama.cpp reads
(no prefix space, single digits, the pieces' scores in `tokenizer.model`), random weights as safetensors, tied
embeddings, no chat template. It lets the whole pipeline run without a download. Its bytes depend on the seed alone.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.chat.sentencepiece_file import SENTENCEPIECE_FILE, build_sentencepiece_model
from posttrain.core.durable import write_bytes, write_folder, write_json
from posttrain.core.seeds import build_torch_generator
from posttrain.lab.source import lab_rows

if TYPE_CHECKING:
    import torch

UNKNOWN, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
VOCABULARY_SIZE = 560
"""Control tokens, bytes, characters and every piece that the lab's text gives: nothing is left to merge."""

CONTEXT_TOKENS = 512
_SPACE = "\u2581"
_NUM_TOKENIZER_ROWS = 4_000
_PRINTABLE = [chr(code) for code in range(33, 127)] + ["\n", _SPACE]
# A word is the same token wherever it stands, since spaces go with punctuation and not with words: a
# model that copies has one token to learn for each word, not one for every place in a line.
_PIECES = r"[A-Za-z]+|[0-9]|\n|[^A-Za-z0-9\n]+"

_EMBEDDING_DEVIATION, _FEED_FORWARD_SHARE, _COPY_SHARE = 0.2, 0.1, 0.3
_SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
}


def build_seedling(folder: Path, seed: int) -> None:
    """Write a freshly initialised small model and its tokenizer as a Hugging Face folder.

    Args:
        folder: The folder to make; if it exists already it is left as it is.
        seed: Decides the weights. The tokenizer is the same for every seed.

    Raises:
        StorageError: The folder cannot be written.
    """

    def fill(target: Path) -> None:
        _save_tokenizer(target)
        _save_model(target, seed)

    write_folder(folder, fill)


def _tokenizer_texts() -> Iterator[str]:
    for row in itertools.islice(lab_rows("documents", "train"), _NUM_TOKENIZER_ROWS // 4):
        yield row["text"]
    for row in itertools.islice(lab_rows("conversations", "train"), _NUM_TOKENIZER_ROWS):
        # As chat templates write it: the role, and the content at the start of a line.
        for message in row["messages"]:
            yield f"{message['role'].capitalize()}:\n{message['content']}"


def _learn_pieces(texts: Iterable[str], size: int) -> list[str]:
    """Return the learned pieces, most useful first: characters, then merged ones in order of merging."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", _SPACE)
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=_PRINTABLE, show_progress=False, min_frequency=2)
    learner.train_from_iterator(texts, trainer)
    vocabulary = learner.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _list_merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins to a piece, by the rank of what they make.

    These are the merges of SentencePiece's rule, in which a piece's rank is its score, so that tools
    which know the pieces and their order alone cut a text into the same tokens.
    """
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    first = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), PAD]
    pieces = _learn_pieces(_tokenizer_texts(), VOCABULARY_SIZE - len(first))
    vocabulary = {token: index for index, token in enumerate([*first, *pieces])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=_list_merges(pieces), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (UNKNOWN, BOS, EOS, PAD)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    scored = build_sentencepiece_model(json.loads(tokenizer.to_str()))
    assert scored is not None  # by how the merges are listed
    write_bytes(folder / SENTENCEPIECE_FILE, scored)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT_TOKENS,
            "unk_token": UNKNOWN,
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
        },
    )


def _save_model(folder: Path, seed: int) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    names = {UNKNOWN: 0, BOS: 1, EOS: 2, PAD: 259}
    config = LlamaConfig(
        **_SHAPE,
        vocab_size=VOCABULARY_SIZE,
        max_position_embeddings=CONTEXT_TOKENS,
        # Lists are short: a low base tells near positions apart.
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=names[BOS],
        eos_token_id=names[EOS],
        pad_token_id=names[PAD],
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )
    with torch.device("meta"):
        shapes = LlamaForCausalLM(config).state_dict()
    del shapes["lm_head.weight"]
    weights = _draw_weights({name: tensor.shape for name, tensor in shapes.items()}, seed)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config.save_pretrained(folder)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": names[BOS], "eos_token_id": names[EOS], "pad_token_id": names[PAD]},
    )


def _draw_weights(shapes: dict[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """Return initial weights of which little training makes a model that copies.

    Norms are ones and matrices normal with variance 1 / fan-in, but the embedding is wide enough to stay
    visible beside what the layers add, the feed-forward parts start almost silent, and each attention
    output is a share of the transposed value projection: value and output together are then near a
    multiple of the identity, so that attending to a token raises its own probability. After 400,000
    tokens of conversations, held-out exact match was 43 % without the last and 66 % with it.

    Source: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers" (arXiv 2305.09828),
    which gives value times output the other sign, for images, and shapes queries and keys too.
    """
    import torch

    weights = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape)
            continue
        deviation = _EMBEDDING_DEVIATION if "embed_tokens" in name else 1 / math.sqrt(shape[1])
        generator = build_torch_generator(seed, "seedling", name)
        weights[name] = torch.randn(shape, generator=generator) * deviation
        if "down_proj" in name:
            weights[name] *= _FEED_FORWARD_SHARE
    for name in shapes:
        if "o_proj" in name:
            weights[name] = (_COPY_SHARE * weights[name.replace("o_proj", "v_proj")].T).contiguous()
    return weights
