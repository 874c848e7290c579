"""What an engine in another process needs of a policy: plain weights in a folder, and log-probs to compare.

The policy may be live (a model that is being trained, adapters and all; it is left as it is) or a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.core.errors import ModelError
from posttrain.core.sampling import PolicyVersion
from posttrain.models.adapters import compute_merged_weight, iterate_layers, list_adapters, merge_adapters
from posttrain.models.artifacts import save_weights
from posttrain.models.loading import DTYPES, load_model, load_policy
from posttrain.models.shadow import compute_plain_logprobs
from posttrain.models.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE


def write_plain_policy(policy: PolicyVersion, folder: Path, *, dtype: str) -> None:
    """Write a policy as config.json and safetensors, adapters merged, into an empty folder.

    The tokenizer's files come along where the policy has a folder that holds them.

    Args:
        policy: A live model goes before a folder.
        folder: Exists and is empty.
        dtype: "float32", "bfloat16" or "float16", of the stored weights.

    Raises:
        ModelError: The policy has neither a model nor a folder, a value is not finite, or the folder is damaged.
    """
    if policy.model is not None:
        has_adapters = bool(list_adapters(policy.model))
        model = policy.model.get_base_model() if has_adapters else policy.model
        state = compute_merged_state(policy.model) if has_adapters else None
    else:
        loaded = load_policy(_folder_of(policy), dtype="float32")
        model, state = merge_adapters(loaded.model) if loaded.adapters else loaded.model, None
    save_weights(model, folder, DTYPES[dtype], state)
    if policy.folder is not None:
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            if (policy.folder / name).is_file():
                shutil.copyfile(policy.folder / name, folder / name)


@torch.no_grad()
def compute_merged_state(model: Any) -> dict[str, torch.Tensor]:
    """Return the parameters of a PEFT model's plain model with every adapter added in; the model stays as it is.

    Tensors without an adapter are the model's own, not copies.
    """
    base = model.get_base_model()
    merged = {f"{place}.weight": compute_merged_weight(place, layer) for place, layer in iterate_layers(base)}
    own = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in base.named_parameters()
        if ".lora_" not in name
    }
    return own | merged


def compute_published_logprobs(policy: PolicyVersion, ids: Sequence[int], *, dtype: str = "float32") -> list[float]:
    """Return the log-probs of every token of a sequence but the first, in nats at temperature 1.

    Args:
        policy: A live model goes before a folder; it computes in its own precision.
        ids: At least two tokens.
        dtype: What a folder's weights are loaded and computed in.

    Raises:
        ModelError: The policy has neither a model nor a folder.
    """
    model = policy.model
    if model is None:
        folder = _folder_of(policy)
        has_tokenizer = (folder / TOKENIZER_FILE).is_file()
        model = load_policy(folder, dtype=dtype).model if has_tokenizer else load_model(folder, dtype=dtype)
    logprobs = compute_plain_logprobs(model, torch.tensor(list(ids), device=model.device))
    return [float(value) for value in logprobs]


def _folder_of(policy: PolicyVersion) -> Path:
    if policy.folder is None:
        raise ModelError(
            "the policy has neither a live model nor a folder",
            expected="one of the two",
            cure="publish PolicyVersion(hash, model=...) or PolicyVersion(hash, folder=...)",
            place=policy.hash,
        )
    return policy.folder
