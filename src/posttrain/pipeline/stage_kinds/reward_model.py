"""Stages of the type `reward_model`: pairs, ratings or labelled steps."""

from __future__ import annotations

from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.mixing import RowOrder
from posttrain.data.pairs import PairData
from posttrain.pipeline.estimates import StepWork
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.reward_wiring import load_reward_data, train_reward_model
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import StageSetting
from posttrain.pipeline.stage_kinds.pairs import PairKind
from posttrain.pipeline.stage_rows import StageRows
from posttrain.pipeline.step_works import build_reward_work
from posttrain.stages.reward_model import RewardModelConfig, count_member_steps
from posttrain.stages.reward_rows import check_rows
from posttrain.stages.row_order import order_rows


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

    def check_data(self, config: RewardModelConfig, data: StageRows[PairData]) -> None:
        """Check the labels and the numbers of what the model learns from."""
        check_rows(config, data.train, data.validation)

    def train(
        self, job: StageJob, config: RewardModelConfig, data: StageRows[PairData], ledger: dict[str, Any]
    ) -> StageResult:
        """Train every member."""
        return train_reward_model(job, config, data, ledger)

    def build_order(self, config: RewardModelConfig, train: PairData, seed: int) -> RowOrder:
        """Return which rows each step of a member trains on."""
        return order_rows(config, train.sources, seed, noun="row", expected="at least one row that can be judged")

    def count_steps(self, config: RewardModelConfig, steps_per_epoch: int) -> int:
        """Return the optimizer steps of a member."""
        return count_member_steps(config, steps_per_epoch)

    def count_models(self, config: RewardModelConfig) -> int:
        """Return the members."""
        return config.members

    def build_work(self, setting: StageSetting, config: RewardModelConfig, data: StageRows[PairData]) -> StepWork:
        """Return what a step of a member computes."""
        return build_reward_work(config, data.train, setting.ranks, setting.seed)


KIND = RewardModelKind()
