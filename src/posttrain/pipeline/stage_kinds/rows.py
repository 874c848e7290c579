"""What all stages have in common that are trained on rows, whatever a row is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import Renderer
from posttrain.core.errors import RecipeError
from posttrain.core.protocols import Progress
from posttrain.data.mixing import RowOrder
from posttrain.data.tokenizing import CONTAMINATED, NothingTrainedError
from posttrain.data.truncation import TOO_LONG
from posttrain.pipeline.decontaminating import describe_decontamination, list_searched_tasks
from posttrain.pipeline.estimates import StepWork, estimate_memory, estimate_seconds
from posttrain.pipeline.preflight import contamination, truncation
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.memory import check_memory, shape_adapter
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_costs import StageCost, count_tokens, list_learning_rates
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, StageResult, read_stage_rows
from posttrain.pipeline.stage_kinds.kind import CheckedRows, KeyParts, StageKind, StageSetting
from posttrain.pipeline.stage_rows import RowConfig, RowKeys, Rows, StageRows, describe_reading
from posttrain.pipeline.wiring import fingerprint_sources, identify_left_out
from posttrain.stages.training_keys import count_steps
from posttrain.training.distributed import Ranks, find_device

C = TypeVar("C", bound=RowConfig)
T = TypeVar("T", bound=Rows)

FORWARD_SHARE = 1 / 3
"""Of an update's operations: a backward pass is about two forward ones."""


class RowKind(StageKind[C], Generic[C, T]):
    """A type of stage that is trained on tokenized rows of the class T; `noun` is what its notes call them."""

    noun: Literal["rows", "pairs"] = "rows"

    # many parameters: those of every function that reads a stage's rows
    @abstractmethod
    def load(
        self, recipe: Recipe, config: C, renderer: Renderer, context_tokens: int | None, progress: Progress
    ) -> StageRows[T]:
        """Return the rows, tokenized now or read from the run folder's cache."""

    @abstractmethod
    def show(self, train: T, tokenizer: Any, count: int) -> list[dict[str, Any]]:
        """Return the first rows, token by token: `{row_id, tokens: [[text, id, source, trainable]]}`."""

    @abstractmethod
    def train(self, job: StageJob, config: C, data: StageRows[T], ledger: dict[str, Any]) -> StageResult:
        """Train on rows that have been read, and return what the stage made."""

    @abstractmethod
    def build_order(self, config: C, train: T, seed: int) -> RowOrder:
        """Return which rows each step trains on."""

    @abstractmethod
    def list_lengths(self, train: T) -> Sequence[npt.NDArray[np.int64]]:
        """Return the tokens of every row, for each source."""

    def check_data(self, config: C, data: StageRows[T]) -> None:
        """Check that rows which could be read teach anything.

        Raises:
            DataError: They do not: labels that are all the same, numbers that mean nothing.
        """

    def count_steps(self, config: C, steps_per_epoch: int) -> int:
        """Return the optimizer steps of one model."""
        return count_steps(config, steps_per_epoch)

    def count_models(self, config: C) -> int:
        """Return how many models are trained one after the other."""
        return 1

    @abstractmethod
    def build_work(self, setting: StageSetting, config: C, data: StageRows[T]) -> StepWork:
        """Return what a step computes, of one model."""

    def count_forward_tokens(self, config: C, tokens: int, epochs: float) -> float:
        """Return the tokens that are run without being trained on, where so many are trained on in so many passes."""
        return 0.0

    def add_findings(self, setting: StageSetting, config: C, data: StageRows[T]) -> list[Finding]:
        """Return what rows say beyond their lengths and contamination: whether the largest step fits."""
        longest = max(int(lengths.max(initial=1)) for lengths in self.list_lengths(data.train))
        shaped = shape_adapter(setting.recipe, setting.stage.entry, config)
        return [
            check_memory(
                setting.stage.label,
                setting.base,
                shaped,
                lambda changed: self.build_work(setting, changed, data),
                setting.ranks,
                longest=longest,
            )
        ]

    def describe_untrained(self, setting: StageSetting, config: C, error: NothingTrainedError) -> Finding:
        """Return what is said of rows none of which is trained on for a reason of their own.

        Raises:
            DataError: The rows are none that such a stage can read.
        """
        raise error

    @property
    def has_step_zero(self) -> bool:
        """Whether the policy is checked on rows before its first step, as often as the stage is run."""
        return False

    def identify(self, recipe: Recipe, entry: StageEntry, config: C) -> KeyParts:
        """Return the configuration, in which rows count by content and not by the path they were read from."""
        identity = {
            **config.identity(),
            "data": len(config.data),
            "proportions": [source.proportion for source in config.data],
            "validation": len(config.validation),
            **identify_left_out(recipe, config.data),
        }
        return KeyParts(identity, fingerprint_sources(recipe, [*config.data, *config.validation]))

    def check_recipe(self, recipe: Recipe, config: C, context_tokens: int | None, ranks: Ranks) -> Sequence[str]:
        """Check that rows are there and will fit the model."""
        check_max_length(config, context_tokens)
        fingerprint_sources(recipe, [*config.data, *config.validation])
        return ()

    def estimate(self, setting: StageSetting, config: C, *, is_cached: bool) -> StageCost:
        """Return steps, learning rates, tokens and time of all models, and the memory of a step."""
        data = self._load(setting, config)
        self.check_data(config, data)
        order = self.build_order(config, data.train, setting.seed)
        steps, models = self.count_steps(config, order.steps_per_epoch), self.count_models(config)
        tokens = count_tokens(order, self.list_lengths(data.train), steps)
        work = self.build_work(setting, config, data)
        # Before anything is timed, which would count as the process's own.
        memory = estimate_memory(setting.base, config, work, setting.ranks)
        seconds = 0.0
        if not is_cached:
            forward = self.count_forward_tokens(config, tokens, steps / order.steps_per_epoch)
            computed = tokens + round(forward * FORWARD_SHARE)
            seconds = models * estimate_seconds(setting.base, config, work, computed, device=find_device())
        return StageCost(
            steps=steps * models,
            tokens=tokens * models,
            learning_rates=list_learning_rates(config, steps),
            memory_bytes=memory.total,
            seconds=seconds,
        )

    def check_rows(self, setting: StageSetting, config: C, *, is_new: bool) -> CheckedRows:
        """Return what the lengths of all rows and evaluation items among them say, and what the type adds."""
        if not (is_new or self.has_step_zero):
            return CheckedRows()
        # All rows are looked at, however many are too long: that is for the check of truncation to judge.
        lenient = config.model_copy(update={"max_affected_fraction": 1.0})
        try:
            data = self._load(setting, lenient)
        except NothingTrainedError as error:
            return CheckedRows([self._describe_nothing(setting, config, error)] if is_new else [])
        if num_now := data.train.num_tokenized:
            setting.progress.note(f"{setting.stage.label}: {num_now:,} {self.noun} tokenized now")
        findings = []
        if is_new:
            self.check_data(config, data)
            findings = [*check_ledgers(setting, config, data), *self.add_findings(setting, config, data)]
        return CheckedRows(findings, data if self.has_step_zero else None)

    def _describe_nothing(self, setting: StageSetting, config: C, error: NothingTrainedError) -> Finding:
        label = setting.stage.label
        if CONTAMINATED in error.ledger.dropped:
            return contamination.describe_all_contaminated(label, error.found, error.ledger)
        if TOO_LONG in error.ledger.dropped:
            return truncation.describe_all_too_long(
                label,
                f"{error.place}: {error.found}",
                error.ledger,
                config.max_length or setting.context_tokens,
                setting.context_tokens,
            )
        return self.describe_untrained(setting, config, error)

    def preview(self, setting: StageSetting, config: C, count: int) -> list[dict[str, Any]]:
        """Return the first rows of each source, however long they are."""
        few = {
            "data": [source.model_copy(update={"rows": min(count, source.rows or count)}) for source in config.data],
            "validation": [],
            "max_affected_fraction": 1.0,
        }
        rows = self._load(setting, config.model_copy(update=few))
        return self.show(rows.train, setting.renderer.tokenizer, count)

    def run(self, job: StageJob, config: C) -> StageResult:
        """Read the rows, write down the ledger and the first of them, and train."""

        def load(context_tokens: int | None, may_be_long: bool, progress: Progress) -> StageRows[T]:
            read = config.model_copy(update={"max_affected_fraction": 1.0}) if may_be_long else config
            return self.load(job.recipe, read, job.renderer, context_tokens, progress)

        data, ledger = read_stage_rows(job, load, lambda rows, count: self.show(rows, job.renderer.tokenizer, count))
        self.check_data(config, data)  # refused before the policy is loaded
        job.context.progress.note(describe_reading(data, self.noun))
        return self.train(job, config, data, ledger)

    def _load(self, setting: StageSetting, config: C) -> StageRows[T]:
        return self.load(setting.recipe, config, setting.renderer, setting.context_tokens, setting.progress)


def check_ledgers(setting: StageSetting, config: RowKeys, data: StageRows[Any]) -> list[Finding]:
    """Return what becomes of too long rows, and of those that hold evaluation items where any are looked for."""
    label, context_tokens, recipe = setting.stage.label, setting.context_tokens, setting.recipe
    max_length = config.max_length or context_tokens
    ledgers = data.list_ledgers()
    found = [truncation.check_truncation(label, config, ledgers, max_length=max_length, context_tokens=context_tokens)]
    if list_searched_tasks(recipe):
        searched, settings = describe_decontamination(recipe), recipe.head.decontaminate
        found.append(contamination.check_contamination(label, data.train.ledgers, settings, searched))
    return found


def check_max_length(config: RowKeys, context_tokens: int | None) -> None:
    """Check that rows will fit the model.

    Raises:
        RecipeError: `max_length` is longer than the model's context.
    """
    if config.max_length is not None and config.max_length > (context_tokens or config.max_length):
        raise RecipeError(
            f"max_length {config.max_length} is longer than the model's context of {context_tokens} tokens",
            expected=f"at most {context_tokens}",
            cure="lower max_length, or leave it out",
            place="max_length",
        )
