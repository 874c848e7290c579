"""Writing a policy as an artifact: a folder that plain transformers and PEFT load, with a manifest.

Full weights are a Hugging Face folder. A policy with adapters keeps its base apart and untouched:

    artifact/  tokenizer.json tokenizer_config.json chat_template.jinja generation_config.json manifest.json
               tokenizer.model of a byte-fallback tokenizer (`chat/sentencepiece_file.py`)
               base/            config.json, generation_config.json, *.safetensors (hard links of the base's)
               adapters/00-sft/ adapter_config.json, adapter_model.safetensors (PEFT)

The same policy gives the same bytes: no times, no paths, no order that changes from run to run.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.sentencepiece_file import SENTENCEPIECE_FILE, build_sentencepiece_model
from posttrain.core.durable import write_bytes, write_folder, write_json, write_text
from posttrain.core.errors import ModelError, StorageError
from posttrain.models.adapter_files import save_adapter
from posttrain.models.adapters import list_adapters
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import ADAPTERS_FOLDER, BASE_FOLDER, DTYPES, GENERATION_FILE
from posttrain.models.manifest import ArtifactFacts, Manifest, write_manifest
from posttrain.models.tokenizer_files import TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from posttrain.models.validation import CONFIG_FILE, quiet_transformers
from posttrain.models.weights import INDEX_FILE, SINGLE_FILE, hash_weights, read_weight_entries, save_tensors

_SHARD_SIZE = "5GB"
# What a tokenizer remembers of how it was loaded: it says nothing of what it does.
_TRACES = ("is_local", "local_files_only", "name_or_path", "special_tokens_map_file", "tokenizer_file", "chat_template")


def save_policy(
    policy: LoadedPolicy,
    folder: Path,
    facts: ArtifactFacts,
    *,
    weights_dtype: str = "bfloat16",
    state: Mapping[str, torch.Tensor] | None = None,
) -> Manifest:
    """Write a policy and return its manifest; the folder appears whole or not at all.

    Args:
        policy: Its model has full weights, or adapters that are all saved in order.
        folder: The artifact's folder; it must not exist.
        facts: Chat format and lineage.
        weights_dtype: "bfloat16" or "float32": of full weights, of a base that was merged, of adapters.
            A base that lies on disk is kept as it is.
        state: Tensors to save instead of the model's own (the trainer's float32 masters), by parameter
            name. Full weights: every parameter (a tied one under either name or both). Adapters: the
            parameters of the last adapter.

    Raises:
        ModelError: `state` lacks a tensor or has one too many, or a value is not finite.
        StorageError: The folder exists, or cannot be written.
    """
    if folder.exists():
        raise StorageError(
            "the folder exists already",
            expected="a free place for an artifact, which is never written twice",
            cure="choose another folder, or remove this one if it is not needed",
            place=str(folder),
        )
    manifests: list[Manifest] = []

    def fill(target: Path) -> None:
        manifests.append(_fill(policy, target, facts, DTYPES[weights_dtype], state))

    write_folder(folder, fill)
    return manifests[0]


def _fill(
    policy: LoadedPolicy,
    target: Path,
    facts: ArtifactFacts,
    dtype: torch.dtype,
    state: Mapping[str, torch.Tensor] | None,
) -> Manifest:
    names = list_adapters(policy.model)
    save_tokenizer(policy.tokenizer, target, facts.chat_template)
    causal_lm = policy.model.get_base_model() if names else policy.model
    save_generation_config(causal_lm, target, facts.stop_ids)
    if not names:
        save_weights(causal_lm, target, dtype, state)
        base_hash = hash_weights(target)
    else:
        base = target / BASE_FOLDER
        base.mkdir()
        if policy.base_folder is not None:
            _link_base(policy.base_folder, base)
            base_hash = policy.base_hash
        else:
            save_weights(causal_lm, base, dtype, None)
            base_hash = hash_weights(base)
        for name in names:
            folder = target / ADAPTERS_FOLDER / name
            folder.mkdir(parents=True)
            save_adapter(policy.model, name, folder, dtype, state if name == names[-1] else None)
    return write_manifest(target, facts, base_hash, names)


def save_weights(model: Any, folder: Path, dtype: torch.dtype, state: Mapping[str, torch.Tensor] | None) -> None:
    """Write config.json and the safetensors of a causal LM, tied tensors once, sharded above 5 GB.

    Args:
        model: A transformers causal LM; adapters inside it are left out.
        folder: An existing folder without weights.
        dtype: Of the stored tensors.
        state: Tensors instead of the model's own (see `save_policy`).

    Raises:
        ModelError: `state` does not fit the model, or a value is not finite.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from transformers.core_model_loading import revert_weight_conversion

    tied: dict[str, str] = dict(model.all_tied_weights_keys)
    own = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name and name not in tied
    }
    values = own if state is None else _fit_state(dict(state), own, tied, model)
    with quiet_transformers():
        values = dict(sorted(revert_weight_conversion(model, values).items()))
    shapes = {name: torch.empty(tensor.shape, dtype=dtype, device="meta") for name, tensor in values.items()}
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=_SHARD_SIZE
    )
    for file_name, tensor_names in plan.filename_to_tensors.items():
        save_tensors({name: values[name] for name in tensor_names}, folder / file_name, dtype)
    if plan.is_sharded:
        weight_map = dict(sorted(plan.tensor_to_filename.items()))
        write_json(folder / INDEX_FILE, {"metadata": plan.metadata, "weight_map": weight_map})
    config = json.loads(copy.deepcopy(model.config).to_json_string())
    config |= {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
    config.pop("_name_or_path", None)
    write_json(folder / CONFIG_FILE, dict(sorted(config.items())))


def _fit_state(
    state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor], tied: Mapping[str, str], model: Any
) -> dict[str, torch.Tensor]:
    """Return the tensors to save under the model's names: ties resolved, buffers from the model."""
    for target, source in tied.items():
        if target not in state:
            continue
        value = state.pop(target)
        if not torch.equal(state.setdefault(source, value), value):
            raise _misfit(target, f"it is tied to '{source}' and has other values")
    parameters = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters()}
    state = {name: tensor for name, tensor in own.items() if name not in parameters} | state
    for name in sorted(set(state) ^ set(own)):
        raise _misfit(name, "the model has no such tensor" if name in state else "it is missing from the state")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise _misfit(name, f"shape {list(tensor.shape)}, the model's is {list(own[name].shape)}")
    return state


def _misfit(name: str, found: str) -> ModelError:
    return ModelError(
        found,
        expected="the model's parameters, each under its name and in its shape",
        cure="pass the trained values by the names of policy.model.named_parameters()",
        place=name,
    )


def save_tokenizer(tokenizer: Any, folder: Path, chat_template: str | None) -> None:
    """Write a tokenizer's files and the chat template that goes with it, free of traces of this process.

    Truncation and padding that somebody switched on are left out: they would act on every later text.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.chat_template = None
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    path = folder / TOKENIZER_CONFIG_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {key: value for key, value in sorted(settings.items()) if key not in _TRACES})
    # Without it, llama.cpp's converter gives a byte-fallback BPE other ids than it was trained with.
    scored = build_sentencepiece_model(json.loads(tokenizer.backend_tokenizer.to_str()))
    if scored is not None:
        write_bytes(folder / SENTENCEPIECE_FILE, scored)
    if chat_template is not None:
        write_text(folder / TEMPLATE_FILE, chat_template)


def save_generation_config(model: Any, folder: Path, stop_ids: Sequence[int]) -> None:
    """Write the model's generation configuration with the stop ids as its end-of-sequence ids."""
    values = json.loads(model.generation_config.to_json_string())
    if stop_ids:
        values["eos_token_id"] = list(stop_ids)
    write_json(folder / GENERATION_FILE, {key: v for key, v in sorted(values.items()) if not key.startswith("_")})


def _link_base(source: Path, target: Path) -> None:
    """Put the base's files into an artifact: hard links where the disk allows, else copies."""
    names = {entry.path.name for entry in read_weight_entries(source).values()}
    settings = (CONFIG_FILE, GENERATION_FILE) if SINGLE_FILE in names else (CONFIG_FILE, GENERATION_FILE, INDEX_FILE)
    names |= {name for name in settings if (source / name).exists()}
    for name in sorted(names):
        original = (source / name).resolve()
        try:
            os.link(original, target / name)
        except OSError:
            # Another disk, a file system without links, or too many links: a copy serves as well.
            shutil.copyfile(original, target / name)
