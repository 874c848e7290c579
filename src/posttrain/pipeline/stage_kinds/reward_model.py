"""Stages of the type `reward_model`: pairs, ratings or labelled steps."""

from __future__ import annotations

from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.mixing import RowOrder
from posttrain.data.pairs import PairData
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.reward_wiring import load_reward_data, train_reward_model
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.pairs import PairKind
from posttrain.pipeline.stage_rows import StageRows
from posttrain.stages.reward_model import RewardModelConfig, count_member_steps


class RewardModelKind(PairKind[RewardModelConfig]):
    """Reward models; their members are trained one after the other."""

    noun = "rows"

    # many parameters: those of RowKind.load
    def load(
        self, recipe: Recipe, config: RewardModelConfig, renderer: Renderer, context_tokens: int | None,
        progress: Progress,
    ) -> StageRows[PairData]:  # fmt: skip
        """Return the rows of what the stage learns from."""
        return load_reward_data(recipe, config, renderer, context_tokens, progress)

    def train(
        self, job: StageJob, config: RewardModelConfig, data: StageRows[PairData], ledger: dict[str, Any]
    ) -> StageResult:
        """Train every member."""
        return train_reward_model(job, config, data, ledger)

    def build_order(self, config: RewardModelConfig, train: PairData, seed: int) -> RowOrder:
        """Return which rows each step of a member trains on."""
        proportions = [source.proportion for source in config.data]
        return RowOrder([len(rows) for rows in train.sources], proportions, seed, config.batch_size)

    def count_steps(self, config: RewardModelConfig, steps_per_epoch: int) -> int:
        """Return the optimizer steps of a member."""
        return count_member_steps(config, steps_per_epoch)

    def count_models(self, config: RewardModelConfig) -> int:
        """Return the members."""
        return config.members


KIND = RewardModelKind()
