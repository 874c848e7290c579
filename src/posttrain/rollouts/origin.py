"""Where a rollout comes from: the policy that drew it, and the log-probs that it was drawn with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import SamplerError
from posttrain.core.records import Completion, Group, Rollout


def check_drawn_by(policy_hash: str, groups: Sequence[Group]) -> None:
    """Check that what a step learns from was drawn by the policy that it publishes.

    Raises:
        SamplerError: A completion is another policy's.
    """
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        found = {turn.policy_hash for turn in rollout.turns if isinstance(turn, Completion)} - {policy_hash}
        if found:
            raise SamplerError(
                f"a completion of {rollout.problem_id} was drawn by the policy {found.pop()[:12]}",
                expected=f"the policy that was published before the step, {policy_hash[:12]}",
                cure="the sampler did not take over the weights that it was given: choose another one",
                place="sampler",
            )


def read_sampler_logprobs(rollout: Rollout) -> npt.NDArray[np.float32]:
    """Return the sampler's log-probs of a rollout's tokens under the distribution that was drawn from, 0 of others."""
    parts = []
    for turn in rollout.turns:
        drawn = turn.drawing_logprobs if isinstance(turn, Completion) else np.zeros(len(turn.ids), np.float32)
        if drawn is None:
            raise SamplerError(
                f"the sampler says nothing of the log-probs that {rollout.problem_id} was drawn with",
                expected="drawing_logprobs of every completion: the ratio and its weights are taken to them",
                cure="choose another sampler, or settings of it under which it knows them (docs/sampling.md)",
                place="sampler",
            )
        parts.append(drawn.astype(np.float32))
    return np.concatenate(parts)
