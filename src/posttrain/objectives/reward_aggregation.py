"""Several scores as one: of the members of an ensemble, of the steps of a solution.

| members r_m | |
| --- | --- |
| `mean` | mean_m r_m |
| `worst_case` | min_m r_m |
| `mean_minus_variance` | mean_m r_m - w var_m r_m, the variance over M members divided by M |

| steps, p_t the probability that step t is right | |
| --- | --- |
| `min` | min_t p_t |
| `product` | prod_t p_t |
| `last` | p of the last step |

Sources: Coste et al., arXiv 2310.02743, section 3.2 (worst case and variance, there "WCO" and "UWO"); Lightman et al.,
arXiv 2305.20050, appendix F (minimum and product).

Shape letters: M members, N rows, T steps of one solution.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MemberAggregation = Literal["mean", "worst_case", "mean_minus_variance"]
StepAggregation = Literal["min", "product", "last"]


def aggregate_members(scores_MN: Floats, how: MemberAggregation, variance_weight: float = 0.0) -> Floats:
    """Return one score a row.

    Args:
        scores_MN: Scores of each member, on one scale, M >= 1.
        how: See the table.
        variance_weight: w, >= 0, of `mean_minus_variance`, in units of 1 / score.
    """
    if how == "worst_case":
        return scores_MN.min(axis=0)
    mean_N = scores_MN.mean(axis=0)
    return mean_N - variance_weight * scores_MN.var(axis=0) if how == "mean_minus_variance" else mean_N


def aggregate_steps(log_odds_T: Floats, how: StepAggregation) -> float:
    """Return the worth of a solution, in [0, 1].

    Args:
        log_odds_T: Log-odds that each step is right, T >= 1.
        how: See the table.

    Raises:
        ValueError: There is no step.
    """
    if not log_odds_T.size:
        raise ValueError("a solution without a step")
    logprobs_T = -np.logaddexp(0.0, -log_odds_T)
    chosen = {"min": logprobs_T.min(), "product": logprobs_T.sum(), "last": logprobs_T[-1]}[how]
    return float(np.exp(chosen))
