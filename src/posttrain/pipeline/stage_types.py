"""The table of stage types: what a recipe must know of each before anything of it is built.

A type has a row here and a file of its name in `stage_kinds/`, which says how its stages are planned, checked and run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from posttrain.core.config import Config
from posttrain.gates.rules import RepairName
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.kto import KtoConfig
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.stages.sft import SftConfig

OF_TRAINING: tuple[RepairName, ...] = ("interpolate", "best_checkpoint", "smaller_learning_rate")
"""The repairs of any stage that moves weights in the training loop."""


@dataclass(frozen=True, slots=True)
class StageType:
    """What a recipe must know of a type of stage.

    `config` is its configuration, None for a plug-in's, which is known once it is imported. `repairs` are those that
    its gate may name. `makes` is the artifact that its stages make: where that is no policy, the policy is passed on
    as it came.
    """

    config: type[Config] | None
    repairs: tuple[RepairName, ...]
    makes: Literal["policy", "reward_model", "evaluation"] = "policy"

    @property
    def passes_policy_on(self) -> bool:
        """Whether a stage of this type leaves the policy as it came."""
        return self.makes != "policy"


STAGE_TYPES: dict[str, StageType] = {
    "sft": StageType(SftConfig, ("replay", *OF_TRAINING)),
    "grpo": StageType(GrpoConfig, OF_TRAINING),
    "preference": StageType(PreferenceConfig, OF_TRAINING),
    "kto": StageType(KtoConfig, OF_TRAINING),
    "reward_model": StageType(RewardModelConfig, (), makes="reward_model"),
    "best_of_n": StageType(BestOfNConfig, (), makes="evaluation"),
}
"""Every built-in type, by the `type` of a recipe's stage."""

PLUGIN = StageType(None, ("interpolate",))
"""A user's own stage."""

BUILT_IN_STAGES: dict[str, type[Config]] = {
    name: one.config for name, one in STAGE_TYPES.items() if one.config is not None
}
"""The configuration of every built-in stage, by the `type` of a recipe's stage."""


def find_stage_type(name: str) -> StageType:
    """Return what is known of the `type` of a recipe's stage; a name that is not built in is a plug-in's."""
    return STAGE_TYPES.get(name, PLUGIN)
