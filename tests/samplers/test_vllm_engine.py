"""The sampler over vLLM itself, against transformers; needs `POSTTRAIN_VLLM_PYTHON`, the Python of its environment.

Float32 throughout, but where bfloat16 is the point: vLLM's CPU build computes in it, and log-probs agree to
1e-4 nats. Models are tiny: a random Llama, and the 260 thousand parameters of stories260K with its
attention heads widened by zeros from 8 to the 32 that vLLM's CPU kernels start at, which changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import RecipeError
from posttrain.core.records import Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings, TokenConstraint
from posttrain.models.adapters import add_adapter
from posttrain.models.lora_settings import LoraSettings
from posttrain.samplers.vllm import VllmSampler
from posttrain.samplers.vllm_process import VllmError
from tests.samplers.vllm_models import (
    NATS,
    PROMPTS,
    PYTHON,
    STOP_ID,
    assert_logprobs_agree,
    build_sampler,
    compute_logprobs_TV,
    draw,
    generate,
    load,
    perturb,
    widen_heads,
    write_random,
)
from tests.samplers.vllm_parts import is_alive, pids_of, wait_until

pytestmark = pytest.mark.skipif(not PYTHON, reason="POSTTRAIN_VLLM_PYTHON names no Python with vLLM")


@pytest.fixture(scope="module")
def stories(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen_heads(real_data / "tiny-llama-stories260k" / "hf", tmp_path_factory.mktemp("stories"))


@pytest.fixture(scope="module")
def sampler(stories: Path) -> Iterator[VllmSampler]:
    sampler = build_sampler(stories)
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def model(stories: Path) -> Any:
    return load(stories)


def test_the_widened_model_is_the_one_it_was_made_from(model: Any, real_data: Path) -> None:
    narrow = load(real_data / "tiny-llama-stories260k" / "hf")
    assert generate(narrow, PROMPTS["once"], 60) == generate(model, PROMPTS["once"], 60)


def test_greedy_ids_logprobs_and_text_are_those_of_transformers(sampler: VllmSampler, model: Any) -> None:
    for (name, _), drawn in draw(sampler, SamplingSettings(max_new_tokens=100, top_logprobs=5)).items():
        assert drawn.prompt_ids.tolist() == PROMPTS[name]
        assert drawn.ids.tolist() == generate(model, PROMPTS[name], 100)
        assert drawn.text == sampler._decode(drawn.ids.tolist())
        assert_logprobs_agree(model, drawn)
        values_TK, ids_TK = compute_logprobs_TV(model, drawn).topk(5)
        np.testing.assert_allclose(drawn.top_logprobs.logprobs_TK, values_TK.numpy(), atol=NATS)
        assert drawn.top_logprobs.ids_TK[:, 0].tolist() == ids_TK[:, 0].tolist() == drawn.ids.tolist()


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 7},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1, "top_k": 50},
        {"temperature": 1.0, "repetition_penalty": 1.3},
        {"temperature": 1.0, "constraint": TokenConstraint("regex", "[a-z ]*")},
    ],
    ids=str,
)
def test_logprobs_are_the_full_distributions_and_seeds_repeat_whatever_is_cut(
    sampler: VllmSampler, model: Any, values: dict[str, Any]
) -> None:
    settings = SamplingSettings(max_new_tokens=30, num_samples=2, top_logprobs=3, **values)
    first, second = draw(sampler, settings), draw(sampler, settings)
    assert sampler.is_repeatable
    for key, drawn in first.items():
        assert drawn.ids.tolist() == second[key].ids.tolist()
        assert_logprobs_agree(model, drawn)
        best = compute_logprobs_TV(model, drawn).topk(3).values.numpy()
        np.testing.assert_allclose(drawn.top_logprobs.logprobs_TK, best, atol=NATS)
    assert first["once", 0].ids.tolist() != first["once", 1].ids.tolist()


def test_seeded_draws_repeat_where_the_prompts_are_more_than_one_step_reads(sampler: VllmSampler) -> None:
    settings = SamplingSettings(max_new_tokens=3, temperature=1.0, num_samples=60)
    drawn = [
        {c.sample_index: c.ids.tolist() for _, c in sampler.sample([Problem("whole", [])], settings, [1])}
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1] and len({tuple(ids) for ids in drawn[0].values()}) > 20


def build_expected_V(model: Any, values: dict[str, Any]) -> torch.Tensor:
    """The distribution of the first token in transformers' own words."""
    from transformers import generation

    ids = torch.tensor([PROMPTS["long"]])
    with torch.no_grad():
        scores = model(ids).logits[:, -1].double()
    if "repetition_penalty" in values:
        scores = generation.RepetitionPenaltyLogitsProcessor(values["repetition_penalty"])(ids, scores)
    scores = scores / values["temperature"]
    if "top_k" in values:
        scores = generation.TopKLogitsWarper(values["top_k"])(ids, scores)
    if "top_p" in values:
        scores = generation.TopPLogitsWarper(values["top_p"])(ids, scores)
    if "min_p" in values:
        scores = generation.MinPLogitsWarper(values["min_p"])(ids, scores)
    return scores[0].softmax(-1)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1.5},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.7},
        {"temperature": 1.0, "min_p": 0.05, "top_k": 12},
        {"temperature": 1.0, "repetition_penalty": 1.5},
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_transformers_own_steps_say(
    sampler: VllmSampler, model: Any, values: dict[str, Any]
) -> None:
    """4,000 draws of one token: what is cut is never drawn, and the distance in total variation is chance's."""
    settings = SamplingSettings(max_new_tokens=1, num_samples=4000, **values)
    drawn = [int(c.ids[0]) for _, c in sampler.sample([Problem("long", [])], settings, [5])]
    expected_V = build_expected_V(model, values).numpy()
    counts_V = np.bincount(drawn, minlength=len(expected_V))
    assert counts_V[expected_V == 0].sum() == 0
    distance = 0.5 * np.abs(counts_V / len(drawn) - expected_V).sum()
    by_chance = [
        0.5 * np.abs(np.random.default_rng(i).multinomial(len(drawn), expected_V) / len(drawn) - expected_V).sum()
        for i in range(200)
    ]
    assert distance <= max(by_chance) * 1.2


def test_greedy_with_a_repetition_penalty_is_transformers(sampler: VllmSampler, model: Any) -> None:
    for (name, _), drawn in draw(sampler, SamplingSettings(max_new_tokens=40, repetition_penalty=1.3)).items():
        assert drawn.ids.tolist() == generate(model, PROMPTS[name], 40, repetition_penalty=1.3)
        assert_logprobs_agree(model, drawn)


def test_stop_tokens_and_stop_strings_end_a_completion(sampler: VllmSampler) -> None:
    free = draw(sampler, SamplingSettings(max_new_tokens=60))["once", 0]
    stop = int(free.ids[7])
    length = free.ids.tolist().index(stop) + 1
    drawn = draw(sampler, SamplingSettings(max_new_tokens=60, stop_ids=(stop,)))["once", 0]
    assert (drawn.ids.tolist(), drawn.finish_reason) == (free.ids[:length].tolist(), "stop")
    assert drawn.text == sampler._decode(free.ids[: length - 1].tolist())
    string = re.search(r"\w(\w+ \w)\w", free.text)[1]
    drawn = draw(sampler, SamplingSettings(max_new_tokens=60, stop_strings=(string,)))["once", 0]
    assert (drawn.text, drawn.finish_reason) == (free.text[: free.text.index(string)], "stop")
    assert string in sampler._decode(drawn.ids.tolist())
    assert string not in sampler._decode(drawn.ids[:-1].tolist())


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (TokenConstraint("regex", "(yes|no) [0-9]{3}"), r"(yes|no) [0-9]{3}"),
        (TokenConstraint("lark", 'start: "x" /[a-c]{2,4}/ "z"'), r"x[a-c]{2,4}z"),
        (
            TokenConstraint("json_schema", json.dumps({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2})),
            r"\[[\s12,]*\]",
        ),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_holds_for_the_whole_text_and_ends_with_the_policys_stop_token(
    sampler: VllmSampler, model: Any, constraint: TokenConstraint, pattern: str, temperature: float
) -> None:
    settings = SamplingSettings(max_new_tokens=60, temperature=temperature, constraint=constraint)
    found = draw(sampler, settings).values()
    for drawn in found:
        if drawn.finish_reason == "stop":
            assert re.fullmatch(pattern, drawn.text.strip() if constraint.kind == "json_schema" else drawn.text)
            assert drawn.ids[-1] == STOP_ID
        assert_logprobs_agree(model, drawn)
    # A schema lets blanks follow one another for as long as the model likes them.
    assert constraint.kind == "json_schema" or all(drawn.finish_reason == "stop" for drawn in found)


def test_a_constraint_that_is_none_is_a_recipe_error(sampler: VllmSampler) -> None:
    with pytest.raises(RecipeError, match="cannot read the constraint"):
        draw(sampler, SamplingSettings(max_new_tokens=5, constraint=TokenConstraint("regex", "[0-9")))
    assert sampler._process.num_open == 0


def test_perturbed_weights_move_the_probe_and_match_with_tied_embeddings_too(
    sampler: VllmSampler, stories: Path, model: Any
) -> None:
    before = sampler._last_probe
    other = perturb(load(stories))
    assert sampler.publish(PolicyVersion("second", model=other)) == "second"
    expected, found = sampler._last_probe
    assert np.abs(expected - before[0]).mean() > 0.1
    assert np.abs(found - expected).max() <= NATS
    for (name, _), drawn in draw(sampler, SamplingSettings(max_new_tokens=30)).items():
        assert (drawn.ids.tolist(), drawn.policy_hash) == (generate(other, PROMPTS[name], 30), "second")
    sampler.publish(PolicyVersion("first", folder=stories))
    np.testing.assert_array_equal(sampler._last_probe[1], before[1])
    drawn = draw(sampler, SamplingSettings(max_new_tokens=30))["once", 0]
    assert (drawn.ids.tolist(), drawn.policy_hash) == (generate(model, PROMPTS["once"], 30), "first")


def test_a_live_policy_with_an_adapter_is_published_merged(sampler: VllmSampler, stories: Path) -> None:
    policy = add_adapter(load(stories), LoraSettings(rank=4), "sft", seed=1)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    sampler.publish(PolicyVersion("adapter", model=policy))
    for (name, _), drawn in draw(sampler, SamplingSettings(max_new_tokens=20)).items():
        assert drawn.ids.tolist() == generate(policy, PROMPTS[name], 20)
    sampler.publish(PolicyVersion("first", folder=stories))


def test_a_reference_that_is_not_the_published_policys_stops_the_publication(
    sampler: VllmSampler, stories: Path
) -> None:
    original = sampler._compute_logprobs
    other = perturb(load(stories), 0.001)
    sampler._compute_logprobs = lambda policy, ids: original(PolicyVersion("", model=other), ids)
    with pytest.raises(VllmError, match="differ from the policy's") as caught:
        sampler.publish(PolicyVersion("first", folder=stories))
    assert caught.value.kind == "weights"
    sampler._compute_logprobs = original
    sampler.publish(PolicyVersion("first", folder=stories))


def test_killing_vllm_while_it_draws_is_an_error_with_its_last_words_and_leaves_nothing(tmp_path: Path) -> None:
    sampler = build_sampler(write_random(tmp_path / "random"))
    try:
        model = load(tmp_path / "random")
        for (name, _), drawn in draw(sampler, SamplingSettings(max_new_tokens=40)).items():
            assert drawn.ids.tolist() == generate(model, PROMPTS[name], 40)
            assert_logprobs_agree(model, drawn)
        with pytest.raises(RecipeError, match="no tokenizer"):
            draw(sampler, SamplingSettings(max_new_tokens=40, stop_strings=("a",)))
        pids = pids_of(sampler)
        threading.Timer(0.5, os.kill, (pids[1], signal.SIGKILL)).start()
        with pytest.raises(VllmError, match="SIGKILL") as caught:
            draw(sampler, SamplingSettings(max_new_tokens=150, temperature=1.0, num_samples=2000))
        assert caught.value.kind == "died" and "last words" in caught.value.found
        assert not any(is_alive(pid) for pid in pids)
    finally:
        sampler.close()


OWNER = """
import json, sys, time
from pathlib import Path
from tests.samplers.vllm_models import *
from tests.samplers.vllm_parts import pids_of
sampler = build_sampler(Path(sys.argv[1]))
print(json.dumps([pids_of(sampler), str(sampler._process.scratch)]), flush=True)
for _ in sampler.sample([Problem("once", [])] * 500, SamplingSettings(max_new_tokens=150), range(500)):
    time.sleep(1000)
"""


def test_killing_the_owner_leaves_no_vllm(stories: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(stories)], stdout=subprocess.PIPE, text=True) as owner:
        pids, scratch = json.loads(owner.stdout.readline())
        assert all(is_alive(pid) for pid in pids)
        time.sleep(0.5)
        owner.kill()
        owner.wait(60)
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert wait_until(lambda: not Path(scratch).exists())


def test_bfloat16_is_proven_within_its_rounding_and_published_weights_match(stories: Path) -> None:
    sampler = build_sampler(stories, "bfloat16")
    try:
        before = sampler._last_probe
        other = perturb(load(stories))
        sampler.publish(PolicyVersion("second", model=other))
        expected, found = sampler._last_probe
        assert np.abs(expected - before[0]).mean() > 5 * sampler._settings.tolerance_nats
        assert np.abs(found - expected).mean() <= sampler._settings.tolerance_nats
        for drawn in draw(sampler, SamplingSettings(max_new_tokens=30)).values():
            assert_logprobs_agree(other, drawn, 0.5)
    finally:
        sampler.close()


def test_heads_that_vllms_kernels_lack_are_told_as_such(real_data: Path) -> None:
    with pytest.raises(VllmError, match="head_dim=8") as caught:
        build_sampler(real_data / "tiny-llama-stories260k" / "hf")
    assert caught.value.kind == "model"


def test_a_cache_that_does_not_fit_is_told_as_memory(stories: Path) -> None:
    with pytest.raises(VllmError) as caught:
        build_sampler(stories, cache_bytes=1 << 50)
    assert caught.value.kind == "memory"
