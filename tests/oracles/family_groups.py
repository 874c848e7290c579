"""The exact expectation of a member of the GRPO family: over every group that could be drawn, by the stage's own parts.

Nothing is sampled: all groups of G completions of each prompt are listed, each with its probability, and each is a step
of its own. Shape letters: see the package, and K groups of a prompt, G completions of a group.
"""

from __future__ import annotations

import itertools

import torch

from posttrain.objectives.advantages import compute_advantages
from posttrain.objectives.aggregation import compute_token_weights
from posttrain.objectives.kl import compute_log_ratios
from posttrain.stages.grpo_family import Method
from tests.oracles.enumeration import TabularPolicy


def compute_family_loss(
    method: Method, policy: TabularPolicy, rewards_XY: torch.Tensor, reference: TabularPolicy, group_size: int
) -> torch.Tensor:
    """Return the expected loss of a step of one group, prompts evenly, whose gradient is the expected update."""
    space = policy.space
    num_prompts, num_completions = space.shape_XY
    members_KG = torch.tensor(list(itertools.product(range(num_completions), repeat=group_size)))
    logprobs_N, reference_N = policy.compute_logprobs_N(), reference.compute_logprobs_N().detach()
    returns_XY = rewards_XY
    if method.needs_reference and method.kl_place == "reward":
        kl_N = compute_log_ratios(logprobs_N.detach(), reference_N)
        returns_XY = rewards_XY - method.kl_coefficient * space.sum_tokens(kl_N).view(space.shape_XY)
    objective, total = method.build_objective(None), policy.logits_XFV.new_zeros(())
    for prompt in range(num_prompts):
        chances_K = policy.compute_logprobs_XY().detach()[prompt][members_KG].sum(1).exp()
        advantages_KG = _compare(method, returns_XY[prompt][members_KG])
        sequences_S = (prompt * num_completions + members_KG).flatten()
        lengths_S = space.lengths_S[sequences_S]
        tokens_N = torch.cat([torch.nonzero(space.sequence_N == number)[:, 0] for number in sequences_S.tolist()])
        of_N = torch.arange(len(sequences_S)).repeat_interleave(lengths_S)  # which completion each token is of
        constants = {
            "old_logprobs": logprobs_N.detach()[tokens_N],
            "reference_logprobs": reference_N[tokens_N],
            "advantages": advantages_KG.flatten()[of_N],
            "sequences": of_N,
        }
        weights_S, divisors_S = compute_token_weights(lengths_S, method.aggregation, max_tokens=space.max_tokens)
        shares_K = chances_K / divisors_S.view(members_KG.shape).sum(1)
        weights_N = weights_S[of_N] * shares_K.repeat_interleave(group_size)[of_N]
        total = total + (objective(logprobs_N[tokens_N], constants) * weights_N).sum() / num_prompts
    return total


def _compare(method: Method, returns_KG: torch.Tensor) -> torch.Tensor:
    """Return the advantages of each group as those of a step of its own."""
    nobody = torch.zeros(returns_KG.shape[1], dtype=torch.int64)
    return torch.stack(
        [
            compute_advantages(returns_G, nobody, baseline=method.baseline, scale=method.scale).advantages_S
            for returns_G in returns_KG
        ]
    )
