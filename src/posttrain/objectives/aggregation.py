"""How the losses of tokens become one number: a weight for each token, and what each completion adds to the divisor.

    loss = sum_i sum_t w_i l_it / sum_i d_i

| `aggregation` | w_i | d_i | a completion of n tokens has the weight | of |
| --- | --- | --- | --- | --- |
| `token_mean` | 1 | n_i | n_i / sum n | DAPO, CISPO |
| `sequence_mean` | 1 / n_i | 1 | 1 / S, however long | GRPO, GSPO |
| `constant_length` | 1 / L | 1 | n_i / (L S), L the cap on tokens | Dr. GRPO |
| `sequence_sum` | 1 | 1 | n_i / S: the log-prob of the whole completion | RLOO, REINFORCE |

Under `sequence_mean` a token of a long completion counts less than one of a short one, so that long wrong answers are
punished less by token (arXiv 2503.20783); under `token_mean` long completions weigh more in the step. The division is
`objectives.reduction`'s.
"""

from __future__ import annotations

import torch

from posttrain.objectives.choices import Aggregation


def compute_token_weights(
    lengths_S: torch.Tensor, aggregation: Aggregation, *, max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each completion's weight of a token, and what it adds to the step's divisor, both fp64 [S].

    Args:
        lengths_S: Tokens of each completion that carry loss, int64, at least 0.
        aggregation: See the table of this module.
        max_tokens: L, the cap on tokens of a completion.

    Raises:
        ValueError: A completion is longer than the cap.
    """
    lengths = lengths_S.double()
    ones = torch.ones_like(lengths)
    if aggregation == "token_mean":
        return ones, lengths
    if aggregation == "sequence_mean":
        return 1 / lengths.clamp(min=1), ones
    if aggregation == "sequence_sum":
        return ones, ones
    if len(lengths_S) and int(lengths_S.max()) > max_tokens:
        raise ValueError(f"a completion of {int(lengths_S.max())} tokens where the cap is {max_tokens}")
    return ones / max_tokens, ones
