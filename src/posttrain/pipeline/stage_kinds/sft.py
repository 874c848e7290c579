"""Stages of the type `sft`: demonstrations and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.mixing import RowOrder
from posttrain.data.tokenized import TokenizedData
from posttrain.data.tokenizing import NothingTrainedError
from posttrain.pipeline.estimates import StepWork
from posttrain.pipeline.preflight import mask
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.step_zero import check_step_zero
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.sft_wiring import train_sft
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import KeyParts, StageSetting
from posttrain.pipeline.stage_kinds.rows import RowKind
from posttrain.pipeline.stage_rows import StageRows
from posttrain.pipeline.step_works import build_sft_work
from posttrain.pipeline.tracked_metric import describe_tracked_metric, find_tracked_metric
from posttrain.pipeline.wiring import describe_rows, load_stage_data
from posttrain.stages import sft
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import Ranks


class SftKind(RowKind[SftConfig, TokenizedData]):
    """Supervised fine-tuning."""

    # many parameters: those of RowKind.load
    def load(
        self, recipe: Recipe, config: SftConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
    ) -> StageRows[TokenizedData]:
        """Return the samples."""
        return load_stage_data(recipe, config, renderer, context_tokens, progress)

    def show(self, train: TokenizedData, tokenizer: Any, count: int) -> list[dict[str, Any]]:
        """Return the first samples."""
        return describe_rows(train.rows, tokenizer, count)

    def train(
        self, job: StageJob, config: SftConfig, data: StageRows[TokenizedData], ledger: dict[str, Any]
    ) -> StageResult:
        """Train on the samples."""
        return train_sft(job, config, data, ledger)

    def build_order(self, config: SftConfig, train: TokenizedData, seed: int) -> RowOrder:
        """Return which samples each step trains on."""
        return sft.build_order(config, train, seed)

    def list_lengths(self, train: TokenizedData) -> Sequence[npt.NDArray[np.int64]]:
        """Return the tokens of every sample."""
        return [part.lengths_R for part in train.rows]

    def identify(self, recipe: Recipe, entry: StageEntry, config: SftConfig) -> KeyParts:
        """Return the configuration, with the task that chooses among its weights where one does."""
        found = super().identify(recipe, entry, config)
        tracked = find_tracked_metric(recipe, config)
        if tracked is None:
            return found
        return replace(found, config={**found.config, "tracked": describe_tracked_metric(recipe, tracked)})

    def check_recipe(
        self, recipe: Recipe, config: SftConfig, context_tokens: int | None, ranks: Ranks
    ) -> Sequence[str]:
        """Check the rows, and name the task that chooses among its weights."""
        super().check_recipe(recipe, config, context_tokens, ranks)
        tracked = find_tracked_metric(recipe, config)
        return () if tracked is None else (tracked.task.name,)

    def build_work(self, setting: StageSetting, config: SftConfig, data: StageRows[TokenizedData]) -> StepWork:
        """Return what a step computes."""
        return build_sft_work(config, data, setting.ranks, setting.seed)

    def add_findings(self, setting: StageSetting, config: SftConfig, data: StageRows[TokenizedData]) -> list[Finding]:
        """Return what is trained on and where it ends, and whether a step fits."""
        rows = mask.choose_rows(data.train.rows, mask.MAX_ROWS, setting.seed, "mask")
        stop_ids = setting.renderer.format.stop_ids
        found = mask.check_mask(setting.stage.label, rows, data.train.ledger, config, stop_ids)
        return [found, *super().add_findings(setting, config, data)]

    def describe_untrained(self, setting: StageSetting, config: SftConfig, error: NothingTrainedError) -> Finding:
        """Return that the mask leaves nothing to train on."""
        return mask.describe_nothing_trained(setting.stage.label, error.found, error.ledger, config)

    @property
    def has_step_zero(self) -> bool:
        """Log-probs of the policy are compared before its first step."""
        return True

    def check_step_zero(self, setting: StageSetting, config: SftConfig, parent: Path, rows: Any) -> Finding:
        """Return whether the policy computes the same each way."""
        stage = setting.stage
        return check_step_zero(stage.label, parent, config, rows, name=stage.entry.name, seed=setting.seed)


KIND = SftKind()
