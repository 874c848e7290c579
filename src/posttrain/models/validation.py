"""Model folders of unknown origin are checked before anything is allocated or loaded.

What transformers would do with a bad folder: follow a shard index out of it, fill a missing head with
random numbers, unpickle, run the code that `auto_map` names, read the base that an adapter's
configuration names. Here each is a `ModelError` that names the file or tensor and the cure.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import ModelError
from posttrain.models.architectures import find_causal_model_class, find_configuration_class
from posttrain.models.tokenizer_files import check_tokenizer_files
from posttrain.models.weights import TensorEntry, check_finite, hash_entry, read_json_object, read_weight_entries

CONFIG_FILE = "config.json"
REWARD_FACTS_FILE = "reward_model.json"
_MAX_FOLDER_ENTRIES = 10_000
_MAX_CONFIG_BYTES = 4 << 20

# The largest values that a checkpoint may claim; several times beyond the largest published ones.
_LARGEST = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 17,
    "n_embd": 1 << 17,
    "intermediate_size": 1 << 20,
    "moe_intermediate_size": 1 << 20,
    "num_hidden_layers": 1 << 10,
    "n_layer": 1 << 10,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "n_head": 1 << 12,
    "head_dim": 1 << 14,
    "num_experts": 1 << 12,
    "num_local_experts": 1 << 12,
    "n_routed_experts": 1 << 12,
    "max_position_embeddings": 1 << 30,
}
_LAYER_KEYS = ("num_hidden_layers", "n_layer")
_RUNS_CODE = "the configuration names code or files to load beside the weights, and none is ever loaded"
_REFUSED_KEYS = {
    "auto_map": _RUNS_CODE,
    "custom_pipelines": _RUNS_CODE,
    "transformers_weights": _RUNS_CODE,
    "fusion_config": _RUNS_CODE,
    "trust_remote_code": _RUNS_CODE,
    "quantization_config": "quantised weights can be neither trained nor merged into",
}
# Rotary tables that older checkpoints stored; every architecture computes them now.
_COMPUTED_TENSORS = re.compile(r"rotary_emb\.inv_freq$")


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A model folder that passed: its parsed configuration and where its tensors lie."""

    folder: Path
    config: Any
    model_class: Any
    entries: dict[str, TensorEntry]


def check_model_folder(
    folder: Path, *, with_tokenizer: bool = True, find_class: Callable[[Any], Any | None] = find_causal_model_class
) -> CheckedModel:
    """Check everything about a model folder that can be checked without loading it.

    Args:
        folder: A folder in Hugging Face format, or a snapshot inside a Hugging Face cache.
        with_tokenizer: Also check the tokenizer's files and that its ids fit the embedding.
        find_class: Gives the model class of a configuration (`models.architectures`), None where there is none.

    Raises:
        ModelError: The first thing that is wrong, with its place and cure.
    """
    check_links(folder)
    raw = read_config(folder)
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            "an adapter and a model in one folder",
            expected="a model, or an adapter in a folder of its own",
            cure="move adapter_config.json and adapter_model.safetensors to their own folder",
            place=str(folder),
        )
    entries = read_weight_entries(folder)
    _check_sizes(raw, len(entries), folder / CONFIG_FILE)
    config, model_class, model = _build_on_meta(raw, folder / CONFIG_FILE, find_class)
    kept = _check_tensors(model, entries, folder)
    _check_dtypes(kept, raw)
    if with_tokenizer:
        check_tokenizer_files(folder, num_embeddings=model.get_input_embeddings().weight.shape[0])
    check_finite(kept)
    return CheckedModel(folder, config, model_class, kept)


def check_links(folder: Path) -> None:
    """Refuse a folder that is missing or empty, and links that leave it.

    A Hugging Face cache keeps `snapshots/<revision>/<file>` as links to `blobs/<hash>` of the same
    repository: those stay inside that repository's folder and are accepted.

    Raises:
        ModelError: Names the link and where it leads.
    """
    if not folder.is_dir():
        raise ModelError(
            "no such folder", expected="a model folder", cure="check the path of the model", place=str(folder)
        )
    root = folder.resolve()
    repository = root.parent.parent
    if root.parent.name == "snapshots" and repository.name.startswith("models--") and (repository / "blobs").is_dir():
        root = repository
    num_entries = 0
    for parent, folders, files in os.walk(folder):
        num_entries += len(folders) + len(files)
        if num_entries > _MAX_FOLDER_ENTRIES:
            raise ModelError(
                f"more than {_MAX_FOLDER_ENTRIES:,} files",
                expected="a model folder",
                cure="point to the folder that holds config.json itself",
                place=str(folder),
            )
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise ModelError(
                    f"a link that leads out of the folder, to {os.readlink(path)}",
                    expected="files of the model's own folder",
                    cure="put the file itself in the link's place if you trust it",
                    place=str(path),
                )
    if not num_entries:
        raise ModelError(
            "an empty folder",
            expected=f"{CONFIG_FILE}, safetensors weights and a tokenizer",
            cure="download the model again",
            place=str(folder),
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's configuration as plain values, having refused keys that load other things.

    Raises:
        ModelError: Missing, not JSON, remote code, quantisation, unknown architecture.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        found, cure = f"no {CONFIG_FILE}", "download the model again"
        if (folder / "adapter_config.json").exists():
            found, cure = "an adapter without its base", "load the base and give the adapter's folder with it"
        elif (folder / REWARD_FACTS_FILE).exists():
            found = "a reward model of several members"
            cure = "name the policy that it was made from; a reward model is used by scorers (type: learned)"
        expected = "a whole model: configuration, weights and tokenizer"
        raise ModelError(found, expected=expected, cure=cure, place=str(folder))
    raw = read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
    for key, value in _walk(raw):
        if key in _REFUSED_KEYS and value:
            raise ModelError(
                f"'{key}': {_REFUSED_KEYS[key]}",
                expected="an architecture that transformers has, with plain weights",
                cure=f"if transformers knows the architecture by itself, remove '{key}'; else take another model",
                place=str(path),
            )
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise ModelError(
                f"'{key}' names '{value[:100]}', which is code to download",
                expected="no downloaded kernels",
                cure=f"remove '{key}'",
                place=str(path),
            )
    return raw


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _check_sizes(raw: dict[str, Any], num_tensors: int, path: Path) -> None:
    """Refuse sizes that no model has, before an architecture is built with them."""
    for key, value in _walk(raw):
        if key not in _LARGEST or value is None or isinstance(value, list | dict):
            continue
        largest = min(_LARGEST[key], num_tensors) if key in _LAYER_KEYS else _LARGEST[key]
        if type(value) is not int or not 0 <= value <= largest:
            reason = f" (the weights hold {num_tensors:,} tensors)" if key in _LAYER_KEYS else ""
            raise ModelError(
                f"'{key}' is {repr(value)[:40]}",
                expected=f"a whole number of at most {largest:,}{reason}",
                cure="restore config.json from where the model came from",
                place=str(path),
            )


def _build_on_meta(raw: dict[str, Any], path: Path, find_class: Callable[[Any], Any | None]) -> tuple[Any, Any, Any]:
    """Return (configuration, model class, model without memory) of an architecture that transformers has."""
    import torch

    model_type = raw.get("model_type")
    configuration_class = find_configuration_class(model_type)
    if configuration_class is None:
        raise ModelError(
            f"model_type {str(model_type)[:80]!r}",
            expected="an architecture that the installed transformers has",
            cure="correct model_type, or install a transformers that knows it",
            place=str(path),
        )
    try:
        with quiet_transformers():
            config = configuration_class.from_dict(copy.deepcopy(raw))
            model_class = find_class(config)
            if model_class is None:
                wanted = "causal language model" if find_class is find_causal_model_class else "model with scores"
                raise ValueError(f"'{model_type}' is no {wanted}")
            with torch.device("meta"):
                model = model_class._from_config(
                    copy.deepcopy(config), dtype=torch.float32, attn_implementation="eager"
                )
    except Exception as error:  # noqa: BLE001  # whatever an untrusted configuration makes of library code
        raise ModelError(
            f"no model can be built from it: {type(error).__name__}: {str(error)[:300]}",
            expected=f"a configuration of '{model_type}'",
            cure="restore config.json from where the model came from",
            place=str(path),
        ) from None
    return config, model_class, model


def _check_tensors(model: Any, entries: dict[str, TensorEntry], folder: Path) -> dict[str, TensorEntry]:
    """Return the entries to load, having compared names and shapes with what the architecture expects."""
    tied: dict[str, str] = dict(model.all_tied_weights_keys)
    direct, stored = expected_tensors(model)
    prefix = f"{model.base_model_prefix}."
    if not any(name.startswith(prefix) for name in entries):
        # A backbone's checkpoint: its names lack the prefix under which the full model holds it.
        direct, stored = (
            {name.removeprefix(prefix): shape for name, shape in names.items()} for names in (direct, stored)
        )
        tied = {target.removeprefix(prefix): source.removeprefix(prefix) for target, source in tied.items()}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    ignored.append(_COMPUTED_TENSORS)
    optional = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    expected = direct if set(direct) <= set(entries) else stored
    sources = {target: source for target, source in tied.items() if target in entries}
    for target, source in sources.items():
        _check_tied(target, source, entries, expected)
    for name, shape in expected.items():
        if name not in entries:
            is_tied_elsewhere = any(source == name for source in sources.values())
            if is_tied_elsewhere or any(pattern.search(name) for pattern in optional):
                continue
            raise ModelError(
                "the tensor is missing, and a loader would fill it with random numbers",
                expected=f"shape {list(shape)}",
                cure="the checkpoint is incomplete: save or download it again"
                + ("; if the head is the embedding, set tie_word_embeddings" if "head" in name else ""),
                place=f"{folder}: {name}",
            )
        if entries[name].shape != shape:
            raise ModelError(
                f"shape {list(entries[name].shape)}",
                expected=f"shape {list(shape)}, as config.json says",
                cure="config.json and the weights are of different models: restore both from one place",
                place=f"{entries[name].path}: {name}",
            )
    kept = {name: entry for name, entry in entries.items() if name in expected or name in sources}
    for name in sorted(set(entries) - set(kept)):
        if not any(pattern.search(name) for pattern in ignored):
            raise ModelError(
                "a tensor that the architecture does not have",
                expected=f"the tensors of {type(model).__name__}",
                cure="correct model_type in config.json, or remove the tensor where it is not needed",
                place=f"{entries[name].path}: {name}",
            )
    return kept


def expected_tensors(model: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the shapes of a model's tensors by name: as it holds them, and as its checkpoints store them.

    The two differ where transformers converts (experts stored one by one and held stacked). Targets of
    ties (a head that is the embedding) are in neither.
    """
    from transformers.core_model_loading import revert_weight_conversion

    state = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    with quiet_transformers():
        stored = revert_weight_conversion(model, dict(state))
    return {name: tuple(t.shape) for name, t in state.items()}, {name: tuple(t.shape) for name, t in stored.items()}


def _check_tied(
    target: str, source: str, entries: dict[str, TensorEntry], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a tied pair that is stored twice with different values: which one counts would be a guess."""
    if source not in entries:
        shape = expected.get(source)
        is_same = entries[target].shape == shape
    else:
        first, second = entries[target], entries[source]
        is_same = (first.dtype, first.shape) == (second.dtype, second.shape) and hash_entry(first) == hash_entry(second)
    if not is_same:
        raise ModelError(
            f"it differs from '{source}', and config.json ties the two",
            expected="one tensor, stored once or twice alike",
            cure="set tie_word_embeddings to false if the model has a head of its own, else remove the tensor",
            place=f"{entries[target].path}: {target}",
        )


def _check_dtypes(entries: Mapping[str, TensorEntry], raw: dict[str, Any]) -> None:
    """Refuse half precision under the wrong name: the two have one size, and reading one as the other is noise."""
    halves = {entry.dtype: (name, entry) for name, entry in entries.items() if entry.dtype in ("F16", "BF16")}
    stated = {"float16": "F16", "bfloat16": "BF16"}.get(str(raw.get("dtype", raw.get("torch_dtype"))))
    wrong = [dtype for dtype in halves if stated not in (None, dtype)] or (sorted(halves) if len(halves) > 1 else [])
    if wrong:
        name, entry = halves[wrong[0]]
        raise ModelError(
            f"dtype {wrong[0]}",
            expected=f"dtype {stated}, as config.json says" if stated else "one half precision for all tensors",
            cure="correct dtype in config.json if the tensors are right; else download the weights again",
            place=f"{entry.path}: {name}",
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal for a while."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
