"""Supervised fine-tuning (SFT): imitate demonstrations.

    L = - sum_n w_n log pi(y_n | x_n, y_<n) / sum_n w_n       over the trained tokens of an optimizer step

The sums run over the whole step (all micro-batches, all ranks), so the loss is a token mean and does not
depend on how rows are packed. `mode: chat` trains on the assistant's tokens and stop tokens of rendered
conversations; `mode: full_text` is continued pretraining on raw documents (every token is trained on;
mix in earlier data as a further source with a `proportion` to forget less).

Source: the supervised stage of InstructGPT (arXiv 2203.02155, section 3.5); prompts masked and token
mean as in Tulu 3 (arXiv 2411.15124, section 4).

Not here: weighting sequences equally (the per-sequence sum that equals H(p) + KL(p || pi)), distillation
from a teacher's distribution, preference losses with an SFT term.

What goes wrong with it: it averages over the modes of its data, good and bad; many epochs on few rows
memorise them (watch validation loss); skills absent from the data are forgotten (replay helps); rows cut
at `max_length` teach the policy not to stop (so truncation is refused unless chosen).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.core import metrics as keys
from posttrain.core.config import optional_field
from posttrain.core.protocols import RunContext
from posttrain.data.sources import DataSource
from posttrain.stages.row_order import order_rows
from posttrain.stages.training_keys import TrainingKeys, count_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from posttrain.core.records import Artifact
    from posttrain.data.mixing import RowOrder
    from posttrain.data.tokenized import TokenizedData
    from posttrain.kernels.layouts import Layout
    from posttrain.training.distributed import Ranks
    from posttrain.training.policy import ScoredPolicy
    from posttrain.training.step import StepBatch, Updater

STAGE_VERSION = 1


class SftConfig(TrainingKeys):
    """Configuration of an SFT stage; every key changes the result unless it is marked as display."""

    type: Literal["sft"] = "sft"
    mode: Literal["chat", "full_text"] = "chat"
    data: list[DataSource] = Field(min_length=1)
    validation: list[DataSource] = Field(default_factory=list)
    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    max_length: int | None = Field(None, ge=2, description="tokens of a row; None is the model's own limit")
    truncation: Literal["refuse", "drop", "cut_oldest_turn", "cut_completion"] = "refuse"
    max_affected_fraction: float = Field(0.005, ge=0, le=1)

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=0)
    batch_size: int = Field(32, ge=1, description="rows of an optimizer step, over all ranks")
    ema_decay: float | None = Field(None, gt=0, lt=1)

    validate_every_steps: int | None = Field(None, ge=1)
    keep: Literal["last", "best_validation_loss", "best_metric"] = "last"
    keep_metric: str | None = optional_field(pattern=keys.METRIC_PATTERN)

    @model_validator(mode="after")
    def _check_pairs(self) -> SftConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        if self.keep == "best_validation_loss" and not self.validation:
            raise ValueError("keep: best_validation_loss needs validation rows; add validation: [...]")
        self._check_kept_metric()
        if self.validate_every_steps is not None and not (self.validation or self.keep_metric):
            raise ValueError("validate_every_steps needs validation rows; add validation: [...]")
        if self.mode == "full_text" and self.train_on != "assistant":
            raise ValueError("train_on belongs to mode: chat; full_text trains on every token")
        if self.mode == "full_text" and self.truncation != "refuse":
            raise ValueError("truncation belongs to mode: chat; full_text splits documents and loses no token")
        if any(source.proportion is not None for source in self.validation):
            raise ValueError("validation: proportion belongs to training data; every validation row is measured")
        return self

    def _check_kept_metric(self) -> None:
        if self.keep == "best_metric" and self.keep_metric is None:
            raise ValueError("keep: best_metric needs keep_metric: the task, or <task>/<part>, whose score chooses")
        if self.keep != "best_metric" and self.keep_metric is not None:
            raise ValueError("keep_metric chooses nothing without keep: best_metric; set it, or leave keep_metric out")
        if self.keep == "best_metric" and self.validate_every_steps is None:
            raise ValueError("keep: best_metric needs validate_every_steps: how often the task is measured")

    @property
    def has_steps(self) -> bool:
        """Whether anything is trained on."""
        return self.steps != 0


@dataclass(slots=True)
class SftParts:
    """Live objects built by the wiring: the policy, tokenized rows, ranks, and what turns weights into an artifact.

    `measure` gives the score of `keep_metric` for the policy as it is at the call, the same on every rank, and leaves
    the policy and all random state as they were. `num_tokens` is filled in by `run`: tokens seen, prompts included.
    """

    policy: ScoredPolicy
    train: TokenizedData
    validation: TokenizedData | None
    ranks: Ranks
    device: str
    publish: Callable[[dict[str, torch.Tensor]], Artifact]
    measure: Callable[[], float] | None = None
    num_tokens: int | None = None


def run(config: SftConfig, inputs: dict[str, Artifact], parts: SftParts, context: RunContext) -> dict[str, Artifact]:
    """Train the policy on demonstrations and return the artifact of its weights."""
    del inputs  # the policy was loaded from them by the wiring; their hashes are in the artifact's key
    from posttrain.objectives.sft import compute_sft_loss
    from posttrain.training.loop import LoopFunctions, LoopSettings, TrainingLoop, space_snapshots
    from posttrain.training.step import Updater

    order = build_order(config, parts.train, context.seed)
    num_steps = count_steps(config, order.steps_per_epoch)
    if num_steps == 0:
        context.progress.note("zero steps: the policy is passed on as it is")
    updater = Updater(
        parts.policy,
        config.build_optimizer(parts.policy.model, ema_decay=config.ema_decay),
        parts.ranks,
        compute_sft_loss,
        max_grad_norm=config.max_grad_norm,
        device=parts.device,
    )

    def batch_at(step: int) -> StepBatch:
        rows = order.rows_of_step(step)
        return build_step_batch(parts.train, rows, config.micro_batch_tokens, parts.ranks, parts.policy.layout)

    loop = TrainingLoop(
        LoopSettings(
            num_steps=num_steps,
            validate_every_steps=config.validate_every_steps,
            checkpoint_every_steps=config.checkpoint_every_steps,
            log_every_steps=config.log_every_steps,
            keep_best=config.keep != "last",
            best_by=keys.name_development_metric(config.keep_metric) if config.keep_metric else keys.VALIDATION_LOSS,
            is_higher_better=config.keep == "best_metric",
            snapshot_steps=space_snapshots(num_steps, context.num_snapshots),
        ),
        LoopFunctions(
            batch_at=batch_at,
            learning_rate_at=lambda step: config.compute_learning_rate(step, num_steps),
            epoch_at=lambda step: step / order.steps_per_epoch,
            validate=build_validation(config, parts, updater),
        ),
        updater,
        context,
    )
    state = loop.run()
    parts.num_tokens = state.num_tokens
    return {"policy": parts.publish(loop.final_weights())}


def build_order(config: SftConfig, train: TokenizedData, seed: int) -> RowOrder:
    """Return which rows each step trains on: a pure function of the seed and the step."""
    return order_rows(config, train.rows, seed, noun="row", expected="at least one row with a trained token")


def build_step_batch(
    train: TokenizedData, rows: list[tuple[int, int]], micro_batch_tokens: int, ranks: Ranks, layout: Layout = "packed"
) -> StepBatch:
    """Return this rank's micro-batches of a step, with the totals of all ranks.

    Every rank knows all rows of the step, so the totals need no communication.
    """
    from posttrain.data.packing import deal
    from posttrain.training.batches import build_empty_micro_batch, build_micro_batch, count_scored
    from posttrain.training.step import StepBatch

    samples = [train.rows[source].row(index) for source, index in rows]
    row_ids = [train.rows[source].row_ids[index] for source, index in rows]
    lengths = [len(sample.ids_T) for sample in samples]
    groups = deal(group_rows(lengths, micro_batch_tokens, layout), ranks.count)[ranks.rank]
    has_filler = layout == "packed"
    micro_batches = [
        build_micro_batch([samples[i] for i in group], [row_ids[i] for i in group], has_filler=has_filler)
        if group
        else build_empty_micro_batch()
        for group in groups
    ]
    trained = sum(count_scored(sample) for sample in samples)
    return StepBatch(micro_batches, float(trained), sum(lengths), trained)


def group_rows(lengths: list[int], micro_batch_tokens: int, layout: Layout) -> list[list[int]]:
    """Return which rows of a step share a micro-batch, by their index."""
    from posttrain.data.packing import pack, pack_padded

    if layout == "single":
        return [[row] for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))]
    return (pack if layout == "packed" else pack_padded)(lengths, micro_batch_tokens)


def build_validation(config: SftConfig, parts: SftParts, updater: Updater) -> Callable[[], dict[str, float]] | None:
    """Return what measures the validation rows and the metric that chooses, or None if there is neither."""
    validation, measure = parts.validation, parts.measure
    if validation is None and measure is None:
        return None

    def validate() -> dict[str, float]:
        figures: dict[str, float] = {}
        if validation is not None:
            figures |= compute_validation(updater, validation, config.micro_batch_tokens)
        if measure is not None and config.keep_metric is not None:
            figures[keys.name_development_metric(config.keep_metric)] = measure()
        return figures

    return validate


def compute_validation(updater: Updater, validation: TokenizedData, micro_batch_tokens: int) -> dict[str, float]:
    """Return the token-mean loss and accuracy over all validation rows."""
    import torch

    from posttrain.objectives.reduction import normalise_weights

    rows = [(source, index) for source, part in enumerate(validation.rows) for index in range(len(part))]
    batch = build_step_batch(validation, rows, micro_batch_tokens, updater.ranks, updater.policy.layout)
    sums = torch.zeros(2, dtype=torch.float64, device=updater.device)
    updater.policy.eval()
    with torch.no_grad():
        for micro_batch in batch.micro_batches:
            part = micro_batch.to(updater.device)
            weights = normalise_weights(part.weights_N, batch.total_weight)
            scores = updater.policy(part, updater.objective, weights)
            sums += torch.stack([scores.loss.double(), scores.is_argmax_N.sum().double()])
    updater.policy.train()
    loss, hits = updater.ranks.sum(sums).tolist()
    return {keys.VALIDATION_LOSS: loss, "validation/mean_token_accuracy": hits / max(1, batch.num_trained)}
