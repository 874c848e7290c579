"""Stages of the type `preference`: pairs."""

from __future__ import annotations

from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.mixing import RowOrder
from posttrain.data.pairs import PairData
from posttrain.pipeline.estimates import StepWork
from posttrain.pipeline.preference_rows import load_stage_pairs
from posttrain.pipeline.preference_wiring import train_preference
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import StageSetting
from posttrain.pipeline.stage_kinds.pairs import PairKind
from posttrain.pipeline.stage_rows import StageRows
from posttrain.pipeline.step_works import build_pair_work
from posttrain.stages import preference
from posttrain.stages.preference import PreferenceConfig


class PreferenceKind(PairKind[PreferenceConfig]):
    """Offline preference optimisation."""

    # many parameters: those of RowKind.load
    def load(
        self, recipe: Recipe, config: PreferenceConfig, renderer: Renderer, context_tokens: int | None,
        progress: Progress,
    ) -> StageRows[PairData]:  # fmt: skip
        """Return the pairs."""
        return load_stage_pairs(recipe, config, renderer, context_tokens, progress)

    def train(
        self, job: StageJob, config: PreferenceConfig, data: StageRows[PairData], ledger: dict[str, Any]
    ) -> StageResult:
        """Train on the pairs."""
        return train_preference(job, config, data, ledger)

    def build_order(self, config: PreferenceConfig, train: PairData, seed: int) -> RowOrder:
        """Return which pairs each step trains on."""
        return preference.build_order(config, train, seed)

    def build_work(self, setting: StageSetting, config: PreferenceConfig, data: StageRows[PairData]) -> StepWork:
        """Return what a step on pairs computes."""
        order = self.build_order(config, data.train, setting.seed)
        return build_pair_work(config, data.train, order, setting.ranks, may_share=config.share_prompts == "auto")

    def count_forward_tokens(self, config: PreferenceConfig, tokens: int, epochs: float) -> float:
        """Return the tokens of the reference's pass: every pair once."""
        return tokens / max(1.0, epochs) if config.method.needs_reference else 0.0


KIND = PreferenceKind()
