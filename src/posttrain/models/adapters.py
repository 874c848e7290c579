"""LoRA adapters: start one, go on with one, stack one on another, merge them all.

Each leaves the model's outputs as they were at the moment it is done (B starts at zero, Hu et al. 2021,
section 4.1), and draws its start values from the seed it is given and from nothing else. Adapter
parameters are float32 whatever the base's dtype. An adapter's name in memory is its folder's name in an
artifact: its position and a word, `00-sft`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch

from posttrain.core.errors import ModelError
from posttrain.core.seeds import build_torch_generator
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.lora_settings import LoraSettings

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def add_adapter(model: Any, settings: LoraSettings, name: str, seed: int) -> Any:
    """Return a PEFT model around `model` with one trainable adapter that changes nothing yet.

    Raises:
        ModelError: The model has adapters, a target is not in it, or a target is tied to another weight.
    """
    if list_adapters(model):
        raise ModelError(
            f"the model has adapters already: {', '.join(list_adapters(model))}",
            expected="a model without adapters",
            cure="continue the adapter, stack another on it, or merge first",
        )
    return _start_adapter(model, settings, name, seed)


def stack_adapter(model: Any, settings: LoraSettings, name: str, seed: int) -> Any:
    """Return the model with one more adapter, trainable and changing nothing yet, above the frozen ones.

    Raises:
        ModelError: The model has no adapter, or as for `add_adapter`.
    """
    _require_adapters(model)
    return _start_adapter(model, settings, name, seed)


def continue_adapter(model: Any) -> Any:
    """Return the model with its last adapter trainable again and everything else frozen.

    Raises:
        ModelError: The model has no adapter.
    """
    _require_adapters(model)
    activate_adapters(model, trainable=list_adapters(model)[-1])
    return model


@torch.no_grad()
def merge_adapters(model: Any) -> Any:
    """Return the plain model with every adapter added into its weights, each layer in float32.

    Raises:
        ModelError: The model has no adapter, or a weight that cannot take one exactly.
    """
    _require_adapters(model)
    for place, layer in iterate_layers(model):
        weight = layer.get_base_layer().weight
        weight.copy_(compute_merged_weight(place, layer))
    plain = model.unload()
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    return plain


@torch.no_grad()
def compute_merged_weight(place: str, layer: Any) -> torch.Tensor:
    """Return a LoRA layer's weight with all its adapters added in float32, in the weight's own dtype.

    Raises:
        ModelError: The weight cannot take an adapter exactly.
    """
    weight = layer.get_base_layer().weight
    if not weight.is_floating_point():
        raise ModelError(
            f"a weight of {weight.dtype}",
            expected="floating-point weights",
            cure="merge into the model's unquantised weights",
            place=place,
        )
    return add_adapters(layer).to(weight.dtype)


def add_adapters(layer: Any) -> torch.Tensor:
    """Return a LoRA layer's weight with all its adapters added, in float32; what is sharded over ranks is gathered."""
    merged = gather_whole(layer.get_base_layer().weight).float()
    for name in layer.lora_A:
        up, down = gather_whole(layer.lora_B[name].weight), gather_whole(layer.lora_A[name].weight)
        delta = up.float() @ down.float() * layer.scaling[name]
        merged = merged + (delta.T if layer.fan_in_fan_out else delta)
    return merged


def gather_whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor that may be sharded over ranks."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if callable(gather) else tensor).detach()


def prepare_policy(
    policy: LoadedPolicy,
    settings: LoraSettings | None,
    *,
    existing: Literal["continue", "stack", "merge"],
    name: str,
    seed: int,
) -> LoadedPolicy:
    """Return a policy ready to be trained: full weights, or with exactly one trainable adapter.

    Args:
        policy: As loaded; its model is changed in place and must be used through the result alone.
        settings: None trains the full weights (existing adapters are merged first).
        existing: What to do with adapters that are there: go on with the last, stack another on them, or
            merge them and start another. Without adapters a new one is added.
        name: A word for the adapter, usually the stage's name.
        seed: Decides the start values.

    Raises:
        ModelError: `continue` with settings of another shape, or as for the functions above.
    """
    if policy.adapters and (settings is None or existing == "merge"):
        model = merge_adapters(policy.model)
        policy = replace(policy, model=model, adapters=(), base_folder=None, base_hash="")
    if settings is None:
        for parameter in policy.model.parameters():
            parameter.requires_grad_(True)
        return policy
    if not policy.adapters:
        model = add_adapter(policy.model, settings, name, seed)
    elif existing == "stack":
        model = stack_adapter(policy.model, settings, name, seed)
    else:
        _check_same_shape(policy.model, settings)
        model = continue_adapter(policy.model)
    return replace(policy, model=model, adapters=list_adapters(model))


def list_adapters(model: Any) -> tuple[str, ...]:
    """Return the names of a model's adapters, in the order they were put on."""
    return tuple(getattr(model, "peft_config", None) or ())


def adapter_parameters(model: Any, name: str) -> dict[str, torch.nn.Parameter]:
    """Return an adapter's parameters under the names that PEFT's files give them (no adapter name inside)."""
    suffix = f".{name}.weight"
    return {
        key.removesuffix(suffix) + ".weight": parameter
        for key, parameter in model.named_parameters()
        if key.endswith((f".lora_A{suffix}", f".lora_B{suffix}"))
    }


def inject_adapter(model: Any, values: dict[str, Any], name: str) -> Any:
    """Return the model with one more adapter of the given PEFT settings, trainable alone; its values are PEFT's.

    Raises:
        ModelError: A target is not in the model, is not linear, or is tied to another weight.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    causal_lm = model.get_base_model() if list_adapters(model) else model
    targets = _resolve_targets(causal_lm, values["target_modules"])
    is_transposed = any(type(module).__name__ == "Conv1D" for module in causal_lm.modules())
    values = {**values, "target_modules": targets, "fan_in_fan_out": is_transposed, "bias": "none"}
    config = LoraConfig(**values, task_type=TaskType.CAUSAL_LM)
    # PEFT draws start values from the global generator; they are replaced, and it is left as it was.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if list_adapters(model):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    activate_adapters(model, trainable=name)
    return model


def _resolve_targets(causal_lm: Any, targets: str | list[str]) -> list[str]:
    """Return the names of the modules to adapt, sorted; "all-linear" is every linear layer but the head."""
    names = [name for name, _ in causal_lm.named_modules() if ".lora_" not in name and not name.endswith(".base_layer")]
    linear = {name for name in names if _is_linear(causal_lm.get_submodule(name))}
    head = causal_lm.get_output_embeddings()
    if targets == "all-linear":
        return sorted({name.rsplit(".", 1)[-1] for name in linear if causal_lm.get_submodule(name) is not head})
    tied = {key.rsplit(".", 1)[0] for pair in causal_lm.all_tied_weights_keys.items() for key in pair}
    for target in targets:
        hits = [name for name in names if name == target or name.endswith(f".{target}")]
        bad = [name for name in hits if name not in linear or name in tied]
        if bad or not hits:
            raise ModelError(
                f"'{bad[0]}' is no linear layer with weights of its own" if bad else "no module of this name",
                expected="linear layers whose weights have one use",
                cure="name modules such as " + ", ".join(sorted({n.rsplit(".", 1)[-1] for n in linear - tied})[:8]),
                place=f"adapter target '{target[:80]}'",
            )
    return sorted(set(targets))


def _is_linear(module: Any) -> bool:
    inner = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return isinstance(inner, torch.nn.Linear) or type(inner).__name__ == "Conv1D"


def _start_adapter(model: Any, settings: LoraSettings, name: str, seed: int) -> Any:
    name = _place_name(model, name)
    model = inject_adapter(model, _build_values(settings), name)
    _initialise(model, settings, name, seed)
    return model


@torch.no_grad()
def _initialise(model: Any, settings: LoraSettings, name: str, seed: int) -> None:
    """Draw A of every layer from a stream of its own, named by the seed and the layer; B is zero."""
    for key, parameter in adapter_parameters(model, name).items():
        if ".lora_B." in key:
            parameter.zero_()
            continue
        generator = build_torch_generator(seed, "lora", key)
        start = torch.empty(parameter.shape, dtype=torch.float32)
        if settings.init == "gaussian":
            start.normal_(0.0, 1.0 / settings.rank, generator=generator)
        else:
            bound = 1.0 / math.sqrt(parameter.shape[1])  # Kaiming uniform with a = sqrt(5)
            start.uniform_(-bound, bound, generator=generator)
        parameter.copy_(start)


def activate_adapters(model: Any, trainable: str | None) -> None:
    """Make every adapter count, in order, and at most one of them trainable; frozen ones drop nothing out."""
    names = list(list_adapters(model))
    model.base_model.set_adapter(names)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if trainable is not None:
        for parameter in adapter_parameters(model, trainable).values():
            parameter.requires_grad_(True)
    for _, layer in iterate_layers(model):
        for name in names:
            if name in layer.lora_dropout:
                fraction = model.peft_config[name].lora_dropout if name == trainable else 0.0
                layer.lora_dropout[name] = torch.nn.Dropout(fraction) if fraction else torch.nn.Identity()


def iterate_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, LoRA layer) for every adapted module of a PEFT model."""
    from peft.tuners.lora import LoraLayer

    for place, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield place, module


def _build_values(settings: LoraSettings) -> dict[str, Any]:
    alpha = settings.effective_alpha
    return {
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.targets,
    }


def _check_same_shape(model: Any, settings: LoraSettings) -> None:
    name = list_adapters(model)[-1]
    config = model.peft_config[name]
    if config.r != settings.rank or float(config.lora_alpha) != settings.effective_alpha:
        raise ModelError(
            f"adapter '{name}' has rank {config.r} and alpha {config.lora_alpha}",
            expected=f"rank {settings.rank} and alpha {settings.effective_alpha:g}, as the settings say",
            cure="give the settings of the adapter that is continued, or stack or merge instead",
            place=name,
        )


def _place_name(model: Any, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"adapter name {name[:80]!r}", expected="small letters, digits, - and _", cure="choose another name"
        )
    return f"{len(list_adapters(model)):02d}-{name}"


def _require_adapters(model: Any) -> None:
    if not list_adapters(model):
        raise ModelError("the model has no adapter", expected="a model with an adapter", cure="add one first")
