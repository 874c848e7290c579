"""From a name to a policy: folders, Hub ids, dtypes, the facts of a policy, and the tiny real model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM

from posttrain.core.errors import ModelError
from posttrain.models.adapters import prepare_policy
from posttrain.models.artifacts import save_policy
from posttrain.models.exporting import export_policy
from posttrain.models.loading import load_model, load_policy, load_tokenizer, resolve_model
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.making import make_model
from posttrain.models.manifest import ArtifactFacts
from posttrain.models.weights import hash_weights
from tests.models.tiny_models import ARCHITECTURES, EOS, TEMPLATE, disturb, logits_of, make_tokenizer, save_tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "llama")


def test_a_folder_is_found_relative_to_the_root_or_absolute(llama: Path) -> None:
    assert resolve_model("llama", root=llama.parent) == llama
    assert resolve_model("./llama", root=llama.parent).samefile(llama)
    assert resolve_model(str(llama), root=Path("/")) == llama


@pytest.mark.parametrize("reference", ["./nothing", "/no/such/folder", "nothing", "~/model", "a/b/c", "../x", "a b/c"])
def test_what_is_neither_folder_nor_hub_id_is_refused_without_asking_the_hub(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("the Hub was asked"))
    with pytest.raises(ModelError, match="no folder") as caught:
        resolve_model(reference, root=tmp_path)
    assert caught.value.cure


def test_a_hub_id_offline_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither on disk nor can the Hub be reached") as caught:
        resolve_model("owner/some-model", root=tmp_path)
    assert caught.value.place == "owner/some-model"


class _Response:
    status_code = 404
    headers: dict[str, str] = {}  # noqa: RUF012  # the attribute that the error class reads
    request = None


@pytest.mark.parametrize(
    ("error", "finding"),
    [
        (lambda: LocalEntryNotFoundError("secret-token-in-url"), "neither on disk"),
        (lambda: RepositoryNotFoundError("secret-token-in-url", response=_Response()), "no such model"),
        (lambda: HfHubHTTPError("secret-token-in-url", response=_Response()), "download failed"),
        (lambda: ConnectionError("secret-token-in-url"), "neither on disk"),
        (lambda: OSError("secret-token-in-url"), "download failed"),
    ],
    ids=["offline", "absent", "http", "connection", "disk"],
)
def test_every_failure_of_a_download_is_one_error_without_secrets(
    error: Any, finding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=finding) as caught:
        resolve_model("hub:owner/some-model", revision="main", root=tmp_path)
    assert "secret" not in str(caught.value) and caught.value.place == "owner/some-model@main"


def test_a_download_asks_for_safetensors_and_no_code_or_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, Any] = {}

    def answer(name: str, **arguments: Any) -> str:
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert resolve_model("owner/model", revision="abc", root=tmp_path) == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/model", "abc")
    files = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    files += ["tokenizer.json", "chat_template.jinja", "generation_config.json", "tokenizer.model"]
    bad = ["pytorch_model.bin", "modeling_x.py", "original/consolidated.00.pth", "original/params.json", "x.pt"]
    bad += ["consolidated.safetensors", "training_args.bin", "onnx/model.onnx"]
    kept = filter_repo_objects(
        [*files, *bad], allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == files


def test_the_same_seed_makes_the_same_model_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    models = [make_model(ARCHITECTURES["qwen3"], make_tokenizer(), seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    models.append(make_model(ARCHITECTURES["qwen3"], make_tokenizer(), 3))
    states = [model.state_dict() for model in models]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]) and torch.equal(states[0][name], states[3][name])
    assert not torch.equal(states[0]["model.embed_tokens.weight"], states[2]["model.embed_tokens.weight"])
    assert models[0].config.vocab_size == len(make_tokenizer()) and models[0].config.eos_token_id == 1


@pytest.mark.parametrize(
    "values", [{"model_type": "none-such"}, {"vocab_size": 10}, {"num_attention_heads": 0}], ids=str
)
def test_an_architecture_that_cannot_be_made_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        make_model(ARCHITECTURES["llama"] | {"head_dim": None} | values, make_tokenizer(), 0)
    assert caught.value.place == "architecture"


def test_the_facts_of_a_policy_come_from_its_files(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 1], "temperature": 0.6}))
    policy = load_policy(folder, dtype="float32")
    assert policy.generation_eos_ids == (1, 2) and policy.tokenizer_eos_ids == (1,)
    assert policy.chat_template == TEMPLATE and policy.adapters == () and policy.manifest is None
    assert policy.hash == policy.base_hash == hash_weights(folder) and policy.base_folder == folder
    assert policy.model.generation_config.temperature == 0.6
    assert not policy.model.training
    path.unlink()
    assert load_policy(folder, dtype="float32").generation_eos_ids == (1,)


def test_several_templates_give_the_default_one_or_are_refused(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    entries = [{"name": "default", "template": "{{ 'one' }}"}, {"name": "tool_use", "template": "{{ 'two' }}"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": entries}))
    assert load_policy(folder, dtype="float32").chat_template == "{{ 'one' }}"
    entries[0]["name"] = "rag"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": entries}))
    with pytest.raises(ModelError, match="several chat templates"):
        load_policy(folder, dtype="float32")


def test_a_tokenizer_that_transformers_rebuilds_with_tokens_the_model_lacks_is_refused(tmp_path: Path) -> None:
    """transformers reads any tokenizer beside a Qwen2 model as a Qwen2Tokenizer, which adds its own eos."""
    folder = save_tiny(tmp_path / "model", "qwen2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace(EOS, "</s>"))
    with pytest.raises(ModelError, match="adds token id 259"):
        load_policy(folder, dtype="float32")


def test_a_missing_pad_token_stays_missing(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "model"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    assert load_tokenizer(folder).pad_token_id is None


@pytest.mark.parametrize(("argument", "value"), [("dtype", "int8"), ("attention", "no_such_attention")])
def test_dtypes_and_attentions_that_do_not_exist_are_refused(llama: Path, argument: str, value: str) -> None:
    arguments: dict[str, Any] = {"dtype": "float32", argument: value}
    with pytest.raises(ModelError, match=value):
        load_model(llama, **arguments)


def test_loading_leaves_the_global_generator_alone(llama: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    load_policy(llama, dtype="bfloat16")
    assert torch.equal(torch.get_rng_state(), state)


def test_eager_attention_is_used_where_the_architecture_has_no_fused_one(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "gemma2", "gemma2")
    model = load_model(folder, dtype="float32")
    assert torch.equal(logits_of(model), logits_of(AutoModelForCausalLM.from_pretrained(folder)))


def test_the_weights_hash_depends_on_names_values_and_dtype_alone(tmp_path: Path) -> None:
    first = save_tiny(tmp_path / "a")
    assert hash_weights(first) == hash_weights(save_tiny(tmp_path / "b"))
    assert hash_weights(first) != hash_weights(save_tiny(tmp_path / "c", seed=1))
    assert hash_weights(first) != hash_weights(save_tiny(tmp_path / "d", dtype=torch.bfloat16))
    (first / "README.md").write_text("not a weight")
    assert hash_weights(first) == hash_weights(tmp_path / "b")


@pytest.mark.real_data
def test_the_tiny_real_model_keeps_its_stories_through_lora_save_merge_and_export(
    real_data: Path, tmp_path: Path
) -> None:
    source = real_data / "tiny-llama-stories260k" / "hf"
    policy = load_policy(source, dtype="float32")
    assert policy.generation_eos_ids == (1, 2) and policy.tokenizer.pad_token_id == 2 and policy.chat_template is None
    ids = policy.tokenizer("Once upon a time", return_tensors="pt").input_ids
    story = policy.model.generate(ids, max_new_tokens=40, do_sample=False)
    text = policy.tokenizer.decode(story[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")

    adapted = prepare_policy(policy, LoraSettings(rank=4), existing="continue", name="sft", seed=1)
    assert torch.equal(adapted.model.generate(input_ids=ids, max_new_tokens=40, do_sample=False), story)
    disturb(adapted.model.named_parameters())
    changed = logits_of(adapted.model)
    facts = ArtifactFacts(None, "", policy.generation_eos_ids)
    save_policy(adapted, tmp_path / "a", facts, weights_dtype="float32")
    again = load_policy(tmp_path / "a", dtype="float32")
    assert torch.equal(logits_of(again.model), changed) and again.base_hash == policy.base_hash
    report = export_policy(tmp_path / "a", tmp_path / "out")
    assert report.dtype == "float32" and report.merge_difference <= 1e-5
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float((logits_of(plain) - changed).abs().max()) <= 1e-5 * max(1.0, float(changed.abs().max()))
