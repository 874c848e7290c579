"""A policy's log-probs of given completions are those of full logits, whatever lies beside them in a pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import DataError
from posttrain.core.sampling import SamplingSettings
from posttrain.kernels import token_logprobs
from posttrain.kernels.attention import choose_masked_attention
from posttrain.models.heads import attention_backend, choose_layout
from posttrain.models.logprobs import compute_logprobs
from tests.kernels.test_token_logprobs import LargestTensor
from tests.samplers.test_local import draw, make_prompts, make_sampler
from tests.training.tiny import ARCHITECTURES, VOCABULARY, make_model

PROMPT_LENGTHS = (5, 1, 12, 7, 3, 20, 2)
LENGTHS = (9, 4, 0, 17, 1, 6, 30)


def make_rows(seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    random = np.random.default_rng(seed)
    return (
        [random.integers(0, VOCABULARY, length).tolist() for length in PROMPT_LENGTHS],
        [random.integers(0, VOCABULARY, length).tolist() for length in LENGTHS],
    )


@torch.no_grad()
def full_logprobs(model: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> torch.Tensor:
    """The whole log-softmax at the positions of a completion, in float64, of the row run by itself."""
    with attention_backend(model, choose_masked_attention(model)):
        logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0]
    return (logits[len(prompt) - 1 : -1].double() / temperature).log_softmax(-1)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_those_of_full_logits_in_every_architecture(name: str, temperature: float) -> None:
    model = make_model(name).eval()
    prompts, completions = make_rows()
    found = compute_logprobs(
        model, prompts, completions, top_logprobs=5, temperature=temperature, micro_batch_tokens=40
    )
    assert [len(result.logprobs_T) for result in found] == list(LENGTHS)
    for prompt, completion, result in zip(prompts, completions, found, strict=True):
        assert result.top is not None and result.top.ids_TK.shape == (len(completion), 5)
        if not completion:
            assert result.total == 0
            continue
        full = full_logprobs(model, prompt, completion, temperature)
        chosen = full.gather(1, torch.tensor(completion)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(result.logprobs_T, chosen, atol=1e-5)
        assert result.total == pytest.approx(chosen.sum(), abs=1e-4)
        values, ids = full.topk(5)
        np.testing.assert_allclose(result.top.logprobs_TK, values, atol=1e-5)
        np.testing.assert_array_equal(result.top.ids_TK, ids)


@pytest.mark.parametrize("layout", ["packed", "padded", "single"])
def test_every_layout_gives_the_same_numbers_beside_any_others_and_in_any_order(layout: Any) -> None:
    model = make_model("llama").eval()
    prompts, completions = make_rows()
    alone = [compute_logprobs(model, [p], [c], layout="single")[0] for p, c in zip(prompts, completions, strict=True)]
    for budget in (1, 25, 64, 8192):
        found = compute_logprobs(model, prompts, completions, micro_batch_tokens=budget, layout=layout)
        turned = compute_logprobs(model, prompts[::-1], completions[::-1], micro_batch_tokens=budget, layout=layout)
        for one, beside, other in zip(alone, found, turned[::-1], strict=True):
            np.testing.assert_allclose(beside.logprobs_T, one.logprobs_T, atol=2e-6)
            np.testing.assert_allclose(other.logprobs_T, one.logprobs_T, atol=2e-6)


def test_a_model_of_longrope_is_run_one_row_at_a_time() -> None:
    """Its long factors serve rows longer than the original context: a longer neighbour would change them."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
    }
    model = make_model("phi3", rope_parameters=rope, original_max_position_embeddings=16).eval()
    assert choose_layout(model) == "single"
    prompts, completions = make_rows()
    found = compute_logprobs(model, prompts, completions)
    for prompt, completion, result in zip(prompts, completions, found, strict=True):
        if completion:
            full = full_logprobs(model, prompt, completion)
            chosen = full.gather(1, torch.tensor(completion)[:, None])[:, 0]
            np.testing.assert_allclose(result.logprobs_T, chosen, atol=1e-5)
    padded = compute_logprobs(model, prompts, completions, layout="padded")
    assert np.abs(padded[1].logprobs_T - found[1].logprobs_T).max() > 1e-3


def test_passes_hold_at_most_their_tokens_longest_rows_first() -> None:
    """Rows have 31, 25, 23, 13, 4 and 3 tokens beside their last, which is only predicted; one has no completion and is
    not run. 31, 25 and 23 packed tokens get a filler.
    """
    model = make_model("llama").eval()
    prompts, completions = make_rows()
    passes: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, arguments, keywords: passes.append(keywords["input_ids"].numel()), with_kwargs=True
    )
    expected = {"packed": [32, 26, 24, 20], "padded": [31, 25, 23, 26, 3], "single": [31, 25, 23, 13, 4, 3]}
    for layout, tokens in expected.items():
        passes.clear()
        compute_logprobs(model, prompts, completions, micro_batch_tokens=32, layout=layout)  # type: ignore[arg-type]
        assert passes == tokens


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_log_probs_equal_those_that_the_engine_gave_what_it_drew(name: str) -> None:
    model = make_model(name).eval()
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=20, temperature=1.0, num_samples=3, top_logprobs=4)
    drawn = [c for row in draw(make_sampler(model, prompts, stop_ids=(3, 4)), len(prompts), settings) for c in row]
    found = compute_logprobs(model, [c.prompt_ids for c in drawn], [c.ids for c in drawn], top_logprobs=4)
    for completion, result in zip(drawn, found, strict=True):
        assert completion.top_logprobs is not None and result.top is not None
        np.testing.assert_allclose(result.logprobs_T, completion.sampler_logprobs, atol=1e-5)
        np.testing.assert_allclose(result.top.logprobs_TK, completion.top_logprobs.logprobs_TK, atol=1e-5)
        np.testing.assert_array_equal(result.top.ids_TK, completion.top_logprobs.ids_TK)


def test_a_pass_holds_the_logits_of_a_chunk_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_logprobs, "CHUNK_ELEMENTS", 0)
    vocabulary = 5000
    model = make_model("llama", vocab_size=vocabulary).eval()
    random = np.random.default_rng(0)
    completions = [random.integers(0, vocabulary, 100).tolist() for _ in range(30)]
    with LargestTensor() as seen:
        compute_logprobs(model, [[1]] * 30, completions, top_logprobs=3)
    assert seen.elements == token_logprobs.CHUNK_ROWS * vocabulary  # 3,000 tokens are scored


def test_the_model_is_left_in_its_mode_with_its_attention() -> None:
    model = make_model("llama", attention_dropout=0.5).train()
    before = model.config._attn_implementation
    first, second = (compute_logprobs(model, [[5, 6]], [[7, 8]])[0].logprobs_T for _ in range(2))
    np.testing.assert_array_equal(first, second)  # dropout is off
    assert model.training and model.config._attn_implementation == before


def test_rows_that_cannot_be_scored_are_refused() -> None:
    model = make_model("llama").eval()
    with pytest.raises(DataError, match="no predecessor") as empty:
        compute_logprobs(model, [[5], []], [[5], [6]])
    with pytest.raises(DataError, match="a prompt of 100 tokens and a completion of 30"):
        compute_logprobs(model, [[5] * 100], [[6] * 30])
    assert empty.value.place == "row 1"
    with pytest.raises(ValueError, match="2 completions for 1 prompts"):
        compute_logprobs(model, [[5]], [[5], [6]])
    with pytest.raises(ValueError, match="temperature"):
        compute_logprobs(model, [[5]], [[5]], temperature=0.0)
    assert compute_logprobs(model, [], []) == []


def test_a_row_may_have_one_token_more_than_the_context_since_the_last_is_only_predicted() -> None:
    """The tiny model's context is 128: transformers reads the first 128 of 129 tokens and predicts the last."""
    model = make_model("llama").eval()
    row = np.random.default_rng(3).integers(0, VOCABULARY, 129).tolist()
    [found] = compute_logprobs(model, [row[:100]], [row[100:]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row[:128]]), use_cache=False).logits[0, 99:].double()
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(row[100:])[:, None])[:, 0]
    np.testing.assert_allclose(found.logprobs_T, chosen, atol=1e-5)
