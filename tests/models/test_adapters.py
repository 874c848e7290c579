"""Adapters: nothing changes at step 0, start values come from the seed alone, PEFT reads what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from posttrain.core.config import parse_config
from posttrain.core.errors import ModelError, PosttrainError
from posttrain.models.adapter_files import load_adapter, save_adapter
from posttrain.models.adapters import (
    adapter_parameters,
    add_adapter,
    continue_adapter,
    list_adapters,
    merge_adapters,
    stack_adapter,
)
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.making import make_model
from tests.models.tiny_models import ARCHITECTURES, disturb, logits_of, make_tiny, make_tokenizer

SETTINGS = LoraSettings(rank=4, alpha=8.0)
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def assert_same_logits(first: torch.Tensor, second: torch.Tensor) -> None:
    assert float((first - second).abs().max()) <= 1e-5


@every_architecture
def test_a_new_adapter_leaves_the_logits_and_trains_alone(name: str) -> None:
    model = make_tiny(name)
    before = logits_of(model)
    model = add_adapter(model, SETTINGS, "sft", seed=1)
    assert_same_logits(logits_of(model), before)
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable and all(".lora_" in key and ".00-sft." in key for key in trainable)
    disturb(model.named_parameters())
    assert float((logits_of(model) - before).abs().max()) > 1e-2


@every_architecture
def test_continued_stacked_and_merged_adapters_leave_the_logits(name: str, tmp_path: Path) -> None:
    model = add_adapter(make_tiny(name), SETTINGS, "sft", seed=1)
    disturb(model.named_parameters())
    trained = logits_of(model)
    save_adapter(model, "00-sft", tmp_path, torch.float32, None)

    continued = continue_adapter(load_adapter(make_tiny(name), tmp_path, "00-sft"))
    assert_same_logits(logits_of(continued), trained)
    assert all(parameter.requires_grad for parameter in adapter_parameters(continued, "00-sft").values())

    stacked = stack_adapter(continued, LoraSettings(rank=2, init="gaussian"), "dpo", seed=2)
    assert list_adapters(stacked) == ("00-sft", "01-dpo")
    assert_same_logits(logits_of(stacked), trained)
    frozen = [p.clone() for p in adapter_parameters(stacked, "00-sft").values()]
    disturb(stacked.named_parameters(), seed=6)
    assert all(torch.equal(a, b) for a, b in zip(frozen, adapter_parameters(stacked, "00-sft").values(), strict=True))

    twice = logits_of(stacked)
    assert float((twice - trained).abs().max()) > 1e-3
    merged = merge_adapters(stacked)
    assert not list_adapters(merged) and not any("lora" in key for key, _ in merged.named_parameters())
    assert float((logits_of(merged) - twice).abs().max()) <= 1e-5 * max(1.0, float(twice.abs().max()))
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_merging_in_bfloat16_rounds_once() -> None:
    """Each merged weight is the float32 sum rounded to bfloat16, within half a unit in the last place."""
    model = make_tiny("llama").to(torch.bfloat16)
    weight = model.model.layers[0].self_attn.q_proj.weight.detach().float()
    model = add_adapter(model, SETTINGS, "sft", seed=1)
    disturb(model.named_parameters())
    values = adapter_parameters(model, "00-sft")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    wanted = weight + values[key.format("B")].float() @ values[key.format("A")].float() * 2.0
    merged = merge_adapters(model)
    assert torch.equal(merged.model.layers[0].self_attn.q_proj.weight, wanted.to(torch.bfloat16))


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_start_values_come_from_the_seed_and_not_from_the_global_generator(init: str) -> None:
    settings = LoraSettings(rank=4, init=init)  # type: ignore[arg-type]
    starts = []
    for global_seed, seed in ((1, 7), (2, 7), (1, 8)):
        model = make_tiny("llama")
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        model = add_adapter(model, settings, "sft", seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        starts.append({key: value.detach().clone() for key, value in adapter_parameters(model, "00-sft").items()})
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
    a_keys = [key for key in starts[0] if ".lora_A." in key]
    assert not any(torch.equal(starts[0][key], starts[2][key]) for key in a_keys)
    assert all(bool((starts[0][key] == 0).all()) for key in starts[0] if ".lora_B." in key)
    assert all(float(starts[0][key].abs().max()) > 0 for key in a_keys)


def test_start_values_have_the_documented_spread() -> None:
    """Kaiming uniform with a = sqrt(5) on 32 inputs lies in +-1/sqrt(32) = +-0.1768 with deviation 0.1021;
    gaussian with rank 64 has deviation 1/64 = 0.0156."""
    for init, deviation in (("kaiming", 0.1021), ("gaussian", 0.0156)):
        model = add_adapter(make_tiny("llama"), LoraSettings(rank=64, init=init), "a", seed=3)  # type: ignore[arg-type]
        values = adapter_parameters(model, "00-a")[
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        ].detach()
        assert abs(float(values.std()) - deviation) < 0.05 * deviation
        assert init == "gaussian" or float(values.abs().max()) <= 0.17678


def test_all_linear_covers_every_linear_layer_but_the_head() -> None:
    model = add_adapter(make_tiny("llama"), SETTINGS, "sft", seed=1)
    parts = {key.split(".lora_")[0].rsplit(".", 1)[-1] for key in adapter_parameters(model, "00-sft")}
    assert parts == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(adapter_parameters(model, "00-sft")) == 2 * 2 * 7


def test_dropout_acts_in_the_trained_adapter_and_never_in_a_frozen_one() -> None:
    model = add_adapter(make_tiny("llama"), LoraSettings(rank=4, dropout=0.5), "sft", seed=1)
    disturb(model.named_parameters())
    model.train()
    with torch.no_grad():
        ids = torch.arange(8)[None]
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        stacked = stack_adapter(model, SETTINGS, "dpo", seed=2).train()
        assert torch.equal(stacked(input_ids=ids).logits, stacked(input_ids=ids).logits)


def test_adapters_are_float32_on_a_bfloat16_base() -> None:
    model = add_adapter(make_tiny("llama").to(torch.bfloat16), SETTINGS, "sft", seed=1)
    assert {value.dtype for value in adapter_parameters(model, "00-sft").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "targets"), [("llama", ["no_such_proj"]), ("qwen2", ["lm_head"]), ("llama", ["embed_tokens"])]
)
def test_targets_that_cannot_carry_an_adapter_are_refused(name: str, targets: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        add_adapter(make_tiny(name), LoraSettings(targets=targets), "sft", seed=1)
    assert targets[0] in str(caught.value) and caught.value.cure


def test_adapter_operations_in_the_wrong_order_are_refused_with_the_cure() -> None:
    plain = make_tiny("llama")
    for action in (continue_adapter, merge_adapters, lambda model: stack_adapter(model, SETTINGS, "x", 1)):
        with pytest.raises(ModelError, match="no adapter"):
            action(plain)
    adapted = add_adapter(plain, SETTINGS, "sft", seed=1)
    with pytest.raises(ModelError, match="stack another"):
        add_adapter(adapted, SETTINGS, "dpo", seed=1)
    with pytest.raises(ModelError, match="small letters"):
        stack_adapter(adapted, SETTINGS, "a.b", seed=1)


def test_settings_refuse_what_cannot_be_meant() -> None:
    for values in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": []}, {"init": "pissa"}, {"rang": 8}):
        with pytest.raises(PosttrainError) as caught:
            parse_config(LoraSettings, values, place="stages[0].lora")
        assert next(iter(values)) in str(caught.value)
    assert LoraSettings(rank=8).effective_alpha == 16.0


def test_saving_an_explicit_state_keeps_its_float32_values(tmp_path: Path) -> None:
    model = add_adapter(make_tiny("llama"), SETTINGS, "sft", seed=1)
    state = {k: torch.full_like(p, 1.0 + 2**-20) for k, p in model.named_parameters() if p.requires_grad}
    save_adapter(model, "00-sft", tmp_path, torch.float32, state)
    loaded = load_adapter(make_tiny("llama"), tmp_path, "00-sft")
    assert all(bool((p == 1.0 + 2**-20).all()) for p in adapter_parameters(loaded, "00-sft").values())
    state.pop(next(iter(state)))
    with pytest.raises(ModelError, match="differ at"):
        save_adapter(model, "00-sft", tmp_path, torch.float32, state)


def test_an_adapter_that_peft_wrote_loads_with_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], use_rslora=True, task_type="CAUSAL_LM")
    model = get_peft_model(make_tiny("qwen3"), config)
    disturb(model.named_parameters())
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert_same_logits(logits_of(load_adapter(make_tiny("qwen3"), tmp_path, "00-theirs")), logits_of(model))


def _write_adapter(folder: Path, **changes: object) -> Path:
    model = add_adapter(make_tiny("llama"), SETTINGS, "sft", seed=1)
    save_adapter(model, "00-sft", folder, torch.float32, None)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_an_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    folder = _write_adapter(tmp_path)
    with pytest.raises(ModelError, match="this base"):
        load_adapter(make_model(ARCHITECTURES["llama"] | {"hidden_size": 64}, make_tokenizer(), 0), folder, "00-sft")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"(a+)+$": 4}},
        {"target_modules": ["gate_projection"]},
        {"target_modules": None},
        {"r": 10**9},
        {"lora_alpha": "many"},
    ],
    ids=str,
)
def test_adapter_configurations_that_are_not_plain_lora_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = _write_adapter(tmp_path, **changes)
    with pytest.raises(ModelError) as caught:
        load_adapter(make_tiny("llama"), folder, "00-sft")
    assert caught.value.place and caught.value.cure


def test_a_target_pattern_is_not_run_but_read_off_the_tensors(tmp_path: Path) -> None:
    """The pattern would take exponential time on any module name; the adapter loads all the same."""
    folder = _write_adapter(tmp_path, target_modules=r"(([a-z_.0-9]+)+)+!")
    plain = make_tiny("llama")
    before = logits_of(plain)
    assert_same_logits(logits_of(load_adapter(plain, folder, "00-sft")), before)


def test_the_library_that_an_adapter_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_library.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "adapter"
    folder.mkdir()
    _write_adapter(folder, auto_mapping={"base_model_class": "X", "parent_library": "trap_library"})
    load_adapter(make_tiny("llama"), folder, "00-sft")
    assert not (tmp_path / "ran").exists()


def test_plain_peft_stacks_what_was_saved(tmp_path: Path) -> None:
    model = add_adapter(make_tiny("llama"), SETTINGS, "sft", seed=1)
    disturb(model.named_parameters())
    model = stack_adapter(model, SETTINGS, "dpo", seed=2)
    disturb(model.named_parameters())
    for name in list_adapters(model):
        (tmp_path / name).mkdir()
        save_adapter(model, name, tmp_path / name, torch.float32, None)
    plain = PeftModel.from_pretrained(make_tiny("llama"), tmp_path / "00-sft", adapter_name="00-sft")
    plain.load_adapter(tmp_path / "01-dpo", adapter_name="01-dpo")
    plain.base_model.set_adapter(["00-sft", "01-dpo"])
    assert_same_logits(logits_of(plain), logits_of(model))
