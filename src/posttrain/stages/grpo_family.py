"""The family of group-relative policy optimisation: which choices make each of its members.

Every member is a point in one space of choices, all of them keys of a `grpo` stage; `algorithm` names a point and keys
that are given move away from it:

* `grpo` (DeepSeekMath, arXiv 2402.03300): reward less the group's mean, over the group's deviation; token ratios
  clipped at 0.2; each token weighs 1 / length; a forward KL of 0.04 in the loss.
* `dr_grpo` (arXiv 2503.20783): no deviation; each token weighs 1 / cap, so that length has no say; no KL.
* `dapo` (arXiv 2503.14476): as `grpo`, the upper limit raised to 0.28; all tokens of a step weigh the same; no KL.
* `rloo` (arXiv 2402.14740): reward less the mean of the others; whole completions, no clipping; a reverse KL of 0.05
  in the reward.
* `reinforce_pp` (REINFORCE++, arXiv 2501.03262): reward less the step's mean, over the step's deviation; token ratios
  clipped at 0.2; all tokens weigh the same; a reverse KL of 0.01 in the reward.
* `gspo` (arXiv 2507.18071): as `grpo`, with one ratio for a whole completion, clipped at 0.0003 and 0.0004; no KL.
* `cispo` (arXiv 2506.13585): as `grpo`, but the ratio is a weight that is held at 5 at most, so that every token keeps
  its gradient; all tokens weigh the same; no KL.

Formulas: `objectives.advantages`, `objectives.policy_gradient`, `objectives.aggregation`, `objectives.kl`. DAPO's other
parts are keys of their own: `max_waves` (dynamic sampling), `overlong_buffer` (soft punishment of length). The limit of
CISPO's weight and the coefficients of KLs in rewards are this project's: the papers leave them to be tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from posttrain.objectives.choices import Aggregation, Baseline, Clipping, Kl, Ratio, Scale

if TYPE_CHECKING:
    from posttrain.objectives.policy_gradient import PolicyGradient

Algorithm = Literal["grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "gspo", "cispo"]
KlPlace = Literal["loss", "reward"]


@dataclass(frozen=True, slots=True)
class Method:
    """One member of the family: every choice made. `clip_low` and `clip_high` are None where nothing bounds there."""

    baseline: Baseline
    scale: Scale
    ratio: Ratio
    clipping: Clipping
    clip_low: float | None
    clip_high: float | None
    aggregation: Aggregation
    kl: Kl
    kl_place: KlPlace
    kl_coefficient: float

    @property
    def needs_reference(self) -> bool:
        """Whether log-probs of the reference are read."""
        return self.kl != "none"

    @property
    def has_loss_of_its_own(self) -> bool:
        """Whether a completion without an advantage has a gradient all the same."""
        return self.kl != "none" and self.kl_place == "loss"

    def build_objective(self, importance_cap: float | None) -> PolicyGradient:
        """Return the token objective."""
        from posttrain.objectives.policy_gradient import PolicyGradient

        in_loss = self.has_loss_of_its_own
        return PolicyGradient(
            ratio=self.ratio,
            clipping=self.clipping,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            kl=self.kl if in_loss else "none",
            kl_coefficient=self.kl_coefficient if in_loss else 0.0,
            importance_cap=importance_cap,
        )


METHODS: dict[Algorithm, Method] = {
    "grpo": Method("group_mean", "group_std", "token", "ppo", 0.2, 0.2, "sequence_mean", "forward_kl", "loss", 0.04),
    "dr_grpo": Method("group_mean", "none", "token", "ppo", 0.2, 0.2, "constant_length", "none", "loss", 0.0),
    "dapo": Method("group_mean", "group_std", "token", "ppo", 0.2, 0.28, "token_mean", "none", "loss", 0.0),
    "rloo": Method("leave_one_out", "none", "token", "none", None, None, "sequence_sum", "reverse_kl", "reward", 0.05),
    "reinforce_pp": Method(
        "batch_mean", "batch_std", "token", "ppo", 0.2, 0.2, "token_mean", "reverse_kl", "reward", 0.01
    ),
    "gspo": Method("group_mean", "group_std", "sequence", "ppo", 3e-4, 4e-4, "sequence_mean", "none", "loss", 0.0),
    "cispo": Method("group_mean", "group_std", "token", "cispo", None, 4.0, "token_mean", "none", "loss", 0.0),
}
