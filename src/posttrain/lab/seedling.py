"""The seedling: the base model's architecture with weights from a seed, knowing nothing yet.

It is a Hugging Face folder like any other: the lab's tokenizer, random weights as safetensors, tied
embeddings, no chat template. Pretraining starts from it. Its bytes depend on the seed alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.durable import write_folder, write_json
from posttrain.core.seeds import build_torch_generator
from posttrain.lab.induction import add_induction
from posttrain.lab.tokenizer import BOS, CONTEXT_TOKENS, EOS, PAD, TOKEN_IDS, VOCABULARY_SIZE, save_tokenizer

if TYPE_CHECKING:
    import torch

_EMBEDDING_DEVIATION, _FEED_FORWARD_SHARE, _COPY_SHARE = 0.2, 0.1, 0.3
_FINAL_NORM = 0.2
"""Tied to wide embeddings, a final norm of 1 would make the fresh model sure of wrong things."""
_SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 32,
}


ROPE_THETA = 1000.0
"""Texts are short: a low base tells near positions apart."""


def build_seedling(folder: Path, seed: int) -> None:
    """Write a freshly initialised small model and its tokenizer as a Hugging Face folder.

    Args:
        folder: The folder to make; if it exists already it is left as it is.
        seed: Decides the weights. The tokenizer is the same for every seed.

    Raises:
        StorageError: The folder cannot be written.
    """

    def fill(target: Path) -> None:
        save_tokenizer(target)
        _save_model(target, seed)

    write_folder(folder, fill)


def _save_model(folder: Path, seed: int) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **_SHAPE,
        vocab_size=VOCABULARY_SIZE,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=TOKEN_IDS[BOS],
        eos_token_id=TOKEN_IDS[EOS],
        pad_token_id=TOKEN_IDS[PAD],
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
        {"bos_token_id": TOKEN_IDS[BOS], "eos_token_id": TOKEN_IDS[EOS], "pad_token_id": TOKEN_IDS[PAD]},
    )


def _draw_weights(shapes: dict[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """Return initial weights of which little training makes a model that copies.

    Norms are ones and matrices normal with variance 1 / fan-in, but the embedding is wide enough to stay
    visible beside what the layers add, the feed-forward parts start almost silent, and each attention
    output is a share of the transposed value projection: value and output together are then near a
    multiple of the identity, so that attending to a token raises its own probability
    (`lab/induction.py` says which tokens are attended to at first).

    Source: Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers" (arXiv 2305.09828),
    which gives value times output the other sign, for images, and shapes queries and keys too.
    """
    import torch

    weights = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            weights[name] = torch.full(shape, _FINAL_NORM if name == "model.norm.weight" else 1.0)
            continue
        deviation = _EMBEDDING_DEVIATION if "embed_tokens" in name else 1 / math.sqrt(shape[1])
        generator = build_torch_generator(seed, "seedling", name)
        weights[name] = torch.randn(shape, generator=generator) * deviation
        if "down_proj" in name:
            weights[name] *= _FEED_FORWARD_SHARE
    for name in shapes:
        if "o_proj" in name:
            weights[name] = (_COPY_SHARE * weights[name.replace("o_proj", "v_proj")].T).contiguous()
    add_induction(
        weights, head_size=_SHAPE["head_dim"], rope_theta=ROPE_THETA, deviation=_EMBEDDING_DEVIATION, seed=seed
    )
    return weights
