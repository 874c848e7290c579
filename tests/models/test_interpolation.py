"""A policy between two: by hand, at both ends to the bit, with adapters, ties and precisions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from posttrain.core.errors import ModelError
from posttrain.models.adapters import adapter_parameters, prepare_policy
from posttrain.models.artifacts import save_policy
from posttrain.models.interpolation import interpolate_policies, interpolate_weights
from posttrain.models.loading import load_policy
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.manifest import Manifest, load_manifest
from posttrain.models.shadow import iterate_merged_weights
from posttrain.models.weights import hash_weights
from tests.models.tiny_models import (
    ARCHITECTURES,
    FACTS,
    SETTINGS,
    disturb,
    edit_config,
    logits_of,
    save_tiny,
)

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
ADAPTER = "adapters/{}/adapter_model.safetensors"


def train(parent: Path, folder: Path, settings: LoraSettings | None, existing: Any = "continue", **saved: Any) -> Path:
    """What a stage makes of a policy: its trainable weights moved, and saved."""
    policy = prepare_policy(load_policy(parent, dtype="float32"), settings, existing=existing, name="more", seed=2)
    disturb(policy.model.named_parameters(), 8)
    save_policy(policy, folder, FACTS, **{"weights_dtype": "float32", **saved})
    return folder


def save_between(parent: Path, stage: Path, weight: float, folder: Path) -> Manifest:
    """The artifact of what lies between two policies."""
    found = interpolate_policies(parent, stage, weight)
    return save_policy(found.policy, folder, FACTS, weights_dtype=found.weights_dtype)


def plain_weights(folder: Path) -> dict[str, torch.Tensor]:
    """A policy's weights in float32, adapters merged in."""
    return {name: w.float() for name, w in iterate_merged_weights(load_policy(folder, dtype="float32").model)}


def logits(folder: Path) -> torch.Tensor:
    return logits_of(load_policy(folder, dtype="float32").model)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save_tiny(root / name, name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def chain(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, an adapter on it, and every way to go on from that adapter."""
    root, base = tmp_path_factory.mktemp("chain"), bases["llama"]
    lora = train(base, root / "lora", SETTINGS)
    others = {
        "stacked": train(lora, root / "stacked", LoraSettings(rank=2), "stack"),
        "continued": train(lora, root / "continued", SETTINGS),
        "merged": train(lora, root / "merged", LoraSettings(rank=2), "merge"),
        "full": train(lora, root / "full", None),
    }
    return {"base": base, "lora": lora, **others}


@every_architecture
def test_every_weight_is_the_mean_of_two_by_hand(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """0.75 parent + 0.25 stage in float64, each stored tensor; what is tied is stored once, as in the stage."""
    stage = train(bases[name], tmp_path / "stage", None)
    save_between(bases[name], stage, 0.25, tmp_path / "between")
    start, end, found = (load_file(f / "model.safetensors") for f in (bases[name], stage, tmp_path / "between"))
    assert found.keys() == end.keys() and ("lm_head.weight" in found) == (name == "llama")
    for key, tensor in found.items():
        wanted = 0.75 * start[key].double() + 0.25 * end[key].double()
        assert torch.allclose(tensor.double(), wanted, rtol=0, atol=1e-6), key
        assert not torch.equal(tensor, end[key])


@every_architecture
def test_at_both_ends_full_weights_are_those_of_the_policies_to_the_bit(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    stage = train(bases[name], tmp_path / "stage", None)
    for weight, end in ((0, bases[name]), (1, stage)):
        manifest = save_between(bases[name], stage, weight, tmp_path / str(weight))
        assert manifest.base_hash == hash_weights(end)
        assert torch.equal(logits(tmp_path / str(weight)), logits(end))
    assert load_manifest(tmp_path / "1").hash == load_manifest(stage).hash


def test_a_result_is_rounded_once_to_the_precision_of_the_stages_artifact(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    stage = train(bases["llama"], tmp_path / "stage", None, weights_dtype="bfloat16")
    save_between(bases["llama"], stage, 0.3, tmp_path / "between")
    start, end, found = (load_file(f / "model.safetensors") for f in (bases["llama"], stage, tmp_path / "between"))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for key, tensor in found.items():
        assert torch.equal(tensor, torch.lerp(start[key], end[key].float(), 0.3).bfloat16()), key


def test_the_same_two_policies_give_the_same_bytes(chain: dict[str, Path], tmp_path: Path) -> None:
    for stage in ("full", "stacked"):
        hashes = {save_between(chain["lora"], chain[stage], 0.4, tmp_path / f"{stage}-{n}").hash for n in (1, 2)}
        assert len(hashes) == 1


@pytest.mark.parametrize(("parent", "stage"), [("base", "lora"), ("lora", "stacked")])
def test_an_added_adapter_is_scaled_and_stays_one(
    chain: dict[str, Path], tmp_path: Path, parent: str, stage: str
) -> None:
    start, end = chain[parent], chain[stage]
    for weight, wanted in ((0.0, start), (1.0, end)):
        save_between(start, end, weight, tmp_path / f"{weight}")
        assert torch.equal(logits(tmp_path / f"{weight}"), logits(wanted))
    assert load_manifest(tmp_path / "1.0").hash == load_manifest(end).hash

    manifest = save_between(start, end, 0.25, tmp_path / "between")
    names = load_manifest(end).adapters
    assert manifest.adapters == names and manifest.base_hash == load_manifest(end).base_hash
    assert (tmp_path / "between/base/model.safetensors").samefile(end / "base/model.safetensors")
    trained, found = (load_file(folder / ADAPTER.format(names[-1])) for folder in (end, tmp_path / "between"))
    for key, tensor in found.items():  # a quarter is exact in floating point
        assert torch.equal(tensor, 0.25 * trained[key] if ".lora_B." in key else trained[key]), key
    for name in names[:-1]:
        below = [load_file(folder / ADAPTER.format(name)) for folder in (end, tmp_path / "between")]
        assert all(torch.equal(below[0][key], below[1][key]) for key in below[0])
    weights = [plain_weights(folder) for folder in (start, end, tmp_path / "between")]
    for key, tensor in weights[2].items():
        assert torch.allclose(tensor, 0.75 * weights[0][key] + 0.25 * weights[1][key], rtol=0, atol=1e-6), key


def test_a_scaled_adapter_is_gone_on_with_under_the_stages_own_settings(chain: dict[str, Path], tmp_path: Path) -> None:
    for weight in (0.0, 0.5):
        save_between(chain["base"], chain["lora"], weight, tmp_path / f"{weight}")
        policy = load_policy(tmp_path / f"{weight}", dtype="float32")
        policy = prepare_policy(policy, SETTINGS, existing="continue", name="more", seed=1)
        policy.model(input_ids=torch.arange(8)[None]).logits.square().sum().backward()
        gradients = [p.grad for key, p in adapter_parameters(policy.model, "00-more").items() if ".lora_B." in key]
        assert gradients and all(g is not None and float(g.abs().max()) > 0 for g in gradients)


@pytest.mark.parametrize(
    ("parent", "stage"),
    [("lora", "continued"), ("lora", "merged"), ("lora", "full"), ("base", "stacked"), ("base", "full")],
)
def test_any_other_relation_of_adapters_gives_full_weights_between_the_merged_ones(
    chain: dict[str, Path], tmp_path: Path, parent: str, stage: str
) -> None:
    start, end = chain[parent], chain[stage]
    manifest = save_between(start, end, 0.4, tmp_path / "between")
    assert manifest.adapters == [] and (tmp_path / "between/model.safetensors").is_file()
    weights = [plain_weights(folder) for folder in (start, end, tmp_path / "between")]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    for key, tensor in weights[2].items():
        assert torch.equal(tensor, torch.lerp(weights[0][key], weights[1][key], 0.4)), key
    for weight, wanted in ((0.0, start), (1.0, end)):
        save_between(start, end, weight, tmp_path / f"{weight}")
        found, expected = logits(tmp_path / f"{weight}"), logits(wanted)
        assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_an_adapter_saved_in_half_precision_is_scaled_in_it(bases: dict[str, Path], tmp_path: Path) -> None:
    stage = train(bases["llama"], tmp_path / "stage", SETTINGS, weights_dtype="bfloat16")
    manifest = save_between(bases["llama"], stage, 0.7, tmp_path / "between")
    trained, found = (load_file(f / ADAPTER.format("00-more")) for f in (stage, tmp_path / "between"))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16} and manifest.adapters == ["00-more"]
    for key, tensor in found.items():
        wanted = (trained[key].float() * 0.7).bfloat16() if ".lora_B." in key else trained[key]
        assert torch.equal(tensor, wanted)


def test_a_parent_is_left_as_it_was(chain: dict[str, Path]) -> None:
    parent, stage = (load_policy(chain[name], dtype="float32").model for name in ("lora", "continued"))
    before = {key: tensor.clone() for key, tensor in parent.state_dict().items()}
    interpolate_weights(parent, stage, 0.5, torch.float32)
    assert all(torch.equal(tensor, before[key]) for key, tensor in parent.state_dict().items())


@pytest.mark.parametrize("weight", [-0.1, 1.0001, float("nan"), float("inf")])
def test_a_weight_beyond_either_policy_is_refused(chain: dict[str, Path], weight: float) -> None:
    with pytest.raises(ModelError, match="between the two"):
        interpolate_policies(chain["base"], chain["lora"], weight)


def test_another_architecture_setting_shape_or_tokenizer_is_refused_with_the_cure(
    bases: dict[str, Path], chain: dict[str, Path], tmp_path: Path
) -> None:
    def refuse(parent: Path, stage: Path, word: str) -> None:
        with pytest.raises(ModelError, match=word) as caught:
            interpolate_policies(parent, stage, 0.5)
        assert "trained on from it" in caught.value.cure

    refuse(bases["qwen2"], bases["qwen3"], "the parent is of the architecture qwen2, the stage of qwen3")
    changed = save_tiny(tmp_path / "changed")
    edit_config(changed, rms_norm_eps=0.1)
    refuse(bases["llama"], changed, "'rms_norm_eps' is 1e-06 in the parent's configuration and 0.1 in the stage's")
    refuse(changed, chain["lora"], "'rms_norm_eps' is 0.1")  # an adapter's base is compared too
    other = save_tiny(tmp_path / "other")
    path = other / "tokenizer.json"
    values = json.loads(path.read_text())
    values["normalizer"] = None
    path.write_text(json.dumps(values))
    refuse(other, bases["llama"], "different tokenizers")
    refuse(other, chain["lora"], "different tokenizers")


class Buffered(nn.Module):
    """A model with buffers of both kinds, one of which is not saved."""

    def __init__(self, value: float, count: int, size: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), value))
        self.register_buffer("mean", torch.full((2,), value))
        self.register_buffer("count", torch.tensor([count]))
        self.register_buffer("table", torch.full((1,), value), persistent=False)


def test_buffers_of_floats_move_and_those_of_whole_numbers_must_be_equal() -> None:
    """Halfway from 1 to 3 lies 2; what is not saved stays the stage's own."""
    stage = Buffered(3.0, 7)
    interpolate_weights(Buffered(1.0, 7), stage, 0.5, torch.float32)
    assert stage.weight.tolist() == [2.0, 2.0] and stage.mean.tolist() == [2.0, 2.0]
    assert stage.count.tolist() == [7] and stage.table.tolist() == [3.0]
    with pytest.raises(ModelError, match=r"torch\.int64 with other values") as caught:
        interpolate_weights(Buffered(1.0, 6), Buffered(3.0, 7), 0.5, torch.float32)
    assert caught.value.place == "count"
    with pytest.raises(ModelError, match=r"shape \[3\] in the parent, shape \[2\] in the stage"):
        interpolate_weights(Buffered(1.0, 7, size=3), Buffered(3.0, 7), 0.5, torch.float32)
