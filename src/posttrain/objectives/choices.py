"""The names of the choices that objectives are made of, for configurations that are read without torch.

What each means stands with its formula: `objectives.advantages` (baseline, scale), `objectives.policy_gradient` (ratio,
clipping), `objectives.aggregation`, `objectives.kl`, `objectives.preference` (loss of a pair, implicit reward,
smoothing).
"""

from __future__ import annotations

from typing import Literal

Baseline = Literal["group_mean", "leave_one_out", "batch_mean", "none"]
Scale = Literal["none", "group_std", "batch_std"]
Ratio = Literal["token", "sequence"]
Clipping = Literal["ppo", "cispo", "none"]
Aggregation = Literal["token_mean", "sequence_mean", "constant_length", "sequence_sum"]
Kl = Literal["none", "reverse_kl", "forward_kl"]
PairLoss = Literal["sigmoid", "hinge", "ipo"]
ImplicitReward = Literal["log_ratio", "log_prob", "log_odds"]
Smoothing = Literal["conservative", "robust"]
