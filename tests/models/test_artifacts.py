"""Artifacts: plain transformers and PEFT load them alike, equal content is equal bytes, any damage is found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.errors import ModelError, StorageError
from posttrain.models import artifacts
from posttrain.models.adapters import adapter_parameters, merge_adapters, prepare_policy
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_policy
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.manifest import ArtifactFacts, load_manifest, verify_artifact
from posttrain.models.weights import hash_weights, read_weight_entries
from tests.models.tiny_models import (
    ARCHITECTURES,
    FACTS,
    SETTINGS,
    TEMPLATE,
    disturb,
    logits_of,
    make_tokenizer,
    save_tiny,
    train_lora,
)

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save_tiny(root / name, name) for name in ARCHITECTURES}


@every_architecture
def test_full_weights_load_in_plain_transformers_with_the_same_logits(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    policy = load_policy(bases[name], dtype="float32")
    disturb(prepare_policy(policy, None, existing="continue", name="sft", seed=1).model.named_parameters())
    manifest = save_policy(policy, tmp_path / "a", FACTS, weights_dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert torch.equal(logits_of(plain), logits_of(policy.model))
    loaded = load_policy(tmp_path / "a", dtype="float32")
    assert torch.equal(logits_of(loaded.model), logits_of(policy.model))
    assert loaded.hash == manifest.hash and loaded.base_hash == hash_weights(tmp_path / "a") == manifest.base_hash


@every_architecture
def test_lora_loads_in_plain_transformers_and_peft_with_the_same_logits(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    policy = train_lora(bases[name])
    save_policy(policy, tmp_path / "a", FACTS, weights_dtype="float32")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "base")
    plain = PeftModel.from_pretrained(base, tmp_path / "a" / "adapters" / "00-sft")
    wanted = logits_of(policy.model)
    assert float((logits_of(plain) - wanted).abs().max()) <= 1e-6
    assert torch.equal(logits_of(load_policy(tmp_path / "a", dtype="float32").model), wanted)
    assert hash_weights(tmp_path / "a" / "base") == hash_weights(bases[name]) == policy.base_hash


@every_architecture
def test_a_stage_goes_on_from_an_artifact_with_the_same_logits_at_step_0(
    name: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    first = train_lora(bases[name])
    wanted = logits_of(first.model)
    save_policy(first, tmp_path / "a", FACTS, weights_dtype="float32")
    for existing, names in (("continue", ("00-sft",)), ("stack", ("00-sft", "01-dpo")), ("merge", ("00-dpo",))):
        policy = load_policy(tmp_path / "a", dtype="float32")
        policy = prepare_policy(policy, SETTINGS, existing=existing, name="dpo", seed=2)  # type: ignore[arg-type]
        assert float((logits_of(policy.model) - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
        assert policy.adapters == names
        disturb(policy.model.named_parameters(), seed=9)
        out = tmp_path / existing
        manifest = save_policy(policy, out, FACTS, weights_dtype="float32")
        again = load_policy(out, dtype="float32")
        assert torch.equal(logits_of(again.model), logits_of(policy.model))
        assert tuple(manifest.adapters) == again.adapters == names
        assert (manifest.base_hash == first.base_hash) == (existing != "merge")
    full = prepare_policy(load_policy(tmp_path / "a", dtype="float32"), None, existing="continue", name="x", seed=1)
    assert full.adapters == () and full.base_folder is None
    assert float((logits_of(full.model) - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
    save_policy(full, tmp_path / "full", FACTS, weights_dtype="float32")
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "full")), logits_of(full.model))


def test_continuing_with_settings_of_another_shape_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(train_lora(bases["llama"]), tmp_path / "a", FACTS)
    with pytest.raises(ModelError, match="rank 8"):
        prepare_policy(
            load_policy(tmp_path / "a", dtype="float32"), LoraSettings(rank=8), existing="continue", name="x", seed=1
        )


def test_the_base_is_linked_and_not_copied(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(train_lora(bases["llama"]), tmp_path / "a", FACTS)
    assert (tmp_path / "a/base/model.safetensors").samefile(bases["llama"] / "model.safetensors")
    assert (tmp_path / "a/base/config.json").samefile(bases["llama"] / "config.json")


def test_the_base_is_copied_where_links_are_not_possible(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    policy = train_lora(bases["llama"])
    save_policy(policy, tmp_path / "a", FACTS)
    assert not (tmp_path / "a/base/model.safetensors").samefile(bases["llama"] / "model.safetensors")
    assert torch.equal(logits_of(load_policy(tmp_path / "a", dtype="float32").model), logits_of(policy.model)) is False
    assert hash_weights(tmp_path / "a" / "base") == policy.base_hash


def test_the_manifest_says_what_the_artifact_is(bases: dict[str, Path], tmp_path: Path) -> None:
    manifest = save_policy(train_lora(bases["llama"]), tmp_path / "a", FACTS)
    assert manifest == load_manifest(tmp_path / "a") == verify_artifact(tmp_path / "a")
    assert (manifest.kind, manifest.key, manifest.parents, manifest.stop_ids) == ("policy", "k", ["p"], [1, 2])
    assert manifest.adapters == ["00-sft"] and manifest.config == {"learning_rate": 1e-5}
    assert manifest.ledger == {"rows_in": 3} and manifest.chat["date"] == "2024-07-26"
    assert set(manifest.versions) >= {"torch", "transformers", "peft", "posttrain", "python"}
    assert "adapters/00-sft/adapter_model.safetensors" in manifest.files and "manifest.json" not in manifest.files


def test_stop_ids_template_and_pad_equal_to_eos_survive(bases: dict[str, Path], tmp_path: Path) -> None:
    for kind, policy in (("full", load_policy(bases["llama"], dtype="float32")), ("lora", train_lora(bases["llama"]))):
        save_policy(policy, tmp_path / kind, FACTS)
        assert json.loads((tmp_path / kind / "generation_config.json").read_text())["eos_token_id"] == [1, 2]
        assert (tmp_path / kind / "chat_template.jinja").read_text() == TEMPLATE
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / kind)
        assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
        assert tokenizer.chat_template == TEMPLATE
        loaded = load_policy(tmp_path / kind, dtype="float32")
        assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == 1
        assert loaded.generation_eos_ids == (1, 2) and loaded.tokenizer_eos_ids == (1,)
        assert loaded.chat_template == TEMPLATE
        assert tuple(loaded.model.generation_config.eos_token_id) == (1, 2)


def test_truncation_that_was_switched_on_is_not_saved(bases: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(bases["llama"], dtype="float32")
    policy.tokenizer.backend_tokenizer.enable_truncation(4)
    policy.tokenizer.backend_tokenizer.enable_padding(length=8)
    save_policy(policy, tmp_path / "a", FACTS)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "a")("abcdefgh").input_ids) == 8
    assert policy.tokenizer.backend_tokenizer.truncation is not None, "the caller's tokenizer was changed"


def test_no_template_is_saved_as_no_template(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(load_policy(bases["llama"], dtype="float32"), tmp_path / "a", ArtifactFacts(None, "", (1,)))
    assert load_policy(tmp_path / "a", dtype="float32").chat_template is None


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_tied_embeddings_are_stored_once_and_load_tied(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(load_policy(bases[name], dtype="float32"), tmp_path / "a", FACTS)
    with safe_open(tmp_path / "a" / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys() and "model.embed_tokens.weight" in file.keys()  # noqa: SIM118
    model = load_policy(tmp_path / "a", dtype="float32").model
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_every_stored_dtype_loads_to_the_asked_one(
    stored: str, asked: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    policy = load_policy(bases["llama"], dtype="float32")
    save_policy(policy, tmp_path / "a", FACTS, weights_dtype=stored)
    names = {"float32": "F32", "bfloat16": "BF16"}
    assert {entry.dtype for entry in read_weight_entries(tmp_path / "a").values()} == {names[stored]}
    assert json.loads((tmp_path / "a" / "config.json").read_text())["dtype"] == stored
    loaded = load_policy(tmp_path / "a", dtype=asked).model
    assert {p.dtype for p in loaded.parameters()} == {getattr(torch, asked)}
    expected = policy.model.lm_head.weight.to(getattr(torch, stored)).to(getattr(torch, asked))
    assert torch.equal(loaded.lm_head.weight, expected)


def test_loaded_weights_do_not_change_with_the_file(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bases["llama"], tmp_path / "model"))
    policy = load_policy(folder, dtype="float32")
    before = logits_of(policy.model)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(bytes(4000))
    assert torch.equal(logits_of(policy.model), before)


def test_an_explicit_state_is_saved_instead_of_the_models_weights(bases: dict[str, Path], tmp_path: Path) -> None:
    """The trainer computes in bfloat16 and keeps float32 masters; the masters are what is saved."""
    policy = load_policy(bases["qwen2"], dtype="bfloat16")
    state = {name: torch.full(p.shape, 1.0 + 2**-15) for name, p in policy.model.named_parameters()}
    save_policy(policy, tmp_path / "a", FACTS, weights_dtype="float32", state=state)
    stored = load_file(tmp_path / "a" / "model.safetensors")
    assert stored and all(bool((tensor == 1.0 + 2**-15).all()) for tensor in stored.values())
    both = state | {"lm_head.weight": state["model.embed_tokens.weight"]}
    assert save_policy(policy, tmp_path / "b", FACTS, weights_dtype="float32", state=both) == load_manifest(
        tmp_path / "a"
    )
    head_only = {("lm_head.weight" if "embed" in name else name): tensor for name, tensor in state.items()}
    save_policy(policy, tmp_path / "c", FACTS, weights_dtype="float32", state=head_only)
    assert load_manifest(tmp_path / "c").hash == load_manifest(tmp_path / "a").hash


def test_an_explicit_state_is_saved_for_the_last_adapter_only(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(train_lora(bases["llama"]), tmp_path / "a", FACTS, weights_dtype="float32")
    policy = load_policy(tmp_path / "a", dtype="bfloat16")
    policy = prepare_policy(policy, SETTINGS, existing="stack", name="dpo", seed=3)
    state = {n: torch.full_like(p, 0.125) for n, p in policy.model.named_parameters() if p.requires_grad}
    save_policy(policy, tmp_path / "b", FACTS, weights_dtype="float32", state=state)
    first = "adapters/00-sft/adapter_model.safetensors"
    assert (tmp_path / "a" / first).read_bytes() == (tmp_path / "b" / first).read_bytes()
    loaded = load_policy(tmp_path / "b", dtype="float32").model
    assert all(bool((p == 0.125).all()) for p in adapter_parameters(loaded, "01-dpo").values())


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda s: s.pop("model.norm.weight"), "missing from the state"),
        (lambda s: s.update(other=torch.ones(1)), "no such tensor"),
        (lambda s: s.update({"model.norm.weight": torch.ones(31)}), "shape"),
        (lambda s: s.update({"lm_head.weight": torch.ones(259, 32)}), "tied to"),
        (lambda s: s["model.norm.weight"].fill_(float("nan")), "NaN"),
        (lambda s: s["model.norm.weight"].fill_(3.4e38), "infinite in bfloat16"),
    ],
    ids=["missing", "extra", "shape", "tie", "nan", "overflow"],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_left(
    change: Callable[[dict[str, torch.Tensor]], Any], finding: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    policy = load_policy(bases["qwen2"], dtype="float32")
    state = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    change(state)
    with pytest.raises(ModelError, match=finding):
        save_policy(policy, tmp_path / "out" / "a", FACTS, state=state)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_artifact_is_never_written_twice(bases: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(bases["llama"], dtype="float32")
    save_policy(policy, tmp_path / "a", FACTS)
    with pytest.raises(StorageError, match="exists already"):
        save_policy(policy, tmp_path / "a", FACTS)


def test_large_weights_are_sharded_and_hash_as_in_one_file(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(bases["llama"], dtype="float32")
    one = save_policy(policy, tmp_path / "one", FACTS, weights_dtype="float32")
    monkeypatch.setattr(artifacts, "_SHARD_SIZE", "40KB")
    many = save_policy(policy, tmp_path / "many", FACTS, weights_dtype="float32")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) >= 3
    assert one.base_hash == many.base_hash and one.hash != many.hash
    for load in (lambda f: load_policy(f, dtype="float32").model, AutoModelForCausalLM.from_pretrained):
        assert torch.equal(logits_of(load(tmp_path / "many")), logits_of(policy.model))
    adapted = prepare_policy(
        load_policy(tmp_path / "many", dtype="float32"), SETTINGS, existing="stack", name="x", seed=1
    )
    save_policy(adapted, tmp_path / "lora", FACTS)
    assert hash_weights(tmp_path / "lora" / "base") == one.base_hash


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt2", "gpt_neox", "phi3"])
def test_architectures_whose_checkpoints_are_stored_in_another_form_make_the_round_trip(
    model_type: str, tmp_path: Path
) -> None:
    """Experts are stored one by one and held stacked; GPT-2's layers are transposed, GPT-NeoX's head renamed."""
    from posttrain.models.making import make_model

    shapes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    }  # fmt: skip
    grouped = shapes | {"num_key_value_heads": 2, "head_dim": 8}
    variants: dict[str, dict[str, Any]] = {
        "mixtral": grouped | {"num_local_experts": 4},
        "qwen3_moe": grouped | {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
        "gpt_neox": shapes,
        "phi3": shapes | {"num_key_value_heads": 2},
    }
    tokenizer = make_tokenizer()
    model = make_model({"model_type": model_type, **variants[model_type]}, tokenizer, 3)
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    policy = load_policy(tmp_path / "theirs", dtype="float32")
    wanted = logits_of(model)
    assert torch.equal(logits_of(policy.model), wanted)
    save_policy(policy, tmp_path / "ours", FACTS, weights_dtype="float32")
    assert torch.equal(logits_of(load_policy(tmp_path / "ours", dtype="float32").model), wanted)
    assert torch.equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "ours")), wanted)
    assert hash_weights(tmp_path / "ours") == hash_weights(tmp_path / "theirs")

    adapted = prepare_policy(policy, SETTINGS, existing="stack", name="sft", seed=1)
    assert float((logits_of(adapted.model) - wanted).abs().max()) <= 1e-5
    disturb(adapted.model.named_parameters())
    changed = logits_of(adapted.model)
    save_policy(adapted, tmp_path / "lora", FACTS, weights_dtype="float32")
    assert torch.equal(logits_of(load_policy(tmp_path / "lora", dtype="float32").model), changed)
    assert float((logits_of(merge_adapters(adapted.model)) - changed).abs().max()) <= 1e-5 * float(changed.abs().max())
