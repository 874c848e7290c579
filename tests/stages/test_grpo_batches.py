"""What a step is trained by: observations between turns carry nothing, and change nothing of what was drawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from posttrain.core.records import Completion, Group, Observation, Outcome, Problem, Rollout
from posttrain.rollouts.dynamic import Gathered
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.grpo_batches import StepBatches
from posttrain.training.distributed import Ranks

PROMPT = np.arange(5, dtype=np.int32)


def say(sample: int, turn: int, prompt: Any, length: int) -> Completion:
    random = np.random.default_rng([sample, turn])
    logprobs = -random.random(length).astype(np.float32)
    ids = random.integers(10, 50, length).astype(np.int32)
    return Completion("p", sample, prompt, ids, "x", "stop", "policy", 1, logprobs, logprobs)


def make_rollout(sample: int, reward: float, num_observed: int | None) -> Rollout:
    """Two turns, of 3 and of 2 + sample tokens, with so many tokens of a tool between them; None: drawn in one turn."""
    first = say(sample, 0, PROMPT, 3)
    if num_observed is None:
        second = say(sample, 1, PROMPT, 2 + sample)
        logprobs = np.concatenate([first.drawing_logprobs, second.drawing_logprobs])
        ids = np.concatenate([first.ids, second.ids])
        whole = Completion("p", sample, PROMPT, ids, "x", "stop", "policy", 1, logprobs, logprobs)
        return Rollout("p", sample, (whole,), Outcome("scored", reward))
    seen = Observation(np.full(num_observed, 7, np.int32), ())
    second = say(sample, 1, np.concatenate([PROMPT, first.ids, seen.ids]), 2 + sample)
    return Rollout("p", sample, (first, seen, second), Outcome("scored", reward))


def lay_out(tmp_path: Path, num_observed: int | None, algorithm: str) -> tuple[dict[str, Any], float]:
    """The scored tokens of a step of one group, with the constants they are trained by, and the divisor."""
    values = {"data": [{"source": "x.jsonl"}], "scorer": "math", "steps": 1, "max_new_tokens": 20}
    config = GrpoConfig(algorithm=algorithm, problems_per_step=1, group_size=3, **values)

    def reference(prompts: Any, completions: Any) -> list[Any]:
        return [np.where(ids == 7, 99.0, -0.01 * ids).astype(np.float32) for ids in completions]

    parts: Any = SimpleNamespace(
        problems=[Problem("p", [])], sampler=None, scorer=None, scorer_hash="", environment=None,
        compute_reference=reference if config.method.needs_reference else None,
        policy=SimpleNamespace(layout="packed"), ranks=Ranks(), device="cpu", is_sharing_exact=True,
    )  # fmt: skip
    context: Any = SimpleNamespace(seed=1, folder=tmp_path)
    batches = StepBatches(config, parts, context)
    group = Group(Problem("p", []), tuple(make_rollout(n, float(n == 1), num_observed) for n in range(3)))
    batches.prepare(0, Gathered((group,), ((group,),)))
    step = batches.minibatch(0)
    [micro] = step.micro_batches
    found = {name: values.tolist() for name, values in micro.constants.items()}
    return {**found, "targets": micro.targets_N.tolist(), "weights": micro.weights_N.tolist()}, step.total_weight


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "gspo", "cispo"])
def test_tokens_of_tools_change_no_drawn_tokens_advantage_weight_kl_or_place_in_the_loss(
    tmp_path: Path, algorithm: str
) -> None:
    whole, divisor = lay_out(tmp_path, None, algorithm)
    assert len(whole["targets"]) == sum(3 + 2 + sample for sample in range(3))
    for count in (1, 4, 30):
        assert lay_out(tmp_path, count, algorithm) == (whole, divisor)
