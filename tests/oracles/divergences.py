"""Each KL by its name, and its gradient by the logits of a table, derived by hand. Shape letters: see the package.

Over whole completions:

    reverse  KL(pi || ref) = sum_y pi(y) log(pi(y) / ref(y))
    forward  KL(ref || pi) = sum_y ref(y) log(ref(y) / pi(y))

Token by token, with weights w(h) of prefixes that are given and carry no gradient (how often sampled completions come
to h):

    reverse  sum_h w(h) KL(pi(.|h) || ref(.|h))        forward  sum_h w(h) KL(ref(.|h) || pi(.|h))

By the chain rule the token reverse KL at the policy's own prefixes has the value of the sequence reverse KL, but not
its gradient, which also moves the policy towards prefixes after which it diverges less. The token forward KL at the
reference's prefixes has both value and gradient of the sequence forward KL; at the policy's prefixes it has neither.
"""

from __future__ import annotations

import torch

from tests.oracles.enumeration import CompletionSpace


def compute_sequence_reverse_kl(policy_XY: torch.Tensor, reference_XY: torch.Tensor) -> torch.Tensor:
    """Return KL(policy || reference) of whole completions, [X]."""
    return _compute_kl(policy_XY, reference_XY)


def compute_sequence_forward_kl(policy_XY: torch.Tensor, reference_XY: torch.Tensor) -> torch.Tensor:
    """Return KL(reference || policy) of whole completions, [X]."""
    return _compute_kl(reference_XY, policy_XY)


def compute_token_reverse_kl(
    policy_XFV: torch.Tensor, reference_XFV: torch.Tensor, prefix_weights_XF: torch.Tensor
) -> torch.Tensor:
    """Return KL(policy || reference) of the next token, summed over prefixes with given weights, [X]."""
    return (prefix_weights_XF.detach() * _compute_kl(policy_XFV, reference_XFV)).sum(-1)


def compute_token_forward_kl(
    policy_XFV: torch.Tensor, reference_XFV: torch.Tensor, prefix_weights_XF: torch.Tensor
) -> torch.Tensor:
    """Return KL(reference || policy) of the next token, summed over prefixes with given weights, [X]."""
    return (prefix_weights_XF.detach() * _compute_kl(reference_XFV, policy_XFV)).sum(-1)


def _compute_kl(logprobs: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    probabilities = logprobs.exp()
    return (probabilities * torch.where(probabilities > 0, logprobs - other, 0.0)).sum(-1)


def derive_sequence_reverse_gradient(
    space: CompletionSpace, policy_XFV: torch.Tensor, reference_XFV: torch.Tensor
) -> torch.Tensor:
    """Return d sum_x KL(pi || ref) / d logits [X, F, V] by dynamic programming.

    With Q(h, v) = log(pi(v|h) / ref(v|h)) + KL of all that follows (h, v), it is reach(h) pi(v|h) (Q(h, v) - E_v Q).
    """
    pi_XFV = policy_XFV.exp()
    returns_XFV = policy_XFV - reference_XFV
    values_XF = returns_XFV.new_zeros(returns_XFV.shape[:2])
    for f in reversed(range(len(space.prefixes))):  # longer prefixes have higher numbers
        for v in range(space.num_tokens):
            if (child := int(space.child_FV[f, v])) >= 0:
                returns_XFV[:, f, v] += values_XF[:, child]
        values_XF[:, f] = (pi_XFV[:, f] * returns_XFV[:, f]).sum(-1)
    return space.compute_reach(policy_XFV)[..., None] * pi_XFV * (returns_XFV - values_XF[..., None])


def derive_sequence_forward_gradient(
    space: CompletionSpace, policy_XFV: torch.Tensor, reference_XFV: torch.Tensor
) -> torch.Tensor:
    """Return d sum_x KL(ref || pi) / d logits [X, F, V]: reach_ref(h) (pi(v|h) - ref(v|h))."""
    return space.compute_reach(reference_XFV)[..., None] * (policy_XFV.exp() - reference_XFV.exp())


def derive_token_reverse_gradient(
    policy_XFV: torch.Tensor, reference_XFV: torch.Tensor, prefix_weights_XF: torch.Tensor
) -> torch.Tensor:
    """Return the token reverse KL's gradient [X, F, V]: w(h) pi(v|h) (log(pi(v|h) / ref(v|h)) - KL(h))."""
    ratios_XFV = policy_XFV - reference_XFV
    kl_XF1 = (policy_XFV.exp() * ratios_XFV).sum(-1, keepdim=True)
    return prefix_weights_XF[..., None] * policy_XFV.exp() * (ratios_XFV - kl_XF1)


def derive_token_forward_gradient(
    policy_XFV: torch.Tensor, reference_XFV: torch.Tensor, prefix_weights_XF: torch.Tensor
) -> torch.Tensor:
    """Return the token forward KL's gradient [X, F, V]: w(h) (pi(v|h) - ref(v|h))."""
    return prefix_weights_XF[..., None] * (policy_XFV.exp() - reference_XFV.exp())
