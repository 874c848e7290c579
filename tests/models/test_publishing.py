"""A policy as another process takes it: plain weights with the same logits, and log-probs to compare."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain.core.errors import ModelError
from posttrain.core.sampling import PolicyVersion
from posttrain.models.adapters import add_adapter, stack_adapter
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_model, load_tokenizer
from posttrain.models.publishing import compute_published_logprobs, write_plain_policy
from tests.models.tiny_models import (
    ARCHITECTURES,
    FACTS,
    SETTINGS,
    disturb,
    logits_of,
    make_tiny,
    save_tiny,
    train_lora,
)

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
IDS = [5, 9, 200, 31, 31, 8]
MERGED_LOGITS = 5e-5  # a merged product is summed in another order than the two that it replaces


@every_architecture
def test_a_live_policy_with_adapters_is_written_merged_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    model = stack_adapter(add_adapter(make_tiny(name), SETTINGS, "sft", seed=1), SETTINGS, "dpo", seed=2)
    disturb(model.named_parameters())
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    write_plain_policy(PolicyVersion("p", model=model), tmp_path, dtype="float32")
    assert model.training and before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    plain = load_model(tmp_path, dtype="float32")
    assert float((logits_of(plain) - logits_of(model.eval())).abs().max()) <= MERGED_LOGITS


def test_a_live_policy_without_adapters_is_written_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    model = make_tiny("qwen2")
    write_plain_policy(PolicyVersion("p", model=model), tmp_path, dtype="bfloat16")
    plain = load_model(tmp_path, dtype="float32").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(plain[key], value.bfloat16().float())


@pytest.mark.parametrize("is_live", [True, False])
def test_an_artifact_with_adapters_is_written_merged_with_its_tokenizer(tmp_path: Path, is_live: bool) -> None:
    policy = train_lora(save_tiny(tmp_path / "base"))
    save_policy(policy, tmp_path / "artifact", FACTS, weights_dtype="float32")
    (tmp_path / "out").mkdir()
    version = PolicyVersion("p", model=policy.model if is_live else None, folder=tmp_path / "artifact")
    write_plain_policy(version, tmp_path / "out", dtype="float32")
    plain = load_model(tmp_path / "out", dtype="float32")
    assert float((logits_of(plain) - logits_of(policy.model)).abs().max()) <= MERGED_LOGITS
    assert load_tokenizer(tmp_path / "out").get_vocab() == policy.tokenizer.get_vocab()


def test_the_logprobs_are_those_of_each_next_token_and_the_model_goes_on_training(tmp_path: Path) -> None:
    model = make_tiny("llama").train()
    found = compute_published_logprobs(PolicyVersion("p", model=model), IDS)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(torch.tensor([IDS])).logits[0].double()
    expected = [float(logits[i].log_softmax(-1)[token]) for i, token in enumerate(IDS[1:])]
    assert found == pytest.approx(expected, abs=1e-12)
    policy = train_lora(save_tiny(tmp_path / "base"))
    save_policy(policy, tmp_path / "artifact", FACTS, weights_dtype="float32")
    of_folder = compute_published_logprobs(PolicyVersion("p", folder=tmp_path / "artifact"), IDS)
    assert of_folder == pytest.approx(
        compute_published_logprobs(PolicyVersion("p", model=policy.model), IDS), abs=MERGED_LOGITS
    )


def test_a_policy_of_neither_a_model_nor_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither"):
        write_plain_policy(PolicyVersion("p"), tmp_path, dtype="float32")
    with pytest.raises(ModelError, match="neither"):
        compute_published_logprobs(PolicyVersion("p"), IDS)
