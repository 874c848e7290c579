"""Adapters on disk, in PEFT's format: written so that the same adapter gives the same bytes, read with care.

PEFT's own reader would follow the base named in the configuration, import the library that
`auto_mapping` names and run a target pattern of unknown origin. Here the configuration is data: the few
keys that decide what a LoRA adapter computes are read, and what is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from posttrain.core.durable import write_json
from posttrain.core.errors import ModelError
from posttrain.models.adapters import activate_adapters, adapter_parameters, inject_adapter
from posttrain.models.validation import check_links
from posttrain.models.weights import check_finite, load_tensors, read_header, read_json_object, save_tensors

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_READ_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora")
# Keys that say where an adapter came from or how it was started: they change nothing about what it computes.
_PASSED_KEYS = {
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}


def load_adapter(model: Any, folder: Path, name: str) -> Any:
    """Return the model with an adapter from a PEFT folder, active and frozen, above those it has.

    Args:
        model: The base, or the base with the adapters below this one.
        folder: Holds adapter_config.json and adapter_model.safetensors.
        name: Its name in memory.

    Raises:
        ModelError: Not LoRA, a kind of LoRA not known here, made for another base, or not finite.
    """
    check_links(folder)
    values = read_adapter_settings(folder)
    entries = read_header(folder / ADAPTER_WEIGHTS_FILE)
    if isinstance(values["target_modules"], str):
        # A pattern of unknown origin is not run: the tensors themselves say which modules they are for.
        values["target_modules"] = sorted({key.rsplit(".lora_", 1)[0].removeprefix(_PREFIX) for key in entries})
    try:
        model = inject_adapter(model, values, name)
    except ModelError as error:
        raise _foreign(folder, f"{error.place}: {error.found}") from None
    parameters = adapter_parameters(model, name)
    wrong = sorted(set(parameters) ^ set(entries)) or sorted(
        key for key, entry in entries.items() if tuple(parameters[key].shape) != entry.shape
    )
    if wrong:
        found = f"shape {list(entries[wrong[0]].shape)}" if wrong[0] in entries else "no such tensor"
        wanted = f"shape {list(parameters[wrong[0]].shape)}" if wrong[0] in parameters else "no such tensor"
        raise _foreign(folder, f"{wrong[0]}: {found} in the adapter, {wanted} for this base")
    check_finite(entries)
    with torch.no_grad():
        for key, tensor in load_tensors(entries, torch.float32).items():
            parameters[key].copy_(tensor)
    activate_adapters(model, trainable=None)
    return model


def save_adapter(
    model: Any, name: str, folder: Path, dtype: torch.dtype, state: Mapping[str, torch.Tensor] | None
) -> None:
    """Write one adapter in PEFT's format, with the base named as it lies in an artifact: `../../base`.

    Args:
        model: Holds the adapter.
        name: Its name in memory.
        folder: An empty folder.
        dtype: Of the stored tensors.
        state: Values to store instead of the model's own, under the model's parameter names or PEFT's.

    Raises:
        ModelError: `state` lacks a tensor, has another shape, or is not finite.
    """
    parameters = adapter_parameters(model, name)
    values: dict[str, torch.Tensor] = dict(parameters)
    if state is not None:
        given = {key.replace(f".{name}.weight", ".weight"): tensor for key, tensor in state.items()}
        wrong = sorted(set(given) ^ set(values)) or sorted(k for k in values if given[k].shape != values[k].shape)
        if wrong:
            raise ModelError(
                f"the state to save and adapter '{name}' differ at '{wrong[0]}'",
                expected="one tensor of the same shape for each of the adapter's parameters",
                cure="pass the trainable parameters of this model by their names",
                place=str(folder),
            )
        values = given
    save_tensors(values, folder / ADAPTER_WEIGHTS_FILE, dtype)
    config = {key: _plain(value) for key, value in model.peft_config[name].to_dict().items()}
    config |= {"base_model_name_or_path": "../../base", "inference_mode": True, "auto_mapping": None, "revision": None}
    write_json(folder / ADAPTER_CONFIG_FILE, dict(sorted(config.items())))


def _plain(value: Any) -> Any:
    """Return a setting as JSON holds it; sets, whose order changes from process to process, are sorted."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.value if hasattr(value, "value") else value


def read_adapter_settings(folder: Path) -> dict[str, Any]:
    """Return what decides an adapter's values beside its tensors: `_READ_KEYS`, with PEFT's defaults filled in.

    Raises:
        ModelError: Not LoRA, a kind of LoRA not known here, or a value out of range.
    """
    from peft import LoraConfig

    path = folder / ADAPTER_CONFIG_FILE
    raw = read_json_object(path)
    if raw.get("peft_type") != "LORA":
        raise _not_plain(path, f"an adapter of type {str(raw.get('peft_type'))[:40]}")
    defaults = {key: _plain(value) for key, value in LoraConfig().to_dict().items()}
    for key, value in raw.items():
        if key not in _READ_KEYS and key not in _PASSED_KEYS and value and value != defaults.get(key):
            raise _not_plain(path, f"'{key}': {str(value)[:80]}")
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and start != "gaussian":
        raise _not_plain(path, f"'init_lora_weights': '{start[:40]}', which changed the base's weights too")
    values = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": False}
    values |= {key: raw[key] for key in _READ_KEYS if raw.get(key) is not None}
    targets = values.get("target_modules")
    is_named = isinstance(targets, str) or (isinstance(targets, list) and all(isinstance(t, str) for t in targets))
    is_sound = (
        type(values["r"]) is int
        and 1 <= values["r"] <= 4096
        and isinstance(values["lora_alpha"], int | float)
        and isinstance(values["lora_dropout"], int | float)
        and 0 <= values["lora_dropout"] < 1
        and isinstance(values["use_rslora"], bool)
    )
    if not (is_named and is_sound and targets):
        raise ModelError(
            f"rank, scale, dropout or targets out of range: {str(values)[:200]}",
            expected="a rank of 1 to 4096, a dropout in [0, 1) and names of modules",
            cure="restore the adapter's configuration",
            place=str(path),
        )
    return values


def _not_plain(path: Path, found: str) -> ModelError:
    return ModelError(
        found,
        expected="plain LoRA on linear layers (peft_type LORA)",
        cure="merge the adapter with the tool that made it and load the merged model",
        place=str(path),
    )


def _foreign(folder: Path, found: str) -> ModelError:
    return ModelError(
        found,
        expected="an adapter that was trained on this base",
        cure="load it on the base that its adapter_config.json names",
        place=str(folder),
    )
