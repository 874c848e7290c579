"""The sampler against transformers' own greedy generation, exact probabilities, and any batching."""

import random

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.core.errors import DataError
from posttrain.core.records import Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.generate import GenerateSampler, draw_tokens

VOCABULARY = 40
PROMPTS = [[5], [7, 8, 9], [3, 3, 3, 3, 3, 3, 3], [11, 2], [30, 31, 32, 33, 34], [6, 6], [9, 1, 9, 1]]


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (1.0 if "embed" in name else 0.3))
    return model.eval()


def build_sampler(model, prompts=PROMPTS, **settings):
    by_id = {f"p{index}": prompt for index, prompt in enumerate(prompts)}
    return GenerateSampler(
        model,
        "policy",
        lambda problems: [by_id[problem.problem_id] for problem in problems],
        lambda ids: " ".join(str(token) for token in ids),
        **settings,
    )


def build_problems(count=7):
    return [Problem(f"p{index}", []) for index in range(count)]


def draw(sampler, settings, seeds=None):
    problems = build_problems()
    seeds = list(range(100, 100 + len(problems))) if seeds is None else seeds
    found = dict(sampler.sample(problems, settings, seeds))
    return [found[index] for index in range(len(problems))]


def test_greedy_tokens_equal_those_of_transformers_for_every_prompt_alone(model):
    drawn = draw(build_sampler(model, batch_size=3), SamplingSettings(max_new_tokens=12))
    for prompt, completion in zip(PROMPTS, drawn, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert completion.prompt_ids.tolist() == prompt
        assert completion.ids.tolist() == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_what_a_problem_draws_does_not_depend_on_its_batch(model, temperature):
    settings = SamplingSettings(max_new_tokens=10, temperature=temperature)
    alone = draw(build_sampler(model, batch_size=1), settings)
    together = draw(build_sampler(model, batch_size=len(PROMPTS)), settings)
    for one, other in zip(alone, together, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=1e-5)


def test_equal_seeds_draw_equal_tokens_whatever_the_global_generators_hold(model):
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


def test_another_seed_draws_other_tokens(model):
    settings = SamplingSettings(max_new_tokens=20, temperature=1.0)
    first = draw(build_sampler(model), settings, seeds=[1] * len(PROMPTS))
    second = draw(build_sampler(model), settings, seeds=[2] * len(PROMPTS))
    assert all(one.ids.tolist() != other.ids.tolist() for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_sampler_logprobs_equal_those_of_one_forward_pass(model, temperature):
    for completion in draw(build_sampler(model), SamplingSettings(max_new_tokens=8, temperature=temperature)):
        ids = torch.tensor([[*completion.prompt_ids.tolist(), *completion.ids.tolist()]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(completion.prompt_ids) - 1 : -1].double()
        expected = (logits / (temperature or 1.0)).log_softmax(-1)
        expected = expected[torch.arange(len(completion.ids)), torch.tensor(completion.ids, dtype=torch.long)]
        np.testing.assert_allclose(completion.sampler_logprobs, expected.numpy(), atol=1e-5)


def test_a_completion_ends_with_its_stop_token_which_its_text_leaves_out(model):
    free = draw(build_sampler(model), SamplingSettings(max_new_tokens=12))
    stop = int(free[0].ids[4])
    for sampler, stop_ids in ((build_sampler(model), (stop,)), (build_sampler(model, stop_ids=[stop]), ())):
        stopped = draw(sampler, SamplingSettings(max_new_tokens=12, stop_ids=stop_ids))
        for whole, completion in zip(free, stopped, strict=True):
            ids = whole.ids.tolist()
            length = ids.index(stop) + 1 if stop in ids else len(ids)
            assert completion.ids.tolist() == ids[:length]
            assert len(completion.sampler_logprobs) == length
            assert completion.finish_reason == ("stop" if stop in ids else "length")
            assert completion.text == " ".join(str(token) for token in ids[:length] if token != stop)
        assert stopped[0].finish_reason == "stop"


def test_a_stop_token_at_the_length_limit_is_a_stop(model):
    free = draw(build_sampler(model), SamplingSettings(max_new_tokens=1))
    stop = int(free[0].ids[0])
    assert draw(build_sampler(model), SamplingSettings(max_new_tokens=1, stop_ids=(stop,)))[0].finish_reason == "stop"


def test_completions_carry_policy_seed_and_problem(model):
    seeds = list(range(7, 7 + len(PROMPTS)))
    drawn = draw(build_sampler(model), SamplingSettings(max_new_tokens=2), seeds)
    assert [completion.seed for completion in drawn] == seeds
    assert [completion.problem_id for completion in drawn] == [f"p{index}" for index in range(len(PROMPTS))]
    assert {completion.policy_hash for completion in drawn} == {"policy"}


def test_the_model_is_left_in_the_mode_that_it_was_in(model):
    model.train()
    try:
        draw(build_sampler(model), SamplingSettings(max_new_tokens=1))
        assert model.training
    finally:
        model.eval()


def test_a_prompt_that_leaves_no_room_is_refused_with_its_problem(model):
    sampler = build_sampler(model, prompts=[[1] * 60])
    with pytest.raises(DataError, match=r"p0.*\n.*at most 64 tokens"):
        list(sampler.sample(build_problems(1), SamplingSettings(max_new_tokens=5), [0]))
    assert len(list(sampler.sample(build_problems(1), SamplingSettings(max_new_tokens=4), [0]))) == 1


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(DataError, match="empty"):
        list(build_sampler(model, prompts=[[]]).sample(build_problems(1), SamplingSettings(max_new_tokens=1), [0]))


def test_one_seed_a_problem_is_needed(model):
    with pytest.raises(ValueError, match="1 seeds for 7 problems"):
        list(build_sampler(model).sample(build_problems(), SamplingSettings(max_new_tokens=1), [0]))


def test_drawing_inverts_the_distribution_function_worked_by_hand():
    """Probabilities 0.2, 0.5, 0.3 cumulate to 0.2, 0.7, 1.0."""
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(5, 3)
    uniforms = np.array([0.0, 0.19, 0.21, 0.69, 0.999999])
    ids, logprobs = draw_tokens(logits, 1.0, uniforms)
    assert ids.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(logprobs.exp(), [0.2, 0.2, 0.5, 0.5, 0.3], rtol=1e-6)


def test_temperature_divides_the_logits():
    """Probabilities 0.2 and 0.8 at temperature 0.5 are 0.04 / 0.68 and 0.64 / 0.68."""
    logits = torch.log(torch.tensor([[0.2, 0.8]]))
    ids, logprobs = draw_tokens(logits, 0.5, np.array([0.05]))
    assert ids.tolist() == [0]
    assert float(logprobs.exp()[0]) == pytest.approx(0.04 / 0.68, rel=1e-6)


def test_tokens_are_drawn_as_often_as_they_are_probable():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 12, generator=generator) * 2
    count = 40_000
    ids, _ = draw_tokens(logits.expand(count, 12), 1.3, np.random.default_rng(2).random(count))
    expected = (logits[0].double() / 1.3).softmax(-1) * count
    statistic = ((torch.bincount(ids, minlength=12) - expected) ** 2 / expected).sum()
    assert float(statistic) < 31.3  # chi square with 11 degrees of freedom, p = 0.001


def test_a_token_of_no_probability_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    uniforms = np.array([0.0, 0.25, 0.5, 0.75, 1 - 2**-53])
    ids, _ = draw_tokens(logits.expand(5, 5), 1.0, uniforms)
    assert ids.tolist() == [1, 1, 3, 3, 3]
