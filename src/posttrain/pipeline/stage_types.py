"""What the package brings along, by the name that a recipe uses: stages (`scorer_settings` has the scorers)."""

from __future__ import annotations

from posttrain.core.config import Config
from posttrain.stages.best_of_n import BestOfNConfig
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.kto import KtoConfig
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.stages.sft import SftConfig

BUILT_IN_STAGES: dict[str, type[Config]] = {
    "sft": SftConfig,
    "grpo": GrpoConfig,
    "preference": PreferenceConfig,
    "kto": KtoConfig,
    "reward_model": RewardModelConfig,
    "best_of_n": BestOfNConfig,
}
"""The configuration of every built-in stage, by the `type` of a recipe's stage."""
