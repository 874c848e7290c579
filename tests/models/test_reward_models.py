"""Reward models: what is saved is what scores, whatever shares the batch, and transformers reads the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.core.errors import DataError, ModelError
from posttrain.kernels.readings import Reading
from posttrain.models.loading import load_policy, read_context_tokens
from posttrain.models.reward_models import (
    FACTS_FILE,
    LoadedRewardModel,
    RewardFacts,
    build_member,
    load_reward_model,
    make_head,
    name_reward_model,
)
from posttrain.models.reward_scoring import RewardScoring
from tests.models.reward_models import PAIRS, draw_ids, make_members, read, save_members
from tests.models.tiny_models import make_tiny, make_tokenizer

EOS = 1
SEVERAL = replace(PAIRS, offsets=((0.0,), (1.0,)))


def score_alone(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> float:
    """By transformers' own forward pass of the one row."""
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, 0])


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_what_is_saved_and_loaded_scores_as_transformers_does(tmp_path: Path, architecture: str) -> None:
    from transformers import AutoModelForSequenceClassification

    [member] = make_members(architecture=architecture)
    prompt, completions = draw_ids(9, 1), [[*draw_ids(size, size), EOS] for size in (2, 7, 12)]
    expected = [score_alone(member, prompt, completion) for completion in completions]
    folder = save_members(tmp_path / "rm", [member])
    [found] = RewardScoring(load_reward_model(folder)).score([read(prompt, *completions)])
    assert [float(values.squeeze()) for values in found] == pytest.approx(expected, abs=1e-5)
    elsewhere = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert [score_alone(elsewhere, prompt, completion) for completion in completions] == pytest.approx(
        expected, abs=1e-6
    )
    assert float(np.std(expected)) > 0.05  # scores that differ, or nothing is shown


def test_a_score_does_not_depend_on_what_shares_the_batch_or_the_prompt() -> None:
    scoring = RewardScoring(_loaded(), micro_batch_tokens=64)
    prompt = draw_ids(11, 3)
    target = [*draw_ids(6, 4), EOS]
    alone = float(scoring.score([read(prompt, target)])[0][0].squeeze())
    mates = [read(draw_ids(size, size), [*draw_ids(size, 50 + size), EOS]) for size in (1, 5, 30, 17, 2)]
    crowd = [*mates[:2], read(prompt, [9, EOS], target, draw_ids(40, 8)), *mates[2:]]
    found = RewardScoring(_loaded(), micro_batch_tokens=4096).score(crowd)[2][1]
    assert float(found.squeeze()) == pytest.approx(alone, abs=1e-5)
    assert float(scoring.score(crowd)[2][1].squeeze()) == pytest.approx(alone, abs=1e-5)


def test_an_end_token_inside_the_prompt_is_not_where_the_score_is_read() -> None:
    [member] = make_members()
    prompt = [5, EOS, 8, EOS, 9]
    [found] = RewardScoring(_loaded()).score([read(prompt, [44, 45, EOS], [44, EOS, 45, EOS])])
    assert float(found[0].squeeze()) == pytest.approx(score_alone(member, prompt, [44, 45, EOS]), abs=1e-5)
    assert float(found[1].squeeze()) == pytest.approx(score_alone(member, prompt, [44, EOS, 45, EOS]), abs=1e-5)


def test_pad_that_is_eos_hides_no_end_of_turn_from_transformers(tmp_path: Path) -> None:
    folder = save_members(tmp_path / "rm", make_members())
    config = json.loads((folder / "config.json").read_text())
    assert make_tokenizer().pad_token_id == EOS
    assert config["pad_token_id"] is None


def test_members_are_scored_each_and_put_on_their_scale(tmp_path: Path) -> None:
    members = make_members(3)
    facts = replace(PAIRS, offsets=((0.5,), (-1.0,), (0.0,)))
    folder = save_members(tmp_path / "rm", members, facts)
    assert sorted(path.name for path in (folder / "members").iterdir()) == ["00", "01", "02"]
    prompt, completion = draw_ids(4, 1), [*draw_ids(5, 2), EOS]
    [[values]] = RewardScoring(load_reward_model(folder)).score([read(prompt, completion)])
    expected = [score_alone(member, prompt, completion) for member in members]
    assert values[:, 0, 0] == pytest.approx([expected[0] - 0.5, expected[1] + 1.0, expected[2]], abs=1e-5)


def test_several_outputs_come_back_in_the_units_of_their_ratings(tmp_path: Path) -> None:
    [member] = make_members(num_outputs=2)
    facts = RewardFacts("regression", ("help", "harm"), ((0.0, 0.0),), (2.0, 0.5), (3.0, -1.0))
    folder = save_members(tmp_path / "rm", [member], facts)
    prompt, completion = draw_ids(4, 1), draw_ids(5, 2)
    [[values]] = RewardScoring(load_reward_model(folder)).score([read(prompt, completion)])
    with torch.no_grad():
        raw = member(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].tolist()
    assert values[0, 0] == pytest.approx([raw[0] * 2 + 3, raw[1] / 2 - 1], abs=1e-5)


def test_a_completion_may_be_read_at_several_tokens() -> None:
    [member] = make_members()
    prompt, completion = draw_ids(4, 1), draw_ids(8, 2)
    reading = Reading(np.asarray(prompt, np.int32), (np.asarray(completion, np.int32),), (np.array([2, 5, 7]),))
    [[values]] = RewardScoring(_loaded()).score([reading])
    expected = [score_alone(member, prompt, completion[: place + 1]) for place in (2, 5, 7)]
    assert values[0, :, 0] == pytest.approx(expected, abs=1e-5)


def test_the_name_is_by_content(tmp_path: Path) -> None:
    folders = [save_members(tmp_path / str(i), make_members(), PAIRS) for i in range(2)]
    other = save_members(tmp_path / "other", make_members(), replace(PAIRS, means=(0.1,)))
    names = [name_reward_model(folder) for folder in (*folders, other)]
    assert names[0] == names[1] != names[2]
    assert load_reward_model(other).hash == names[2]


def test_a_head_is_drawn_from_its_own_stream() -> None:
    state = torch.get_rng_state()
    first, same, other = (make_head(32, 1, seed).weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(make_head(4096, 1, 1).weight.detach().std()) == pytest.approx(4097**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("reading", "found"),
    [
        (read([5], [999, 1]), "token id 999"),
        (read([5] * 600, [1]), "601 tokens"),
        (read([5], []), "without a token"),
    ],
)
def test_what_cannot_be_scored_is_named(reading: Reading, found: str) -> None:
    with pytest.raises(DataError, match=found):
        RewardScoring(_loaded()).score([reading])


def test_a_reward_model_is_no_policy_and_a_policy_no_reward_model(tmp_path: Path) -> None:
    folder = save_members(tmp_path / "rm", make_members())
    with pytest.raises(ModelError, match="reward_model") as caught:
        load_policy(folder, dtype="float32")
    assert "scorers" in caught.value.cure
    several = save_members(tmp_path / "several", make_members(2), SEVERAL)
    with pytest.raises(ModelError, match="a reward model of several members") as caught:
        read_context_tokens(several)  # what a recipe asks of its model first
    assert "scorers" in caught.value.cure
    make_tiny("llama").save_pretrained(tmp_path / "policy")
    with pytest.raises(ModelError, match="LlamaForCausalLM, a model of language without a head of scores"):
        load_reward_model(tmp_path / "policy")


def test_bad_facts_and_changed_files_are_refused(tmp_path: Path) -> None:
    folder = save_members(tmp_path / "rm", make_members())
    path = folder / FACTS_FILE
    path.write_text(path.read_text().replace("preference", "preferencE"))
    with pytest.raises(ModelError, match="content has changed"):
        load_reward_model(folder)
    (folder / "manifest.json").unlink()  # a folder from elsewhere has no manifest
    assert load_reward_model(folder).facts.outputs == ("preferencE",)
    facts = json.loads(path.read_text())
    changes = [{"offsets": [[1.0], [1.0], [1.0]]}, {"offsets": []}, {"separator": "x"}, {"learned": "process"},
               {"outputs": []}, {"scales": ["much"]}, {"means": None}]  # fmt: skip
    for text in ('{"schema": 1}', "[]", "{", *(json.dumps({**facts, **change}) for change in changes)):
        path.write_text(text)
        with pytest.raises(ModelError):
            load_reward_model(folder)


def test_an_architecture_without_scores_is_refused_with_the_cure() -> None:
    from posttrain.models.making import make_model

    settings = {"model_type": "cohere", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
                "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    model = make_model(settings, make_tokenizer(), 0)
    with pytest.raises(ModelError, match="no model with scores") as caught:
        build_member(model, torch.zeros(1, 32), make_tokenizer())
    assert "another architecture" in caught.value.cure


def _loaded() -> LoadedRewardModel:
    return LoadedRewardModel(tuple(make_members()), PAIRS, make_tokenizer(), None, "h", Path("."))


def test_members_without_a_manifest_have_a_name_by_content_and_a_missing_one_is_named(tmp_path: Path) -> None:
    folder = save_members(tmp_path / "rm", make_members(2), SEVERAL)
    (folder / "manifest.json").unlink()
    name = name_reward_model(folder)
    assert load_reward_model(folder).hash == name
    facts = json.loads((folder / FACTS_FILE).read_text())
    (folder / FACTS_FILE).write_text(json.dumps({**facts, "offsets": [[2.0], [1.0]]}))
    assert name_reward_model(folder) != name
    (folder / "members" / "01" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json in rm/members/01"):
        load_reward_model(folder)
