"""Policy gradients with a ratio to the policy that sampled: a token objective that the family of GRPO is composed of.

With rho the ratio pi / pi_old, A the advantage, c a truncated importance weight, sg what carries no gradient:

| `clipping` | loss of a token | of |
| --- | --- | --- |
| `ppo` | -c min(rho A, clip(rho, 1 - low, 1 + high) A) | PPO, GRPO, DAPO (high > low), GSPO |
| `cispo` | -c sg[min(rho, 1 + high)] A log pi (and max(., 1 - low) where low is given) | CISPO |
| `none` | -c rho A | plain importance sampling; REINFORCE and RLOO on the first update |

| `ratio` | rho of a token |
| --- | --- |
| `token` | pi(y_t | .) / pi_old(y_t | .) |
| `sequence` | the geometric mean of those of its completion: (pi(y) / pi_old(y))^(1/n), one for all its tokens (GSPO) |

On the first update on fresh samples every rho is 1 and the gradient is that of -A log pi. What a token weighs is data
(`aggregation`), the KL is another term (`kl`), and advantages come from `advantages`.

Sources: PPO, Schulman et al. 2017 (arXiv 1707.06347), equation 7; DAPO, Yu et al. 2025 (arXiv 2503.14476), equation 8;
GSPO, Zheng et al. 2025 (arXiv 2507.18071), equations 5 to 7; CISPO, MiniMax 2025, "MiniMax-M1" (arXiv 2506.13585),
equations 4 and 5; truncated importance weights between sampler and trainer, Yao et al. 2025 ("Your efficient RL
framework secretly brings you off-policy RL training").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from posttrain.objectives.choices import Clipping, Kl, Ratio
from posttrain.objectives.kl import compute_kl_loss


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """A token objective (`kernels.token_logprobs.TokenObjective`); with `ratio="sequence"` tokens are coupled.

    Args:
        ratio: Whose probabilities the ratio is of.
        clipping: What bounds it.
        clip_low: How far below 1 the ratio counts, > 0; None: without limit.
        clip_high: How far above 1.
        kl: The KL in the loss, by its name.
        kl_coefficient: Its factor, nats^-1, >= 0.
        importance_cap: The largest weight c that corrects for a sampler that is not the trainer, >= 1; None: c is 1.

    Constants of a call, each [N]: `advantages`; `old_logprobs`, those of the policy that sampled (left out on the first
    update on fresh samples, where they are the policy's own); `reference_logprobs` where there is a KL;
    `sampler_logprobs`, the sampler's own log-probs of what it drew, where c is wanted; `sequences`, int64, where the
    ratio is a completion's: which completion of the batch a token is of.
    """

    ratio: Ratio = "token"
    clipping: Clipping = "ppo"
    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    kl: Kl = "none"
    kl_coefficient: float = 0.0
    importance_cap: float | None = None

    @property
    def is_coupled(self) -> bool:
        """Whether a token's loss depends on other tokens' log-probs."""
        return self.ratio == "sequence"

    def find_groups(self, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return which completion each token is of, [N]: they share its ratio where that is a completion's."""
        return constants["sequences"]

    def __call__(self, logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each token.

        Args:
            logprobs_N: The policy's log-probs of the sampled tokens, nats.
            constants: See the class.
        """
        old_N = constants.get("old_logprobs", logprobs_N.detach())
        advantages_N = constants["advantages"]
        log_ratios_N = self._compute_log_ratios(logprobs_N, old_N, constants)
        if self.clipping == "cispo":
            bounded_N = self._clip(log_ratios_N.detach().exp())
            losses_N = -bounded_N * advantages_N * logprobs_N
        else:
            ratios_N = log_ratios_N.exp()
            losses_N = -ratios_N * advantages_N
            if self.clipping == "ppo":
                losses_N = torch.maximum(losses_N, -self._clip(ratios_N) * advantages_N)
        if self.importance_cap is not None:
            losses_N = losses_N * compute_importance_weights(old_N, constants["sampler_logprobs"], self.importance_cap)
        if self.kl != "none":
            kl_N = compute_kl_loss(logprobs_N, constants["reference_logprobs"], old_N, self.kl)
            losses_N = losses_N + self.kl_coefficient * kl_N
        return losses_N

    def find_clipped(
        self, logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which tokens' ratios are held back, from below and from above.

        Under `ppo` only where it would lead further away (A < 0 below, A > 0 above), since elsewhere the unclipped side
        counts; under `cispo` wherever the ratio is beyond the limit.
        """
        logprobs_N = logprobs_N.detach()
        ratios_N = self._compute_log_ratios(logprobs_N, constants.get("old_logprobs", logprobs_N), constants).exp()
        none_N = torch.zeros_like(ratios_N, dtype=torch.bool)
        if self.clipping == "none":
            return none_N, none_N
        below_N = none_N if self.clip_low is None else ratios_N < 1 - self.clip_low
        above_N = none_N if self.clip_high is None else ratios_N > 1 + self.clip_high
        if self.clipping == "cispo":
            return below_N, above_N
        return below_N & (constants["advantages"] < 0), above_N & (constants["advantages"] > 0)

    def _clip(self, ratios_N: torch.Tensor) -> torch.Tensor:
        low = None if self.clip_low is None else 1 - self.clip_low
        high = None if self.clip_high is None else 1 + self.clip_high
        return ratios_N if low is None and high is None else ratios_N.clamp(low, high)

    def _compute_log_ratios(
        self, logprobs_N: torch.Tensor, old_N: torch.Tensor, constants: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        log_ratios_N = logprobs_N - old_N
        if self.ratio == "token":
            return log_ratios_N
        sequences_N = constants["sequences"]
        count = int(sequences_N.max()) + 1 if len(sequences_N) else 0
        sums_S = log_ratios_N.new_zeros(count).index_add(0, sequences_N, log_ratios_N)
        lengths_S = log_ratios_N.new_zeros(count).index_add(0, sequences_N, torch.ones_like(log_ratios_N))
        return (sums_S / lengths_S.clamp(min=1))[sequences_N]


def compute_importance_weights(
    trainer_logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, cap: float
) -> torch.Tensor:
    """Return min(pi_trainer / pi_sampler, cap) of each sampled token, without gradient.

    Args:
        trainer_logprobs_N: Log-probs of the policy that sampled, as the trainer computes them.
        sampler_logprobs_N: As the sampler did.
        cap: The largest weight, >= 1: bounds the variance at the price of a bias.
    """
    return (trainer_logprobs_N - sampler_logprobs_N).detach().exp().clamp(max=cap)
