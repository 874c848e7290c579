"""A policy between two: theta = (1 - w) theta_parent + w theta_stage.

Weights of a model and of one that was trained on from it lie in one basin, and a point between them often keeps what
the first could do and most of what the second learnt (WiSE-FT, Wortsman et al., arXiv 2109.01903, section 4). Every
tensor is formed in float32, one at a time, and rounded once to the precision that the stage's artifact is stored in.

A stage that put one adapter on its parent is interpolated by scaling that adapter: delta W = B A counts w times as
much. B is what is multiplied and not alpha, so that training can go on with it under the stage's own settings. Any
other relation of adapters (one was trained on, several were added, they were merged) has no adapter of one rank
between its ends; both policies are merged, tensor by tensor, and the result has full weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posttrain.core.errors import ModelError
from posttrain.core.hashing import sha256_file
from posttrain.core.run_folder import ARTIFACT_MANIFEST
from posttrain.models.adapter_files import ADAPTER_WEIGHTS_FILE, read_adapter_settings
from posttrain.models.adapters import adapter_parameters
from posttrain.models.heads import find_causal_lm
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import ADAPTERS_FOLDER, BASE_FOLDER, DTYPES, load_policy, load_tokenizer
from posttrain.models.manifest import verify_artifact
from posttrain.models.shadow import iterate_merged_weights, plain_name
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.models.validation import check_links, check_model_folder, read_config
from posttrain.models.weights import TensorEntry, hash_weights, read_header, read_weight_entries

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# Keys of a configuration that say where a model came from and how it lies on disk, not what it computes.
_TRACES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_SETTINGS_THAT_COUNT = ("r", "lora_alpha", "use_rslora")


@dataclass(frozen=True, slots=True)
class Interpolation:
    """What lies between two policies, ready for `models.artifacts.save_policy`.

    Args:
        policy: The stage's policy with other weights; its `hash` is empty until it is saved.
        weights_dtype: The precision to save in: that of the stage's artifact.

    Example: `found = interpolate_policies(parent, stage, 0.5)`, then
    `save_policy(found.policy, folder, facts, weights_dtype=found.weights_dtype)`.
    """

    policy: LoadedPolicy
    weights_dtype: str


def interpolate_policies(parent_folder: Path, stage_folder: Path, weight: float) -> Interpolation:
    """Return the policy at a share of the way from one policy to another that was trained on from it.

    Both models are in memory at once in the precision that they are stored in; where the stage added one adapter, only
    the stage's is.

    Args:
        parent_folder: What the stage started from: an artifact, or a folder in Hugging Face format.
        stage_folder: What the stage made.
        weight: The stage's share w, in [0, 1]; 0 gives the parent's outputs, 1 the stage's.

    Raises:
        ModelError: The weight is outside [0, 1], a folder does not pass its checks, or the two differ in architecture,
            shape, tokenizer, or buffers of whole numbers.
    """
    if not 0 <= weight <= 1:
        raise ModelError(
            f"a weight of {weight}",
            expected="a number from 0 (the parent) to 1 (the stage)",
            cure="choose a weight between the two; beyond them lies neither policy",
            place="weight",
        )
    stage = load_policy(stage_folder, dtype=_find_dtype(_base_of(stage_folder)), device="cpu")
    weights_dtype = _find_weights_dtype(stage)
    _check_model_type(parent_folder, stage)
    _check_tokenizers(parent_folder, stage)
    if _adds_one_adapter(parent_folder, stage):
        _check_configs(check_model_folder(_base_of(parent_folder), with_tokenizer=False).config, stage, parent_folder)
        _scale_adapter(stage, weight)
        return Interpolation(replace(stage, hash="", manifest=None), weights_dtype)
    parent = load_policy(parent_folder, dtype=_find_dtype(_base_of(parent_folder)), device="cpu")
    _check_configs(find_causal_lm(parent.model).config, stage, parent_folder)
    interpolate_weights(parent.model, stage.model, weight, DTYPES[weights_dtype])
    plain = stage.model.unload() if stage.adapters else stage.model
    plain.requires_grad_(True)
    found = replace(stage, model=plain, adapters=(), hash="", base_hash="", base_folder=None, manifest=None)
    return Interpolation(found, weights_dtype)


@torch.no_grad()
def interpolate_weights(parent: torch.nn.Module, stage: torch.nn.Module, weight: float, dtype: torch.dtype) -> None:
    """Move the stage's plain weights and buffers to a share of the way from the parent's, one tensor at a time.

    Adapters count as merged, and those of the stage must be taken off afterwards. A tied weight is one tensor and is
    moved once.

    Args:
        parent: A transformers or PEFT model; it is left as it is.
        stage: A model of the same shape; it is changed in place.
        weight: The stage's share.
        dtype: What each result is rounded to.

    Raises:
        ModelError: A tensor of one is missing in the other or has another shape, or buffers of whole numbers differ.
    """
    own = dict(_iterate_plain_parameters(stage))
    theirs = dict(_iterate_plain_parameters(parent))
    _check_shapes(theirs, own)
    _interpolate_buffers(parent, stage, weight)
    for (name, start), (_, end) in zip(iterate_merged_weights(parent), iterate_merged_weights(stage), strict=True):
        # lerp gives exactly `start` at 0 and exactly `end` at 1.
        own[name].data = torch.lerp(start.float(), end.float(), weight).to(dtype)


def _iterate_plain_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield a policy's parameters without those of adapters, each once, in the order of `iterate_merged_weights`."""
    for name, parameter in find_causal_lm(model).named_parameters():
        if ".lora_" not in name:
            yield plain_name(name), parameter


def _check_shapes(theirs: dict[str, torch.nn.Parameter], own: dict[str, torch.nn.Parameter]) -> None:
    for name in [*theirs, *own]:
        found = [list(side[name].shape) if name in side else None for side in (theirs, own)]
        if found[0] != found[1]:
            texts = ["no such tensor" if shape is None else f"shape {shape}" for shape in found]
            raise _misfit(f"{texts[0]} in the parent, {texts[1]} in the stage", name)
    if list(theirs) != list(own):
        raise _misfit("the parent's tensors stand in another order", next(iter(theirs), ""))


def _interpolate_buffers(parent: torch.nn.Module, stage: torch.nn.Module, weight: float) -> None:
    """Move saved buffers of floats; all others must be equal, since there is nothing between them."""
    theirs, own = (_find_saved_buffers(model) for model in (parent, stage))
    for name in sorted(set(theirs) | set(own)):
        if name not in theirs or name not in own or theirs[name].shape != own[name].shape:
            raise _misfit("a buffer that the other model lacks or has in another shape", name)
        start, end = theirs[name], own[name]
        if end.is_floating_point() and start.is_floating_point():
            end.copy_(torch.lerp(start.float(), end.float(), weight))
        elif not torch.equal(start, end):
            raise _misfit(f"a buffer of {end.dtype} with other values than the parent's", name)


def _find_saved_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    causal_lm = find_causal_lm(model)
    saved = causal_lm.state_dict()
    return {plain_name(name): buffer for name, buffer in causal_lm.named_buffers() if name in saved}


@torch.no_grad()
def _scale_adapter(stage: LoadedPolicy, weight: float) -> None:
    for key, parameter in adapter_parameters(stage.model, stage.adapters[-1]).items():
        if ".lora_B." in key:
            parameter.mul_(weight)


def _adds_one_adapter(parent_folder: Path, stage: LoadedPolicy) -> bool:
    """Return whether the stage is its parent, to the byte, with one more adapter on it."""
    check_links(parent_folder)
    manifest = verify_artifact(parent_folder) if (parent_folder / ARTIFACT_MANIFEST).exists() else None
    below = tuple(manifest.adapters) if manifest is not None else ()
    if not stage.adapters or below != stage.adapters[:-1]:
        return False
    if hash_weights(_base_of(parent_folder)) != stage.base_hash:
        return False
    return all(
        _is_same_adapter(*(root / ADAPTERS_FOLDER / name for root in (parent_folder, stage.folder))) for name in below
    )


def _is_same_adapter(first: Path, second: Path) -> bool:
    settings = [{key: read_adapter_settings(folder)[key] for key in _SETTINGS_THAT_COUNT} for folder in (first, second)]
    hashes = [sha256_file(folder / ADAPTER_WEIGHTS_FILE) for folder in (first, second)]
    return settings[0] == settings[1] and hashes[0] == hashes[1]


def _base_of(folder: Path) -> Path:
    return folder / BASE_FOLDER if (folder / BASE_FOLDER).is_dir() else folder


def _find_weights_dtype(stage: LoadedPolicy) -> str:
    """Return the precision of what the stage trained: of its last adapter, or of its full weights."""
    if not stage.adapters:
        return _find_dtype(stage.folder)
    return _name_dtype(read_header(stage.folder / ADAPTERS_FOLDER / stage.adapters[-1] / ADAPTER_WEIGHTS_FILE))


def _find_dtype(folder: Path) -> str:
    """Return the precision in which a model folder's tensors lose nothing."""
    return _name_dtype(read_weight_entries(folder))


def _name_dtype(entries: dict[str, TensorEntry]) -> str:
    kinds = {entry.dtype for entry in entries.values()}
    return _STORED.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


def _check_model_type(parent_folder: Path, stage: LoadedPolicy) -> None:
    found, own = read_config(_base_of(parent_folder)).get("model_type"), find_causal_lm(stage.model).config.model_type
    if found != own:
        raise _misfit(f"the parent is of the architecture {found}, the stage of {own}", str(parent_folder))


def _check_tokenizers(parent_folder: Path, stage: LoadedPolicy) -> None:
    hashes = [HuggingFaceTextTokenizer(t).content_hash for t in (load_tokenizer(parent_folder), stage.tokenizer)]
    if hashes[0] != hashes[1]:
        raise ModelError(
            "the two policies have different tokenizers",
            expected="one tokenizer: a row of the embedding must stand for the same token in both",
            cure="interpolate between a policy and one that was trained on from it",
            place=str(parent_folder),
        )


def _check_configs(theirs: Any, stage: LoadedPolicy, parent_folder: Path) -> None:
    """Refuse two models that compute different things from equal weights."""
    first, second = theirs.to_dict(), find_causal_lm(stage.model).config.to_dict()
    for key in sorted((first.keys() | second.keys()) - set(_TRACES)):
        if first.get(key) != second.get(key):
            raise _misfit(
                f"'{key}' is {str(first.get(key))[:80]} in the parent's configuration "
                f"and {str(second.get(key))[:80]} in the stage's",
                str(parent_folder),
            )


def _misfit(found: str, place: str) -> ModelError:
    return ModelError(
        found,
        expected="two models of one architecture and shape",
        cure="interpolate between a policy and one that was trained on from it",
        place=place,
    )
