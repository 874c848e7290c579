"""The engine with compiled kernels: token for token what transformers generates, and what torch's operations draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.core.sampling import SamplingSettings
from posttrain.kernels import native_decoding
from posttrain.models.lean_decoding import LeanDecoder
from posttrain.models.native_decoding import NativeDecoder
from posttrain.pipeline.sampling import build_engine_model
from tests.kernels.native import load_or_skip
from tests.samplers.test_local import check_logprobs, compute_drawn_logits, draw, generate, make_prompts, make_sampler
from tests.training.tiny import make_model

WIDE = {"hidden_size": 64, "head_dim": 16}
NAMES = ["llama", "qwen2", "qwen3", "mistral", "granite"]


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    load_or_skip(native_decoding.SOURCE, {"KEY_SIZE": 16, "VALUE_SIZE": 16, "GROUP": 2}, native_decoding.HEADERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("max_rows", [3, 20])
def test_greedy_text_is_that_of_generate_token_by_token(name: str, max_rows: int) -> None:
    model = make_model(name, **WIDE).eval()
    prompts = make_prompts()
    sampler = make_sampler(model, prompts, max_rows=max_rows, prefill_tokens=16)
    assert isinstance(sampler._model.decode, NativeDecoder)
    drawn = draw(sampler, len(prompts), SamplingSettings(max_new_tokens=40))
    for prompt, (completion,) in zip(prompts, drawn, strict=True):
        assert completion.ids.tolist() == generate(model, prompt, 40)


@pytest.mark.parametrize("name", NAMES)
def test_log_probs_are_those_of_one_forward_pass(name: str) -> None:
    model = make_model(name, **WIDE).eval()
    prompts = make_prompts()
    drawn = draw(
        make_sampler(model, prompts), len(prompts), SamplingSettings(max_new_tokens=20, temperature=0.7, num_samples=3)
    )
    check_logprobs(model, drawn, 0.7)


def test_the_same_text_as_by_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("qwen3", **WIDE).eval()
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=30, temperature=1.0, num_samples=4)
    native = draw(make_sampler(model, prompts, stop_ids=(3, 4)), len(prompts), settings)
    monkeypatch.setenv("POSTTRAIN_COMPILE", "0")
    assert isinstance(build_engine_model(model, torch.float32).decode, LeanDecoder)
    plain = draw(make_sampler(model, prompts, stop_ids=(3, 4)), len(prompts), settings)
    assert [[c.ids.tolist() for c in row] for row in native] == [[c.ids.tolist() for c in row] for row in plain]


def test_text_does_not_depend_on_neighbours_rows_or_passes() -> None:
    model = make_model("llama", **WIDE).eval()
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=24, temperature=1.0, num_samples=4)
    texts = []
    for options in ({"max_rows": 32}, {"max_rows": 1}, {"max_rows": 5, "prefill_tokens": 7}, {"max_rows": 9}):
        drawn = draw(make_sampler(model, prompts, stop_ids=(3, 4, 5), **options), len(prompts), settings)
        texts.append([[completion.ids.tolist() for completion in row] for row in drawn])
    assert texts[1:] == texts[:1] * 3
    assert len({tuple(ids) for row in texts[0] for ids in row}) > 24


def test_bf16_log_probs_are_as_near_to_fp32_as_those_of_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", **WIDE, num_hidden_layers=4).eval()
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=30, temperature=1.0, num_samples=8)
    differences = []
    for compiles in ("1", "0"):
        monkeypatch.setenv("POSTTRAIN_COMPILE", compiles)
        found = []
        for row in draw(make_sampler(model, prompts, dtype=torch.bfloat16), len(prompts), settings):
            for completion in row:
                logits, chosen = compute_drawn_logits(model, completion)
                exact = logits.log_softmax(-1).gather(1, chosen)[:, 0].numpy()
                found.append(np.abs(completion.sampler_logprobs - exact).mean())
        differences.append(float(np.mean(found)))
    assert differences[0] < max(1.2 * differences[1], 0.02)
