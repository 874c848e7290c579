"""The sampler for every model: transformers' own greedy text, exact log-probs, any batching, nothing left changed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.core.errors import DataError, SamplerError
from posttrain.core.sampling import PolicyVersion, SamplingSettings, derive_sample_seed
from posttrain.kernels.attention import register_packed_attention
from posttrain.models.adapters import add_adapter
from posttrain.models.lora_settings import LoraSettings
from posttrain.pipeline.sampling import build_engine_model
from posttrain.samplers.local import LocalSampler
from tests.samplers.generating import (
    PROMPTS,
    build_problems,
    build_sampler,
    draw,
    make_sharp_model,
    score,
    write_ids,
)
from tests.training.tiny import ARCHITECTURES, VOCABULARY

STATEFUL: dict[str, dict[str, Any]] = {
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2},
    "recurrent_gemma": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8,
    },
}  # fmt: skip
"""Models that keep their state elsewhere than in a cache; rwkv reads padding as if it were text."""


@pytest.fixture(scope="module")
def model() -> Any:
    return make_sharp_model()


@pytest.mark.parametrize("name", [*ARCHITECTURES, *STATEFUL])
def test_greedy_tokens_equal_those_of_transformers_for_every_prompt_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in STATEFUL:
        monkeypatch.setitem(ARCHITECTURES, name, {"model_type": name, "vocab_size": VOCABULARY, **STATEFUL[name]})
    model = make_sharp_model(name)
    drawn = draw(build_sampler(model, batch_size=3), SamplingSettings(max_new_tokens=12))
    for prompt, completion in zip(PROMPTS, drawn, strict=True):
        ids = torch.tensor([prompt])
        for token in completion.ids.tolist():
            with torch.no_grad():
                assert int(model(ids, use_cache=False).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
        assert completion.prompt_ids.tolist() == prompt and len(completion.ids) == 12


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_what_a_problem_draws_does_not_depend_on_its_batch(model: Any, temperature: float) -> None:
    settings = SamplingSettings(max_new_tokens=10, temperature=temperature)
    alone = draw(build_sampler(model, batch_size=1), settings)
    for size in (3, len(PROMPTS)):
        together = draw(build_sampler(model, batch_size=size, stop_ids=[1, 4, 20]), settings)
        for one, other in zip(alone, together, strict=True):
            length = len(other.ids)
            assert one.ids[:length].tolist() == other.ids.tolist()
            np.testing.assert_allclose(one.sampler_logprobs[:length], other.sampler_logprobs, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_it_draws_what_the_houses_engine_draws(name: str) -> None:
    model = make_sharp_model(name)
    settings = SamplingSettings(max_new_tokens=15, temperature=1.0, num_samples=3, top_logprobs=2)
    stop_ids = (1, 4, 20, 33)
    ours = draw(build_sampler(model, stop_ids=stop_ids), settings)
    engine = LocalSampler(
        build_engine_model(model, torch.float32),
        "policy",
        lambda problems: [PROMPTS[int(problem.problem_id)] for problem in problems],
        write_ids,
        stop_ids=stop_ids,
    )
    for one, other in zip(ours, draw(engine, settings), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert (one.text, one.finish_reason, one.seed) == (other.text, other.finish_reason, other.seed)
        np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=1e-5)
        np.testing.assert_allclose(one.top_logprobs.logprobs_TK, other.top_logprobs.logprobs_TK, atol=1e-5)


def test_equal_seeds_draw_equal_tokens_whatever_the_global_generators_hold(model: Any) -> None:
    settings = SamplingSettings(max_new_tokens=10, temperature=1.0)
    first = draw(build_sampler(model), settings)
    torch.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    second = draw(build_sampler(model), settings)
    assert [completion.ids.tolist() for completion in first] == [completion.ids.tolist() for completion in second]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_another_seed_draws_other_tokens(model: Any) -> None:
    settings = SamplingSettings(max_new_tokens=20, temperature=1.0)
    first = draw(build_sampler(model), settings, seeds=[1] * len(PROMPTS))
    second = draw(build_sampler(model), settings, seeds=[2] * len(PROMPTS))
    assert all(one.ids.tolist() != other.ids.tolist() for one, other in zip(first, second, strict=True))


def test_samples_of_a_problem_differ_and_the_first_is_the_one_that_is_drawn_alone(model: Any) -> None:
    one = draw(build_sampler(model), SamplingSettings(max_new_tokens=12, temperature=1.0))
    several = draw(
        build_sampler(model, batch_size=4), SamplingSettings(max_new_tokens=12, temperature=1.0, num_samples=3)
    )
    assert [c.ids.tolist() for c in several[::3]] == [c.ids.tolist() for c in one]
    assert len({tuple(c.ids.tolist()) for c in several}) == len(several)
    assert [(c.problem_id, c.sample_index) for c in several] == [(str(p), s) for p in range(7) for s in range(3)]
    assert [c.seed for c in several] == [derive_sample_seed(100 + p, s) for p in range(7) for s in range(3)]


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_log_probs_equal_those_of_one_forward_pass(model: Any, temperature: float) -> None:
    for completion in draw(build_sampler(model), SamplingSettings(max_new_tokens=8, temperature=temperature)):
        logits, chosen = score(model, completion).double(), torch.from_numpy(completion.ids).long()[:, None]
        full = logits.log_softmax(-1).gather(1, chosen)[:, 0]
        drawing = (logits / temperature).log_softmax(-1).gather(1, chosen)[:, 0] if temperature else full * 0
        np.testing.assert_allclose(completion.sampler_logprobs, full, atol=1e-5)
        np.testing.assert_allclose(completion.drawing_logprobs, drawing, atol=1e-5)


def test_a_completion_ends_with_its_stop_token_which_its_text_leaves_out(model: Any) -> None:
    free = draw(build_sampler(model), SamplingSettings(max_new_tokens=12))
    stop = int(free[0].ids[4])
    for sampler, stop_ids in ((build_sampler(model), (stop,)), (build_sampler(model, stop_ids=[stop]), ())):
        stopped = draw(sampler, SamplingSettings(max_new_tokens=12, stop_ids=stop_ids))
        for whole, completion in zip(free, stopped, strict=True):
            ids = whole.ids.tolist()
            length = ids.index(stop) + 1 if stop in ids else len(ids)
            assert completion.ids.tolist() == ids[:length]
            assert len(completion.sampler_logprobs) == len(completion.drawing_logprobs) == length
            assert completion.finish_reason == ("stop" if stop in ids else "length")
            assert completion.text == write_ids([token for token in ids[:length] if token != stop])
        assert stopped[0].finish_reason == "stop"


def test_a_stop_token_at_the_length_limit_is_a_stop(model: Any) -> None:
    free = draw(build_sampler(model), SamplingSettings(max_new_tokens=1))
    stop = int(free[0].ids[0])
    assert draw(build_sampler(model), SamplingSettings(max_new_tokens=1, stop_ids=(stop,)))[0].finish_reason == "stop"


def test_rows_that_have_ended_leave_the_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass runs as many rows as have not ended."""
    sampler, rows, forward = build_sampler(model, stop_ids=range(0, VOCABULARY, 3)), [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda *inputs, **named: rows.append(len(named["input_ids"])) or forward(*inputs, **named)
    )
    sampler._padded._parameters = {"position_ids": None, "logits_to_keep": None, "past_key_values": None}
    lengths = [len(c.ids) for c in draw(sampler, SamplingSettings(max_new_tokens=30, temperature=1.0))]
    assert rows[2:] == [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert len(set(lengths)) > 2


def test_the_model_is_as_it_was_whenever_a_completion_is_handed_over(model: Any) -> None:
    model.train()
    model.set_attn_implementation(register_packed_attention())
    try:
        settings = SamplingSettings(max_new_tokens=9, temperature=1.0, stop_ids=tuple(range(0, VOCABULARY, 3)))
        for _ in build_sampler(model).sample(build_problems(), settings, range(7)):
            assert model.training and torch.is_grad_enabled()
            assert model.config._attn_implementation == register_packed_attention()
    finally:
        model.set_attn_implementation("eager")
        model.eval()


def test_closing_the_iterator_cancels_the_rest(model: Any) -> None:
    sampler = build_sampler(model, batch_size=2)
    settings = SamplingSettings(max_new_tokens=4, temperature=1.0)
    iterator = sampler.sample(build_problems(), settings, range(7))
    next(iterator)
    with pytest.raises(SamplerError, match="while completions are being drawn"):
        sampler.publish(PolicyVersion("next", model=model))
    iterator.close()
    assert list(iterator) == []
    assert sampler.publish(PolicyVersion("next", model=model)) == "next"
    assert {c.policy_hash for c in draw(sampler, settings)} == {"next"}
    sampler.close()
    sampler.close()


def test_published_weights_are_drawn_from_and_changed_ones_are_not_drawn_from_before_they_are_published() -> None:
    model = make_sharp_model()
    sampler, settings = build_sampler(model), SamplingSettings(max_new_tokens=6)
    before = draw(sampler, settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.tensor([PROMPTS[2]]), labels=torch.tensor([PROMPTS[2]])).loss.backward()
    optimizer.step()
    with pytest.raises(SamplerError, match="weights have changed since policy policy was published"):
        draw(sampler, settings)
    assert sampler.publish(PolicyVersion("trained", model=model)) == "trained"
    after = draw(sampler, settings)
    assert {c.policy_hash for c in after} == {sampler.policy_hash} == {"trained"}
    assert [c.ids.tolist() for c in after] != [c.ids.tolist() for c in before]
    for completion in after:
        full = score(model, completion).log_softmax(-1).max(-1).values
        np.testing.assert_allclose(completion.sampler_logprobs, full, atol=1e-5)


def test_another_models_weights_and_adapters_are_drawn_from_once_they_are_published() -> None:
    sampler, settings = build_sampler(make_sharp_model()), SamplingSettings(max_new_tokens=6)
    plain = draw(sampler, settings)
    adapted = add_adapter(make_sharp_model(), LoraSettings(rank=4), "00-sft", seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    sampler.publish(PolicyVersion("adapted", model=adapted))
    drawn = draw(sampler, settings)
    assert [c.ids.tolist() for c in drawn] != [c.ids.tolist() for c in plain]
    for completion in drawn:
        full = score(adapted, completion).log_softmax(-1).max(-1).values
        np.testing.assert_allclose(completion.sampler_logprobs, full, atol=1e-4)


def test_a_policy_that_is_not_in_this_process_cannot_be_published(model: Any) -> None:
    with pytest.raises(SamplerError, match="without a live model"):
        build_sampler(model).publish(PolicyVersion("elsewhere"))


def test_prompts_that_cannot_be_answered_are_refused_before_anything_is_drawn() -> None:
    model = make_sharp_model(max_position_embeddings=64)
    sampler = build_sampler(model, prompts=[[1] * 60, []])
    with pytest.raises(DataError, match=r"at 0.*\n.*at most 64 tokens"):
        sampler.sample(build_problems(1), SamplingSettings(max_new_tokens=5), [0])
    with pytest.raises(DataError, match=r"at 1: the prompt is empty"):
        sampler.sample(build_problems(2), SamplingSettings(max_new_tokens=1), [0, 0])
    assert len(list(sampler.sample(build_problems(1), SamplingSettings(max_new_tokens=4), [0]))) == 1


def test_one_seed_a_problem_is_needed_and_no_problem_has_no_completion(model: Any) -> None:
    with pytest.raises(ValueError, match="1 seeds for 7 problems"):
        build_sampler(model).sample(build_problems(), SamplingSettings(max_new_tokens=1), [0])
    assert list(build_sampler(model).sample([], SamplingSettings(max_new_tokens=1), [])) == []


def test_logits_that_are_not_finite_end_in_an_error() -> None:
    model = make_sharp_model()
    with torch.no_grad():
        model.lm_head.weight[7, 0] = float("nan")
    with pytest.raises(SamplerError, match="no distribution"):
        draw(build_sampler(model), SamplingSettings(max_new_tokens=2, temperature=1.0))
