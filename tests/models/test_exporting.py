"""Export: what comes out behaves as the artifact does in plain transformers, or nothing comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.errors import ModelError, StorageError
from posttrain.models import exporting
from posttrain.models.adapters import prepare_policy
from posttrain.models.artifacts import save_policy
from posttrain.models.exporting import export_policy, list_conversations
from posttrain.models.loading import load_policy
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.manifest import ArtifactFacts
from tests.models.tiny_models import TEMPLATE, disturb, logits_of, save_tiny

DATED_TEMPLATE = "{{ strftime_now('%d %b %Y') }}{% if thinking %}<think>{% endif %}\n" + TEMPLATE
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


def _make_artifact(root: Path, name: str = "llama", template: str | None = TEMPLATE, **chat: Any) -> Path:
    policy = load_policy(save_tiny(root / "base", name), dtype="float32")
    policy = prepare_policy(policy, LoraSettings(rank=4), existing="stack", name="sft", seed=1)
    disturb(policy.model.named_parameters())
    facts = ArtifactFacts(template, "0" * 32, (1,), chat=chat)
    save_policy(policy, root / "artifact", facts, weights_dtype="float32")
    return root / "artifact"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _make_artifact(tmp_path_factory.mktemp("export"))


def test_the_parity_check_asks_twenty_different_conversations() -> None:
    conversations = list_conversations()
    assert len({json.dumps(conversation) for conversation in conversations}) == len(conversations) == 20
    assert {message["role"] for c in conversations for message in c} == {"system", "user", "assistant"}


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "llama"])
def test_an_exported_adapter_is_one_plain_model_with_the_same_logits(name: str, tmp_path: Path) -> None:
    artifact = _make_artifact(tmp_path, name)
    report = export_policy(artifact, tmp_path / "out")
    assert (report.num_conversations, report.dtype) == (20, "float32")
    assert 20 <= report.num_tokens <= 20 * 32 and report.merge_difference <= 1e-5
    wanted = logits_of(load_policy(artifact, dtype="float32").model)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float((logits_of(plain) - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE
    assert plain.generation_config.eos_token_id == [1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


def test_export_to_bfloat16_rounds_the_merged_weights_once(artifact: Path, tmp_path: Path) -> None:
    export_policy(artifact, tmp_path / "full", weights_dtype="float32")
    assert export_policy(artifact, tmp_path / "half", weights_dtype="bfloat16").dtype == "bfloat16"
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    assert all(torch.equal(half[name], full[name].to(torch.bfloat16)) for name in full)


def test_a_template_with_a_date_and_arguments_is_exported_as_it_was_trained_with(tmp_path: Path) -> None:
    artifact = _make_artifact(
        tmp_path, template=DATED_TEMPLATE, date="2024-07-26", template_arguments={"thinking": True}
    )
    assert export_policy(artifact, tmp_path / "out").num_conversations == 20


def test_conversations_that_the_template_refuses_are_left_out(tmp_path: Path) -> None:
    report = export_policy(_make_artifact(tmp_path, template=NO_SYSTEM), tmp_path / "out")
    assert report.num_conversations == 15


def test_a_template_that_refuses_everything_is_an_error(tmp_path: Path) -> None:
    artifact = _make_artifact(tmp_path, template="{{ raise_exception('never') }}")
    with pytest.raises(ModelError, match="refuses"):
        export_policy(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _tamper_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant: ", "assistant:  "))


def _tamper_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] += 0.05
    save_file(tensors, path, metadata={"format": "pt"})


def _tamper_nan(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})


def _tamper_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-2}))


def _tamper_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(values))


def _tamper_stop(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2]}))


@pytest.mark.parametrize(
    ("tamper", "finding"),
    [
        (_tamper_template, "other token ids"),
        (_tamper_tokenizer, "other token ids"),
        (_tamper_weight, "logits that differ"),
        (_tamper_config, "logits that differ"),
        (_tamper_nan, "NaN or infinite"),
        (_tamper_stop, "stop tokens"),
    ],
)
def test_an_export_that_went_wrong_is_refused_and_leaves_nothing(
    tamper: Callable[[Path], None],
    finding: str,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each file is changed between writing and checking, as a faulty writer would."""
    save_tokenizer = exporting.save_tokenizer

    def save_and_tamper(tokenizer: Any, folder: Path, template: str | None) -> None:
        save_tokenizer(tokenizer, folder, template)
        tamper(folder)

    monkeypatch.setattr(exporting, "save_tokenizer", save_and_tamper)
    with pytest.raises(ModelError, match=finding):
        export_policy(artifact, tmp_path / "exports" / "out")
    assert list((tmp_path / "exports").iterdir()) == []


def test_a_damaged_artifact_is_not_exported(artifact: Path, tmp_path: Path) -> None:
    damaged = _make_artifact(tmp_path)
    path = damaged / "adapters" / "00-sft" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="its content has changed"):
        export_policy(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten_and_a_plain_folder_is_no_artifact(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        export_policy(artifact, tmp_path / "out")
    with pytest.raises(ModelError, match="no manifest"):
        export_policy(artifact.parent / "base", tmp_path / "other")
