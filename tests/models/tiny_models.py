"""Tiny random models and a byte tokenizer, made in memory: what the tests of this room are run on."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.models.adapters import prepare_policy
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.making import make_model
from posttrain.models.manifest import ArtifactFacts

# The names that the tokenizer classes of these architectures expect.
SPECIAL_TOKENS = ["<s>", "<|endoftext|>", "<|turn|>"]
EOS = SPECIAL_TOKENS[1]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SHAPE, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", **_SHAPE, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **_SHAPE, "tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", **_SHAPE, "query_pre_attn_scalar": 8, "sliding_window": 64},
}

FACTS = ArtifactFacts(
    TEMPLATE,
    "0" * 32,
    (1, 2),
    chat={"date": "2024-07-26", "template_arguments": {}},
    key="k",
    parents=("p",),
    config={"learning_rate": 1e-5},
    ledger={"rows_in": 3},
)
SETTINGS = LoraSettings(rank=4)
PROMPT = torch.arange(24)[None] * 7 % 250


def make_tokenizer(*, num_extra: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes and the special tokens, whose pad is its eos."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL_TOKENS, *alphabet, *(f"<|extra{i}|>" for i in range(num_extra))]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=EOS, pad_token=EOS, chat_template=TEMPLATE
    )


def make_tiny(name: str, seed: int = 0) -> Any:
    """A random model of one architecture."""
    return make_model(ARCHITECTURES[name], make_tokenizer(), seed)


def save_tiny(folder: Path, name: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A model folder as transformers itself writes it, with its tokenizer."""
    make_tiny(name, seed).to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    """The logits of a fixed prompt, in evaluation mode."""
    return model.eval()(input_ids=PROMPT.to(model.device)).logits.float()


@torch.no_grad()
def disturb(parameters: Iterator[tuple[str, torch.Tensor]] | Any, seed: int = 5) -> None:
    """Move trainable parameters, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in parameters:
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of model.safetensors (dots written as two underscores); None removes one."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def edit_header(path: Path, change: Any) -> None:
    """Rewrite a safetensors header without touching the data behind it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def train_lora(folder: Path) -> LoadedPolicy:
    """A policy with an adapter on it that has been moved, as by a first stage."""
    policy = load_policy(folder, dtype="float32")
    policy = prepare_policy(policy, SETTINGS, existing="continue", name="sft", seed=1)
    disturb(policy.model.named_parameters(), 1)
    return policy
