"""A tiny model with a sampler over it, and all of its completions in order: what the tests of `generate` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.generate import GenerateSampler
from tests.training.tiny import make_model

PROMPTS = [[5], [7, 8, 9], [3, 3, 3, 3, 3, 3, 3], [11, 2], [30, 31, 32, 33, 34], [6, 6], [9, 1, 9, 1]]


def make_sharp_model(name: str = "llama", **changes: Any) -> Any:
    """A model whose next tokens are neither even nor certain."""
    model = make_model(name, **changes).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def write_ids(ids: Sequence[int]) -> str:
    return " ".join(str(token) for token in ids)


def build_sampler(model: Any, prompts: Sequence[Sequence[int]] = PROMPTS, **options: Any) -> GenerateSampler:
    return GenerateSampler(
        model,
        "policy",
        lambda problems: [prompts[int(problem.problem_id)] for problem in problems],
        options.pop("decode", write_ids),
        **options,
    )


def build_problems(count: int = len(PROMPTS)) -> list[Problem]:
    return [Problem(str(index), []) for index in range(count)]


def draw(
    sampler: Any, settings: SamplingSettings, seeds: Sequence[int] | None = None, count: int = len(PROMPTS)
) -> list[Completion]:
    """Every completion, problem by problem and sample by sample."""
    seeds = range(100, 100 + count) if seeds is None else seeds
    found = {(index, c.sample_index): c for index, c in sampler.sample(build_problems(count), settings, list(seeds))}
    assert len(found) == count * settings.num_samples
    return [found[index, sample] for index in range(count) for sample in range(settings.num_samples)]


def score(model: Any, completion: Completion) -> torch.Tensor:
    """The logits that each token of a completion was drawn from, by one forward pass: fp32 [T, V]."""
    ids = torch.tensor([[*completion.prompt_ids.tolist(), *completion.ids.tolist()]])
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0, len(completion.prompt_ids) - 1 : -1]
