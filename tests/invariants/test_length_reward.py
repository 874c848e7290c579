"""Longer is better: a reward for length makes length rise, whatever is trained and whoever draws.

Where a sampler kept old weights, or log-probs were those of another distribution, rewards would not come back to the
policy and length would stay where it was. The policy is taught first to answer with one to seven letters and to stop.
vLLM draws where `POSTTRAIN_VLLM_PYTHON` names the Python of its environment.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.records import Problem
from posttrain.core.sampling import PolicyVersion
from posttrain.models.artifacts import save_tokenizer
from posttrain.models.loading import load_policy
from posttrain.models.making import make_model
from posttrain.models.shadow import compute_plain_logprobs
from posttrain.pipeline.grpo_samplers import build_stage_sampler
from posttrain.pipeline.policies import open_renderer
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.tracked_metric import hash_weights_in_memory
from posttrain.training.distributed import Ranks
from tests.models.tiny_models import ARCHITECTURES, make_tokenizer
from tests.pipeline.grpo_runs import OWN, rl
from tests.pipeline.tiny_runs import Workshop, sft

pytestmark = pytest.mark.invariants

VLLM = pytest.param(
    {"type": "vllm", "context_tokens": 128, "max_sequences": 64, "cache_gb": 0.1},
    id="vllm",
    marks=pytest.mark.skipif(
        not os.environ.get("POSTTRAIN_VLLM_PYTHON"), reason="POSTTRAIN_VLLM_PYTHON names no Python with vLLM"
    ),
)
FULL: dict[str, Any] = {"learning_rate": 5e-4}
LORA: dict[str, Any] = {"learning_rate": 5e-3, "adapter": {"rank": 8}}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A policy that was taught to answer shortly, with heads as wide as vLLM's CPU kernels want them."""
    folder = tmp_path_factory.mktemp("length")
    settings = {
        **ARCHITECTURES["llama"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 256,
    }
    make_model(settings, make_tokenizer(), 3).save_pretrained(folder / "base")
    save_tokenizer(make_tokenizer(), folder / "base", None)
    made = Workshop(folder / "workshop", folder / "base")
    (made.folder / "own.py").write_text(OWN)
    questions = [{"role": "user", "content": "how long?"}]
    rows = [{"messages": [*questions, {"role": "assistant", "content": "a" * (1 + n % 7)}]} for n in range(56)]
    (made.folder / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = made.run(sft(data=[{"source": "short.jsonl"}], steps=60, batch_size=8, learning_rate=3e-3), into="taught")
    (made.folder / "policy").symlink_to(done.artifact(0))
    return made


def run(workshop: Workshop, name: str, **changes: Any) -> list[dict[str, float]]:
    """The figures of each step of a run from the taught policy."""
    path = workshop.folder / f"{name}.yaml"
    path.write_text(json.dumps({**rl(**changes), "model": "policy", "folder": f"runs/{name}"}))
    folder = run_recipe(read_recipe(path), override=["length_caps"])
    (metrics,) = (folder / "stages").glob("*/metrics.jsonl")
    return [json.loads(line) for line in metrics.read_text().splitlines()]


@pytest.mark.parametrize("sampler", ["local", VLLM])
@pytest.mark.parametrize("trained", [FULL, LORA], ids=["full weights", "LoRA"])
def test_a_reward_for_length_makes_length_rise(
    workshop: Workshop, trained: dict[str, Any], sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    sizes = {"steps": 15, "problems_per_step": 8, "group_size": 8, "max_new_tokens": 24}
    name = f"length-{len(list(workshop.folder.glob('length-*.yaml')))}"
    lines = run(workshop, name, algorithm="dr_grpo", sampler=sampler, **sizes, **trained)
    lengths = [line["completions/mean_length"] for line in lines]
    # Where every completion of a step is cut at the cap there is nothing to train on.
    lines = [line for line in lines if "sampler_mismatch/max" in line]
    mismatch = max(line["sampler_mismatch/max"] for line in lines)
    print(sampler, trained, "length", lengths[0], "to", lengths[-1], "mismatch", mismatch)
    assert sum(lengths[-3:]) > 1.5 * sum(lengths[:3]) and len(lines) > 4
    assert mismatch < 1e-3 and min(line["effective_sample_size"] for line in lines) > 0.999


@pytest.mark.parametrize("sampler", ["local", VLLM])
def test_the_mismatch_is_that_of_the_precision(
    workshop: Workshop, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    found = {}
    if sampler != "local":
        sampler = {
            **sampler,
            "dtype": "float32",
        }  # vLLM's kernels for bfloat16 want instructions that not all CPUs have
    for dtype in ("float32", "bfloat16"):
        name = f"mismatch-{'local' if sampler == 'local' else 'vllm'}-{dtype}"
        (line,) = run(workshop, name, steps=1, problems_per_step=8, group_size=8, sampler=sampler, dtype=dtype)
        found[dtype] = line["sampler_mismatch/mean"], line["sampler_mismatch/max"], line["effective_sample_size"]
    print(sampler, found)
    assert found["float32"][0] < 1e-5 and found["float32"][1] < 1e-4
    assert 1e-4 < found["bfloat16"][0] < 0.1 and found["bfloat16"][2] > 0.98


@pytest.mark.parametrize("sampler", ["local", VLLM])
def test_one_weight_that_moved_and_was_published_moves_what_the_sampler_says_of_the_same_tokens(
    workshop: Workshop, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    path = workshop.folder / "probe.yaml"
    path.write_text(json.dumps({**rl(sampler=sampler), "model": "policy"}))
    recipe = read_recipe(path)
    config: Any = recipe.stages[0].config
    problem, settings = Problem("p", [{"role": "user", "content": "how long?"}]), config.sampling
    with open_renderer(recipe, workshop.folder / "policy") as renderer:
        policy = load_policy(workshop.folder / "policy", dtype="float32", device="cpu")
        made = build_stage_sampler(config, policy, renderer, Ranks(), recipe.roots).sampler
        try:
            (_, before), *_ = sorted(made.sample([problem], settings, [1]), key=lambda one: one[1].sample_index)
            with torch.no_grad():
                policy.model.model.layers[0].self_attn.o_proj.weight[3, 5] += 0.5
            name = hash_weights_in_memory(policy, Ranks(), torch.float32)
            assert made.publish(PolicyVersion(name, model=policy.model)) == name != before.policy_hash
            (_, after), *_ = sorted(made.sample([problem], settings, [1]), key=lambda one: one[1].sample_index)
        finally:
            made.close()
    assert after.policy_hash == name
    row = torch.tensor([*after.prompt_ids, *after.ids], dtype=torch.long)
    own = compute_plain_logprobs(policy.model, row)[len(after.prompt_ids) - 1 :].numpy()
    assert np.abs(own - after.sampler_logprobs).max() < 1e-4
    if after.ids.tolist() == before.ids.tolist():
        assert np.abs(after.sampler_logprobs - before.sampler_logprobs).max() > 1e-4
