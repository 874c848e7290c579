"""All completions of a few prompts, and policies over them that can be listed. Shape letters: see the package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch

from posttrain.objectives.reduction import normalise_weights

Objective = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]


class CompletionSpace:
    """Every completion that a policy can give: tokens up to the end token, or `max_tokens` of them without one.

    Sequence s = x Y + y is completion y of prompt x; its tokens are `offsets[s]` to `offsets[s + 1]` of N.

    Example: two tokens of which 0 ends, at most two positions: `prefixes = [(), (1,)]` and
    `completions = [(0,), (1, 0), (1, 1)]`, so that with one prompt `offsets = [0, 1, 3, 5]`.
    """

    def __init__(self, num_prompts: int, num_tokens: int, max_tokens: int, end_id: int = 0) -> None:
        self.num_prompts, self.num_tokens, self.max_tokens, self.end_id = num_prompts, num_tokens, max_tokens, end_id
        others = [token for token in range(num_tokens) if token != end_id]
        self.prefixes = [prefix for length in range(max_tokens) for prefix in product(others, repeat=length)]
        ended = [(*prefix, end_id) for prefix in self.prefixes]
        self.completions = ended + list(product(others, repeat=max_tokens))
        number_of = {prefix: number for number, prefix in enumerate(self.prefixes)}
        places = [(y, number_of[ids[:t]], ids[t]) for y, ids in enumerate(self.completions) for t in range(len(ids))]
        self.completion_M, self.prefix_M, self.token_M = torch.tensor(places).T
        self.lengths_Y = torch.tensor([len(ids) for ids in self.completions])
        self.lengths_S = self.lengths_Y.repeat(num_prompts)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.int64), self.lengths_S.cumsum(0)])
        self.sequence_N = torch.arange(len(self.lengths_S)).repeat_interleave(self.lengths_S)
        self.paths = [[(number_of[ids[:t]], ids[t]) for t in range(len(ids))] for ids in self.prefixes]
        begins = [[ids[: len(prefix)] == prefix for ids in self.completions] for prefix in self.prefixes]
        self.begins_FY = torch.tensor(begins)  # whether a completion begins with a prefix
        self.child_FV = torch.tensor(  # the prefix that a token leads to, -1 where the completion is over
            [[number_of.get((*prefix, token), -1) for token in range(num_tokens)] for prefix in self.prefixes]
        )

    @property
    def shape_XY(self) -> tuple[int, int]:
        """Prompts and completions of each."""
        return self.num_prompts, len(self.completions)

    def gather_tokens(self, next_XFV: torch.Tensor) -> torch.Tensor:
        """Return the log-prob of each token of each sequence, [N]."""
        return next_XFV[:, self.prefix_M, self.token_M].flatten()

    def sum_tokens(self, values_N: torch.Tensor) -> torch.Tensor:
        """Return the sum over each sequence's tokens, [S]."""
        return values_N.new_zeros(len(self.lengths_S)).index_add(0, self.sequence_N, values_N)

    def repeat_to_tokens(self, values_S: torch.Tensor) -> torch.Tensor:
        """Return each sequence's value at every one of its tokens, [N]."""
        return values_S[self.sequence_N]

    def compute_logprobs_XY(self, next_XFV: torch.Tensor) -> torch.Tensor:
        """Return the log-prob of each completion, the sum of its tokens'."""
        return self.sum_tokens(self.gather_tokens(next_XFV)).view(self.shape_XY)

    def compute_reach(self, next_XFV: torch.Tensor) -> torch.Tensor:
        """Return the probability of coming to each prefix, [X, F]; summed over prefixes it is the mean length."""
        logs = [sum((next_XFV[:, f, v] for f, v in path), next_XFV.new_zeros(self.num_prompts)) for path in self.paths]
        return torch.stack(logs, 1).exp()

    def compute_next_logprobs(self, logprobs_XY: torch.Tensor) -> torch.Tensor:
        """Return log-probs [X, F, V] of the next token under a distribution of whole completions.

        After a prefix that never comes up they are even.
        """
        probabilities = logprobs_XY.exp()
        mass_XF = probabilities @ self.begins_FY.T.to(probabilities.dtype)
        next_XFV = probabilities.new_zeros(self.num_prompts, len(self.prefixes), self.num_tokens)
        for y, ids in enumerate(self.completions):  # a token that ends a completion has that one's mass
            prefix = self.prefixes.index(ids[:-1])
            next_XFV[:, prefix, ids[-1]] = probabilities[:, y]
        is_inner_FV = self.child_FV >= 0
        next_XFV[:, is_inner_FV] = mass_XF[:, self.child_FV[is_inner_FV]]
        next_XFV = torch.where(mass_XF[..., None] > 0, next_XFV / mass_XF[..., None], 1 / self.num_tokens)
        return next_XFV.log()


class EnumerablePolicy(ABC):
    """A policy whose every next-token distribution can be computed, differentiably by its parameters."""

    def __init__(self, space: CompletionSpace) -> None:
        self.space = space

    @abstractmethod
    def compute_next_logprobs(self) -> torch.Tensor:
        """Return the log-prob of each token after each prefix of each prompt, [X, F, V]."""

    @abstractmethod
    def get_parameters(self) -> list[torch.Tensor]:
        """Return the leaves that an optimiser moves."""

    def compute_logprobs_N(self) -> torch.Tensor:
        """Return the log-prob of each token of every sequence, as token objectives take them."""
        return self.space.gather_tokens(self.compute_next_logprobs())

    def compute_logprobs_XY(self) -> torch.Tensor:
        """Return the log-prob of each completion of each prompt."""
        return self.space.compute_logprobs_XY(self.compute_next_logprobs())


class TabularPolicy(EnumerablePolicy):
    """A table of logits, one row for each prefix of each prompt: it can be any distribution with full support."""

    def __init__(self, space: CompletionSpace, logits_XFV: torch.Tensor) -> None:
        super().__init__(space)
        self.logits_XFV = logits_XFV.detach().double().clone().requires_grad_()

    @classmethod
    def draw(cls, space: CompletionSpace, seed: int, scale: float = 1.0) -> TabularPolicy:
        """Return a policy with normally distributed logits."""
        shape = (space.num_prompts, len(space.prefixes), space.num_tokens)
        generator = torch.Generator().manual_seed(seed)
        return cls(space, scale * torch.randn(shape, dtype=torch.float64, generator=generator))

    @classmethod
    def from_logprobs(cls, space: CompletionSpace, logprobs_XY: torch.Tensor) -> TabularPolicy:
        """Return the policy that gives completions these log-probs, all finite."""
        return cls(space, space.compute_next_logprobs(logprobs_XY))

    def copy(self) -> TabularPolicy:
        """Return a policy of the same distribution with parameters of its own."""
        return TabularPolicy(self.space, self.logits_XFV)

    def compute_next_logprobs(self) -> torch.Tensor:
        """Return the log-prob of each token after each prefix of each prompt, [X, F, V]."""
        return self.logits_XFV.log_softmax(-1)

    def get_parameters(self) -> list[torch.Tensor]:
        """Return the table."""
        return [self.logits_XFV]


def compute_expectation(logprobs_XY: torch.Tensor, values_XY: torch.Tensor) -> torch.Tensor:
    """Return E_y[value] for each prompt, [X]; a completion of probability 0 counts for nothing, whatever its value.

    Of the next token, with log-probs and values [X, F, V], it is that after each prefix, [X, F].
    """
    probabilities = logprobs_XY.exp()
    return (probabilities * torch.where(probabilities > 0, values_XY, 0.0)).sum(-1)


def compute_entropy(logprobs_XY: torch.Tensor) -> torch.Tensor:
    """Return the entropy of whole completions of each prompt in nats, [X]; of next tokens [X, F, V], [X, F]."""
    return -compute_expectation(logprobs_XY, logprobs_XY)


def compute_total_variation(logprobs_XY: torch.Tensor, other_XY: torch.Tensor) -> torch.Tensor:
    """Return half the sum of absolute differences of probability for each prompt, in [0, 1], [X]."""
    return (logprobs_XY.exp() - other_XY.exp()).abs().sum(-1) / 2


def compute_expected_loss(
    policy: EnumerablePolicy,
    objective: Objective,
    probabilities_S: torch.Tensor,
    constants: Mapping[str, torch.Tensor] | None = None,
    *,
    token_weights_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the expectation of a token objective's weighted sum over a sequence, through the project's reduction.

    sum_s p_s sum_{n in s} w_n l_n / sum_s p_s

    Args:
        policy: Whose log-probs the objective is given.
        objective: Maps (log-probs [N], constants each [N]) to losses [N].
        probabilities_S: How probable each sequence is to be in a batch, prompts included; carries no gradient.
        constants: Row constants by name.
        token_weights_N: The documented aggregator's weight of each token, 1 if None.
    """
    space = policy.space
    weights_N = space.repeat_to_tokens(probabilities_S.detach())
    if token_weights_N is not None:
        weights_N = weights_N * token_weights_N
    losses_N = objective(policy.compute_logprobs_N(), constants or {})
    return (losses_N * normalise_weights(weights_N, float(probabilities_S.sum()))).sum()


def weigh_prompts_evenly(logprobs_XY: torch.Tensor) -> torch.Tensor:
    """Return the probability of each sequence where every prompt is as likely as another, [S]."""
    return logprobs_XY.exp().flatten() / len(logprobs_XY)


def draw_values(space: CompletionSpace, seed: int, choices: Sequence[float] | None = None) -> torch.Tensor:
    """Return a random value of each completion, [X, Y]: a standard normal, or one of the choices."""
    generator = torch.Generator().manual_seed(seed)
    if choices is None:
        return torch.randn(space.shape_XY, dtype=torch.float64, generator=generator)
    picked = torch.randint(len(choices), space.shape_XY, generator=generator)
    return torch.tensor(choices, dtype=torch.float64)[picked]
