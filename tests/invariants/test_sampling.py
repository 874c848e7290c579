"""The whole engine: whatever runs beside a sequence, drawn as enumeration says, with the trainer's log-probs."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from posttrain.core.records import Completion, Problem, RenderedSample
from posttrain.core.sampling import SamplingSettings, derive_sample_seed
from posttrain.kernels.drawing import compute_uniforms
from posttrain.models.adapters import add_adapter, stack_adapter
from posttrain.models.lora_settings import LoraSettings
from posttrain.objectives.sft import compute_sft_loss
from posttrain.samplers import pool
from posttrain.training.batches import build_micro_batch
from tests.kernels.draws import Case, exact_logprobs
from tests.samplers.test_local import draw, make_prompts, make_sampler
from tests.training.tiny import make_model, make_policy

pytestmark = pytest.mark.invariants

NUM_POOLS = 200
PROBLEMS = 24
SAMPLES = 4
T = 16
STOPS = (3, 4, 5)


class Uniforms:
    """Every uniform number that the engine asks for, by seed and step; the same pair must give the same number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_pair: dict[tuple[int, int], float] = {}
        self.num_asked = 0
        monkeypatch.setattr(pool, "compute_uniforms", self)

    def __call__(self, seeds_B: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
        uniforms = compute_uniforms(seeds_B, steps_B)
        for seed, step, uniform in zip(seeds_B.tolist(), steps_B.tolist(), uniforms.tolist(), strict=True):
            assert self.by_pair.setdefault((seed, step), uniform) == uniform
            self.num_asked += 1
        return uniforms


def draw_pool(model: Any, prompts: list[list[int]], chosen: Sequence[int], dtype: Any, **options: Any) -> Any:
    """Completions of some problems, each with its own seed, by problem and sample."""
    settings = SamplingSettings(max_new_tokens=T, temperature=1.0, num_samples=options.pop("num_samples", SAMPLES))
    sampler = make_sampler(model, [prompts[index] for index in chosen], dtype=dtype, stop_ids=STOPS, **options)
    problems = [Problem(str(place), []) for place in range(len(chosen))]
    seeds = [1000 + index for index in chosen]
    return {(chosen[place], c.sample_index): c for place, c in sampler.sample(problems, settings, seeds)}


def is_on_a_border(model: Any, completion: Completion, step: int) -> bool:
    """Whether a step's uniform number is so near the border of two tokens that rounding decides between them."""
    ids = [*completion.prompt_ids.tolist(), *completion.ids[:step].tolist()]
    with torch.no_grad():
        shares = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
    uniform = compute_uniforms(torch.tensor([completion.seed]), torch.tensor([step]))
    return float((shares.cumsum(0) - uniform).abs().min()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_uniform_numbers_nor_in_fp32_the_text_depend_on_what_is_drawn_beside(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 pools of random problems, orders, samples, rows and passes; each sequence against itself drawn alone."""
    model = make_model("llama", dtype=dtype).eval()
    generator = random.Random(0)
    prompts = make_prompts([generator.randint(1, 40) for _ in range(PROBLEMS)])
    uniforms = Uniforms(monkeypatch)
    alone = {}
    for index in range(PROBLEMS):
        alone |= draw_pool(model, prompts, [index], dtype, max_rows=1)
    longest = {derive_sample_seed(1000 + index, sample): len(c.ids) for (index, sample), c in alone.items()}
    assert set(uniforms.by_pair) == {(seed, step) for seed, length in longest.items() for step in range(length)}
    compared = 0
    for _ in range(NUM_POOLS):
        found = draw_pool(
            model,
            prompts,
            generator.sample(range(PROBLEMS), generator.randint(1, PROBLEMS)),
            dtype,
            num_samples=generator.randint(1, SAMPLES),
            max_rows=generator.randint(1, 40),
            prefill_tokens=generator.randint(4, 200),
        )
        for key, completion in found.items():
            expected = alone[key]
            assert completion.seed == expected.seed
            if dtype != torch.float32:
                continue
            compared += 1
            pairs = itertools.zip_longest(completion.ids.tolist(), expected.ids.tolist())
            step = next((number for number, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
            if step is None:
                np.testing.assert_allclose(completion.sampler_logprobs, expected.sampler_logprobs, atol=1e-5)
            else:
                assert is_on_a_border(model, expected, step), (key, step)
    assert uniforms.num_asked > 20 * len(uniforms.by_pair)  # each was asked for in many pools
    assert compared > 20 * NUM_POOLS or dtype != torch.float32
    assert {seed for seed, _ in uniforms.by_pair} == set(longest)


VOCABULARY = 7
STOP = 2
PROMPT = [5, 1, 6]
NUM_DRAWS = 20_000
CASES: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 3},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.15},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 0.8},
)


def enumerate_completions(model: Any, settings: SamplingSettings) -> dict[tuple[int, ...], float]:
    """The log-prob of every completion, by one forward pass for each beginning and the definitions in float64."""
    exact: dict[tuple[int, ...], float] = {}

    def extend(ids: tuple[int, ...], logprob: float) -> None:
        if len(ids) == settings.max_new_tokens or STOP in ids:
            exact[ids] = logprob
            return
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*PROMPT, *ids]]), use_cache=False).logits[0, -1:]
        seen = torch.zeros(1, VOCABULARY, dtype=torch.bool)
        seen[0, [*PROMPT, *ids]] = True
        for token, share in enumerate(exact_logprobs(Case(logits, settings, seen, None))[0].tolist()):
            extend((*ids, token), logprob + share)

    extend((), 0.0)
    return exact


def compute_p_value(counts: Counter[tuple[int, ...]], exact: dict[tuple[int, ...], float]) -> float:
    """The chi-square test of counts against exact shares; completions that are expected below 5 times are one cell."""
    total = sum(counts.values())
    expected = {ids: total * math.exp(logprob) for ids, logprob in exact.items()}
    large = [ids for ids, count in expected.items() if count >= 5]
    cells = [(counts[ids], expected[ids]) for ids in large]
    rest = total - sum(count for _, count in cells)
    if rest > 1e-6 * total:
        cells.append((total - sum(count for count, _ in cells), rest))
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells)
    return float(chi2.sf(statistic, len(cells) - 1))


@pytest.mark.parametrize("values", CASES, ids=str)
def test_drawn_frequencies_are_those_of_exact_enumeration(values: dict[str, Any]) -> None:
    """Seven tokens, of which one ends: 259 completions of at most three tokens, drawn 20,000 times."""
    model = make_model("llama", vocab_size=VOCABULARY, initializer_range=0.3, pad_token_id=0).eval()
    settings = SamplingSettings(max_new_tokens=3, num_samples=100, **values)
    exact = enumerate_completions(model, settings)
    assert len(exact) == 1 + 6 * 1 + 36 * 7
    assert sum(map(math.exp, exact.values())) == pytest.approx(1)
    count = NUM_DRAWS // settings.num_samples
    drawn = draw(make_sampler(model, [PROMPT] * count, stop_ids=[STOP], max_rows=512), count, settings)
    counts: Counter[tuple[int, ...]] = Counter()
    for completion in itertools.chain.from_iterable(drawn):
        ids = tuple(completion.ids.tolist())
        counts[ids] += 1
        assert completion.drawing_logprobs is not None
        assert float(completion.drawing_logprobs.sum()) == pytest.approx(exact[ids], abs=1e-4)
    assert sum(counts.values()) == NUM_DRAWS
    assert compute_p_value(counts, exact) > 1e-3
    # The power of the test: the same draws are refused at a temperature that is a fifth higher.
    other = SamplingSettings(max_new_tokens=3, **values | {"temperature": values["temperature"] * 1.2})
    assert compute_p_value(counts, enumerate_completions(model, other)) < 1e-9


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2"])
@pytest.mark.parametrize("kind", ["full", "lora", "stacked"])
def test_log_probs_are_the_trainers_own(name: str, kind: str) -> None:
    model = make_model(name).eval()
    if kind != "full":
        model = add_adapter(model, LoraSettings(rank=2, alpha=4), "sft", 3)
    if kind == "stacked":
        model = stack_adapter(model, LoraSettings(rank=3, alpha=6), "dpo", 4)
    with torch.no_grad():
        for number, (parameter_name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(number))
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=30, temperature=0.7, top_p=0.9, num_samples=4)
    drawn = draw(make_sampler(model, prompts, stop_ids=STOPS, max_rows=11), len(prompts), settings)
    completions = list(itertools.chain.from_iterable(drawn))
    samples = []
    for completion in completions:
        ids = np.concatenate([completion.prompt_ids, completion.ids])
        is_trainable = np.arange(len(ids)) >= len(completion.prompt_ids)
        samples.append(RenderedSample(ids, np.zeros(len(ids), np.uint8), is_trainable))
    batch = build_micro_batch(samples, [str(number) for number in range(len(samples))])
    with torch.no_grad():
        scores = make_policy(model).eval()(batch, compute_sft_loss, batch.weights_N)
    found = np.concatenate([completion.sampler_logprobs for completion in completions])  # type: ignore[misc]
    np.testing.assert_allclose(found, scores.logprobs_N, atol=1e-5)
    assert np.ptp(found) > 1  # the policy is neither even nor certain
