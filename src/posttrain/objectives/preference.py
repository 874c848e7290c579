"""Offline preference optimisation: a loss of pairs (chosen w, rejected l) that the family of DPO is composed of.

Of a completion y of n tokens, with lp = log pi(y | x) the sum over its tokens and ref = log pi_ref(y | x):

| `reward` | h(y), of y itself | with `is_length_normalised` | of |
| --- | --- | --- | --- |
| `log_ratio` | lp - ref | (lp - ref) / n | DPO, IPO; Tulu 3 |
| `log_prob` | lp | lp / n | CPO; SimPO |
| `log_odds` | | log(p / (1 - p)), p = e^(lp / n) | ORPO |

    z = beta (h(w) - h(l)) + length_penalty (n_w - n_l) - margin

| `loss` | f(z) | of |
| --- | --- | --- |
| `sigmoid` | -log sigmoid(z) | DPO and most others |
| `hinge` | max(0, 1 - z) | SLiC-HF |
| `ipo` | (z / beta - 1 / (2 beta))^2 | IPO |

Labels that are wrong with probability e (`label_smoothing`): `conservative` takes the expectation over labels that are
flipped so, (1 - e) f(z) + e f(-z); `robust` the one whose expectation over labels that *were* flipped so is the loss of
clean ones, ((1 - e) f(z) - e f(-z)) / (1 - 2 e). Then

    loss of a pair = preference_coefficient f + nll_coefficient (-lp(w) / n_w)

A step's loss is the mean over its pairs. At pi = pi_ref every log-ratio is 0 and DPO's loss is ln 2. A robust loss has
no least value on pairs that no label contradicts: it goes down for ever as z rises.

Sources: DPO, Rafailov et al. 2023 (arXiv 2305.18290), equation 7; conservative labels, Mitchell's note on noisy
preferences (ericmitchell.ai/cdpo.pdf); robust DPO, Chowdhury et al. 2024 (arXiv 2403.00409); length normalisation,
Lambert et al. 2024, "Tulu 3" (arXiv 2411.15124), section 5; IPO, Azar et al. 2023 (arXiv 2310.12036); SLiC-HF, Zhao et
al. 2023 (arXiv 2305.10425), whose constant is 1 / beta here, divided by the reference as in Liu et al. 2023 (arXiv
2309.06657); SimPO, Meng et al. 2024 (arXiv 2405.14734); ORPO, Hong et al. 2024 (arXiv 2403.07691), equations 6 and 7;
CPO, Xu et al. 2024 (arXiv 2401.08417); the NLL term of Llama 3, Dubey et al. 2024 (arXiv 2407.21783), section 4.1.4,
after Pang et al. 2024 (arXiv 2404.19733), equation 1; R-DPO's length penalty, Park et al. 2024 (arXiv 2403.19159).

Known differences: the NLL term is a mean over the tokens of its completion everywhere, also in CPO, whose equation sums
them, and in ORPO, as both publish their code. IPO's log-ratios are sums, as in the paper; other implementations average
them over tokens (`is_length_normalised`). Shape letters: P pairs, N scored tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from posttrain.objectives.choices import ImplicitReward, PairLoss, Smoothing

MOST_LOGPROB = -1e-6
"""Mean log-probs closer to 0 count as this in odds, which would be infinite at 0: p / (1 - p) is 1e6 there."""


@dataclass(frozen=True, slots=True)
class BranchLogprobs:
    """What a pair objective reads of one branch of each pair: the chosen or the rejected completions.

    Made by `PreferenceObjective` and by tests. `policy_P` are sums of the policy's log-probs over the completion's own
    tokens, nats; `reference_P` the reference's, zeros where none is read; `lengths_P` those tokens' number, at least 1.
    """

    policy_P: torch.Tensor
    reference_P: torch.Tensor
    lengths_P: torch.Tensor


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """A loss of pairs; the formula and every choice's meaning stand in this module's docstring.

    Args:
        loss: f.
        reward: h, before beta.
        is_length_normalised: Whether log-probs count by token.
        beta: Scale of h; of IPO the regularisation tau. > 0.
        margin: What the chosen completion's scaled reward must be ahead by, >= 0.
        label_smoothing: e, in [0, 1/2).
        smoothing: What is done about it.
        length_penalty: Alpha of R-DPO, nats a token, >= 0.
        nll_coefficient: Of the chosen completion's own loss, >= 0.
        preference_coefficient: Of f, > 0.
    """

    loss: PairLoss = "sigmoid"
    reward: ImplicitReward = "log_ratio"
    is_length_normalised: bool = False
    beta: float = 0.1
    margin: float = 0.0
    label_smoothing: float = 0.0
    smoothing: Smoothing = "conservative"
    length_penalty: float = 0.0
    nll_coefficient: float = 0.0
    preference_coefficient: float = 1.0

    def __call__(self, chosen: BranchLogprobs, rejected: BranchLogprobs) -> torch.Tensor:
        """Return the loss of each pair, [P].

        Args:
            chosen: Log-probs of the preferred completions, with gradient.
            rejected: Those of the others.
        """
        difference_P = self.compute_rewards(chosen) - self.compute_rewards(rejected)
        lengths_P = (chosen.lengths_P - rejected.lengths_P).to(difference_P.dtype)
        z_P = difference_P + self.length_penalty * lengths_P - self.margin
        losses_P = self.preference_coefficient * self._smooth(z_P)
        if self.nll_coefficient:
            losses_P = losses_P - self.nll_coefficient * chosen.policy_P / chosen.lengths_P
        return losses_P

    def compute_rewards(self, branch: BranchLogprobs) -> torch.Tensor:
        """Return beta h of each completion, its implicit reward, [P]."""
        logprobs_P = branch.policy_P - branch.reference_P if self.reward == "log_ratio" else branch.policy_P
        if self.is_length_normalised or self.reward == "log_odds":
            logprobs_P = logprobs_P / branch.lengths_P
        if self.reward == "log_odds":
            bounded_P = logprobs_P.clamp(max=MOST_LOGPROB)
            logprobs_P = bounded_P - torch.log(-torch.expm1(bounded_P))
        return self.beta * logprobs_P

    def _smooth(self, z_P: torch.Tensor) -> torch.Tensor:
        share = self.label_smoothing
        if not share:
            return self._compute_loss(z_P)
        kept_P, flipped_P = (1 - share) * self._compute_loss(z_P), share * self._compute_loss(-z_P)
        if self.smoothing == "conservative":
            return kept_P + flipped_P
        return (kept_P - flipped_P) / (1 - 2 * share)

    def _compute_loss(self, z_P: torch.Tensor) -> torch.Tensor:
        if self.loss == "sigmoid":
            return -logsigmoid(z_P)
        if self.loss == "hinge":
            return (1 - z_P).clamp(min=0)
        return (z_P / self.beta - 1 / (2 * self.beta)).square()


@dataclass(frozen=True, slots=True)
class PreferenceObjective:
    """A loss of pairs as a coupled token objective (`kernels.coupled_logprobs`): its loss lies at its first token.

    Every scored token of a pair has the pair's weight; both branches of a pair lie in one micro-batch. Constants of a
    call, each [N]: `branches`, int64, which completion of the micro-batch a token is of: 2 p of the chosen one of pair
    p and 2 p + 1 of the rejected one, without gaps from the first pair of the call on; `references`, at every token the
    sum of the reference's log-probs over the token's completion, where `loss.reward` reads them.
    """

    loss: PreferenceLoss

    is_coupled = True

    def find_groups(self, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return which pair each token is of, [N]: a pair's tokens share its loss."""
        return constants["branches"] // 2

    def __call__(self, logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each pair at its first token and 0 at the others, [N]."""
        losses_P = self.loss(*gather_branches(logprobs_N, constants))
        return logprobs_N.new_zeros(len(logprobs_N)).index_put((find_first_tokens(constants),), losses_P)


def gather_branches(
    logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]
) -> tuple[BranchLogprobs, BranchLogprobs]:
    """Return the chosen and the rejected branch of each pair of a call, from its scored tokens."""
    branches_N = constants["branches"] - 2 * _find_first_pair(constants)
    count = 2 * (int(branches_N.max()) // 2 + 1) if len(branches_N) else 0

    def add_up(values_N: torch.Tensor) -> torch.Tensor:
        return values_N.new_zeros(count).index_add(0, branches_N, values_N)

    sums_S, lengths_S = add_up(logprobs_N), add_up(torch.ones_like(logprobs_N))
    references_S = torch.zeros_like(sums_S)
    if "references" in constants:  # the same number at every token of a branch
        references_S = references_S.index_put((branches_N,), constants["references"].to(sums_S.dtype))
    parts = [BranchLogprobs(sums_S[side::2], references_S[side::2], lengths_S[side::2]) for side in (0, 1)]
    return parts[0], parts[1]


def find_first_tokens(constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return where the first scored token of each pair is, [P]."""
    pairs_N = constants["branches"] // 2 - _find_first_pair(constants)
    count = int(pairs_N.max()) + 1 if len(pairs_N) else 0
    numbers_N = torch.arange(len(pairs_N), device=pairs_N.device)
    return numbers_N.new_full((count,), len(pairs_N)).scatter_reduce(0, pairs_N, numbers_N, "amin")


def _find_first_pair(constants: Mapping[str, torch.Tensor]) -> torch.Tensor | int:
    branches_N = constants["branches"]
    return branches_N.min() // 2 if len(branches_N) else 0
