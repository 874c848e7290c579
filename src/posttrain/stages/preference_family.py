"""The family of direct preference optimisation: which choices make each of its members.

Every member is a point in one space of choices, all of them keys of a `preference` stage; `algorithm` names a point and
keys that are given move away from it:

* `dpo` (arXiv 2305.18290): log-ratios to the reference, sigmoid, beta 0.1.
* `dpo_norm` (Tulu 3, arXiv 2411.15124): as `dpo`, log-ratios by token, beta 5.
* `ipo` (arXiv 2310.12036): a square to the target 1 / (2 beta), which bounds how far pairs that nothing contradicts are
  driven apart; beta 0.1 is its tau.
* `cdpo`, `robust_dpo` (arXiv 2403.00409): as `dpo`, for labels of which a tenth is wrong.
* `hinge` (SLiC-HF, arXiv 2305.10425): nothing more is asked of a pair once it is 1 / beta apart. The paper's own form
  reads no reference and has a term of imitation: `implicit_reward: log_prob`, `nll_coefficient`.
* `simpo` (arXiv 2405.14734): log-probs by token without a reference, beta 2, margin 1.
* `orpo` (arXiv 2403.07691): imitation of the chosen completion, and a tenth of a comparison of odds.
* `cpo` (arXiv 2401.08417): log-probs without a reference, beta 0.1, and imitation of the chosen completion.
* `dpo_nll` (Llama 3, arXiv 2407.21783): as `dpo`, with 0.2 of imitation.
* `rdpo` (arXiv 2403.19159): as `dpo`, where a token more of the chosen completion is worth 0.01 nats less.

Formulas: `objectives.preference`. Betas and coefficients are the papers' or, where those tune them, this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from posttrain.objectives.choices import ImplicitReward, PairLoss, Smoothing

if TYPE_CHECKING:
    from posttrain.objectives.preference import PreferenceLoss

PreferenceAlgorithm = Literal[
    "dpo", "dpo_norm", "ipo", "cdpo", "robust_dpo", "hinge", "simpo", "orpo", "cpo", "dpo_nll", "rdpo"
]


@dataclass(frozen=True, slots=True)
class PreferenceMethod:
    """One member of the family: every choice made."""

    loss: PairLoss = "sigmoid"
    implicit_reward: ImplicitReward = "log_ratio"
    length_normalisation: bool = False
    beta: float = 0.1
    margin: float = 0.0
    label_smoothing: float = 0.0
    smoothing: Smoothing = "conservative"
    length_penalty: float = 0.0
    nll_coefficient: float = 0.0
    preference_coefficient: float = 1.0

    @property
    def needs_reference(self) -> bool:
        """Whether log-probs of the reference are read."""
        return self.implicit_reward == "log_ratio"

    def build_loss(self) -> PreferenceLoss:
        """Return the loss of pairs."""
        from posttrain.objectives.preference import PreferenceLoss

        return PreferenceLoss(
            loss=self.loss,
            reward=self.implicit_reward,
            is_length_normalised=self.length_normalisation,
            beta=self.beta,
            margin=self.margin,
            label_smoothing=self.label_smoothing,
            smoothing=self.smoothing,
            length_penalty=self.length_penalty,
            nll_coefficient=self.nll_coefficient,
            preference_coefficient=self.preference_coefficient,
        )


METHODS: dict[PreferenceAlgorithm, PreferenceMethod] = {
    "dpo": PreferenceMethod(),
    "dpo_norm": PreferenceMethod(length_normalisation=True, beta=5.0),
    "ipo": PreferenceMethod(loss="ipo"),
    "cdpo": PreferenceMethod(label_smoothing=0.1),
    "robust_dpo": PreferenceMethod(label_smoothing=0.1, smoothing="robust"),
    "hinge": PreferenceMethod(loss="hinge"),
    "simpo": PreferenceMethod(implicit_reward="log_prob", length_normalisation=True, beta=2.0, margin=1.0),
    "orpo": PreferenceMethod(
        implicit_reward="log_odds",
        length_normalisation=True,
        beta=1.0,
        nll_coefficient=1.0,
        preference_coefficient=0.1,
    ),
    "cpo": PreferenceMethod(implicit_reward="log_prob", nll_coefficient=1.0),
    "dpo_nll": PreferenceMethod(nll_coefficient=0.2),
    "rdpo": PreferenceMethod(length_penalty=0.01),
}
