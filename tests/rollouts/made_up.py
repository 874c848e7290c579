"""A sampler that writes what it is told to, in an order of its own, and a scorer of lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from posttrain.core.records import Completion, Group, Outcome, Problem, Rollout
from posttrain.core.sampling import SamplingSettings, derive_sample_seed

SETTINGS = SamplingSettings(max_new_tokens=8, temperature=1.0, num_samples=3)


def make_problems(count: int) -> list[Problem]:
    return [Problem(f"p{number}", [{"role": "user", "content": str(number)}]) for number in range(count)]


def make_completion(problem: str, sample: int, seed: int = 0) -> Completion:
    """Some tokens that follow from the seed."""
    random = np.random.default_rng(derive_sample_seed(seed, sample))
    ids = random.integers(0, 50, 1 + int(random.integers(0, 7))).astype(np.int32)
    logprobs = -random.random(len(ids)).astype(np.float32)
    prompt = np.arange(4, dtype=np.int32)
    return Completion(problem, sample, prompt, ids, "x" * len(ids), "stop", "policy", seed, logprobs, logprobs * 0.5)


class MixedSampler:
    """Gives completions from the last to the first, one at a time."""

    policy_hash = "policy"

    def __init__(self) -> None:
        self.num_drawn = 0

    def sample(self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]) -> Any:
        for place in reversed(range(len(problems))):
            for sample in reversed(range(settings.num_samples)):
                self.num_drawn += 1
                yield place, make_completion(problems[place].problem_id, sample, seeds[place])


class LengthScorer:
    """The number of tokens; counts what it is asked, and fails by itself where it is told to."""

    name = "length"

    def __init__(self, fails: Callable[[int], bool] = lambda call: False) -> None:
        self.asked: list[str] = []
        self.calls = 0
        self.fails = fails

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        self.calls += 1
        if self.fails(self.calls):
            return [Outcome("errored", 0.0, why="no worker", fault="harness") for _ in items]
        self.asked += [completion.problem_id for _, completion in items]
        return [Outcome("scored", float(len(completion.ids)), parts={"n": 1.0}) for _, completion in items]


def make_group(name: str, rewards: Sequence[float]) -> Group:
    """A group with these rewards."""
    rollouts = [
        Rollout(name, sample, (make_completion(name, sample),), Outcome("scored", reward))
        for sample, reward in enumerate(rewards)
    ]
    return Group(Problem(name, []), tuple(rollouts))
