"""What training on one's own accepted samples converges to, when every round fits its samples exactly.

A round draws y from pi_t, keeps it with probability a(y) (1 or 0 of an exact verifier), and the next policy is the
distribution of what was kept. Distributions are probabilities [Y] of one prompt.
"""

from __future__ import annotations

import scipy.optimize
import torch


def run_round(
    policy_Y: torch.Tensor,
    acceptance_Y: torch.Tensor,
    *,
    fresh_share: float = 0.0,
    fresh_Y: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the next policy with infinitely many samples: (1 - s) pi a / E_pi[a] + s fresh."""
    kept_Y = policy_Y * acceptance_Y / (policy_Y * acceptance_Y).sum()
    return kept_Y if fresh_Y is None else (1 - fresh_share) * kept_Y + fresh_share * fresh_Y


def compute_after_rounds(initial_Y: torch.Tensor, acceptance_Y: torch.Tensor, rounds: int) -> torch.Tensor:
    """Return pi_t proportional to pi_0 a^t, t >= 1 rounds without fresh data.

    With an exact verifier that is pi_0(. | accepted) from the first round on; with a noisy one all mass goes to where
    `a` is largest, whether that is right or not.
    """
    weights_Y = initial_Y * acceptance_Y**rounds
    return weights_Y / weights_Y.sum()


def compute_fixed_point(acceptance_Y: torch.Tensor, fresh_Y: torch.Tensor, fresh_share: float) -> torch.Tensor:
    """Return the policy that a round with a share s of fresh data, 0 < s < 1, leaves as it is.

    q = (1 - s) q a / A + s p with A = E_q[a] gives q = s p / (1 - (1 - s) a / A), and A > (1 - s) max a is the one
    number for which q sums to 1. Fresh data has to be everywhere where `a` is largest. The start does not matter:
    A q' = M q with the non-negative M = (1 - s) diag(a) + s p a^T, so rounds are steps of power iteration.
    """

    def compute_policy(mean_acceptance: float) -> torch.Tensor:
        return fresh_share * fresh_Y / (1 - (1 - fresh_share) * acceptance_Y / mean_acceptance)

    largest = float(acceptance_Y[fresh_Y > 0].max())
    least = (1 - fresh_share) * largest * (1 + 1e-12)
    mean_acceptance = scipy.optimize.brentq(
        lambda mean: float(compute_policy(mean).sum()) - 1, least, largest * (1 + 1e-12), xtol=1e-15
    )
    return compute_policy(float(mean_acceptance))


def compute_gini_diversity(policy_Y: torch.Tensor) -> float:
    """Return 1 - sum p^2, the probability that two draws differ."""
    return float(1 - (policy_Y**2).sum())


def compute_expected_diversity(initial_Y: torch.Tensor, num_samples: int, rounds: int) -> float:
    """Return E[1 - sum p^2] after rounds that each refit on N samples, all kept: it shrinks by (1 - 1/N) a round.

    E[p_hat^2] = p^2 + p (1 - p) / N, summed over y: E[1 - sum p_hat^2] = (1 - 1/N) (1 - sum p^2), as heterozygosity
    shrinks under genetic drift (Wright-Fisher).
    """
    return compute_gini_diversity(initial_Y) * (1 - 1 / num_samples) ** rounds
