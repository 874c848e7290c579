"""Stages of the type `kto`: labelled completions, and pairs as two of them."""

from __future__ import annotations

from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.mixing import RowOrder
from posttrain.data.pairs import PairData
from posttrain.pipeline.estimates import StepWork
from posttrain.pipeline.kto_wiring import train_kto
from posttrain.pipeline.preference_rows import check_labelled, load_stage_pairs
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_jobs import StageJob, StageResult
from posttrain.pipeline.stage_kinds.kind import StageSetting
from posttrain.pipeline.stage_kinds.pairs import PairKind
from posttrain.pipeline.stage_rows import StageRows
from posttrain.pipeline.step_works import build_pair_work
from posttrain.stages import kto
from posttrain.stages.kto import KtoConfig


class KtoKind(PairKind[KtoConfig]):
    """KTO and BCO."""

    noun = "rows"

    # many parameters: those of RowKind.load
    def load(
        self, recipe: Recipe, config: KtoConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
    ) -> StageRows[PairData]:
        """Return the labelled completions."""
        return load_stage_pairs(
            recipe, config, renderer, context_tokens, progress, kind="unpaired", splits_pairs=config.pairs == "split"
        )

    def check_data(self, config: KtoConfig, data: StageRows[PairData]) -> None:
        """Check that there are labels of both kinds, and for KTO completions to exchange."""
        check_labelled(config, data)

    def train(self, job: StageJob, config: KtoConfig, data: StageRows[PairData], ledger: dict[str, Any]) -> StageResult:
        """Train on the completions."""
        return train_kto(job, config, data, ledger)

    def build_order(self, config: KtoConfig, train: PairData, seed: int) -> RowOrder:
        """Return which completions each step trains on."""
        return kto.build_order(config, train, seed)

    def build_work(self, setting: StageSetting, config: KtoConfig, data: StageRows[PairData]) -> StepWork:
        """Return what a step on labelled completions computes."""
        order = self.build_order(config, data.train, setting.seed)
        return build_pair_work(config, data.train, order, setting.ranks, may_share=False)

    def count_forward_tokens(self, config: KtoConfig, tokens: int, epochs: float) -> float:
        """Return the tokens of the reference's pass, and those of completions of other rows, which KTO runs too."""
        reference = tokens / max(1.0, epochs)
        return 2 * reference + tokens if config.loss == "kto" else reference


KIND = KtoKind()
