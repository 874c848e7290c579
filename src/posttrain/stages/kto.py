"""KTO and BCO: preference optimisation from labels of single completions, desirable or undesirable.

    minimise  E_(x, y, label) [ w_label (1 - sigma(+-beta (r - z))) ]  or  [ -w_label log sigma(+-(beta r - d)) ]
    r = log pi(y|x) - log ref(y|x)

The first is KTO, with the KL from the reference estimated as z; the second is BCO, with a moving average of rewards d
(`objectives.kto` has both). z is the mean over the step's rows of log pi(y'|x) / ref(y'|x), where y' is the completion
of another row, the same one throughout (`data.mismatched`): one more pass without a gradient. The reference is the
policy that the stage starts from: its log-probs are computed before the first step and kept on disk. A step's loss is
the mean over its rows. Pairs become two rows each, the chosen completion desirable and the rejected one undesirable.

Sources: Ethayarajh et al. 2024, "KTO" (arXiv 2402.01306); Jung et al. 2024, "BCO" (arXiv 2404.04656).

Not here: losses of pairs (`preference`), labels on a scale, weights of single rows.

What goes wrong with it: with few undesirable rows there is little to push away from, and `undesirable_weight` must make
up for it; completions that are mostly undesirable are driven to probability 0, with what resembles them; labels that
were given to other policies' completions teach little about this one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.core import metrics as keys
from posttrain.core.config import display_field
from posttrain.core.protocols import RunContext
from posttrain.data.sources import DataSource
from posttrain.stages.row_order import order_rows
from posttrain.stages.training_keys import TrainingKeys, count_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from posttrain.core.records import Artifact
    from posttrain.data.mixing import RowOrder
    from posttrain.data.pairs import PairData, PairRows
    from posttrain.objectives.kto import BcoLoss, KtoLoss
    from posttrain.stages.kto_batches import KtoBatches
    from posttrain.stages.preference_batches import PairBatches, Place
    from posttrain.stages.reference_logprobs import ReferenceCache
    from posttrain.training.distributed import Ranks
    from posttrain.training.policy import ScoredPolicy
    from posttrain.training.step import StepBatch, Updater

STAGE_VERSION = 1
SHIFT_DECAY = 0.9
"""Of BCO's moving averages, where `shift_decay` is not given."""
ADVISED_BALANCE = (1.0, 4 / 3)
"""How much desirable rows should weigh beside undesirable ones (arXiv 2402.01306), with room for rounding."""


class KtoConfig(TrainingKeys):
    """Configuration of a KTO stage."""

    type: Literal["kto"] = "kto"
    loss: Literal["kto", "bco"] = "kto"
    data: list[DataSource] = Field(min_length=1)
    validation: list[DataSource] = Field(default_factory=list)
    pairs: Literal["split", "refuse"] = "split"
    max_length: int | None = Field(None, ge=3, description="tokens of a prompt with its completion")
    truncation: Literal["refuse", "drop", "cut_oldest_turn"] = "refuse"
    max_affected_fraction: float = Field(0.005, ge=0, le=1)

    beta: float = Field(0.1, gt=0, le=1000)
    desirable_weight: float = Field(1.0, ge=0)
    undesirable_weight: float = Field(1.0, ge=0)
    shift_decay: float | None = Field(None, ge=0, lt=1)

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=0)
    batch_size: int = Field(32, ge=1, description="rows of an optimizer step, over all ranks")
    validate_every_steps: int | None = Field(None, ge=1)
    keep: Literal["last", "best_validation_loss"] = "last"
    logps_drop: float | None = display_field(0.5, gt=0, description="nats a token that both log-probs may fall by")
    on_alarm: Literal["warn", "stop"] = display_field("warn")

    learning_rate: float = Field(1e-6, gt=0, lt=10)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    activation_checkpointing: Literal["on", "off"] = "off"

    @model_validator(mode="after")
    def _check_choices(self) -> KtoConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        if not self.desirable_weight and not self.undesirable_weight:
            raise ValueError("with both weights 0 nothing is trained on: raise desirable_weight or undesirable_weight")
        if self.loss == "kto" and self.shift_decay is not None:
            raise ValueError("shift_decay is of BCO's shift: set loss: bco, or leave shift_decay out")
        if self.keep != "last" and not self.validation:
            raise ValueError(f"keep: {self.keep} needs validation rows; add validation: [...]")
        if self.validate_every_steps is not None and not self.validation:
            raise ValueError("validate_every_steps needs validation rows; add validation: [...]")
        if any(source.proportion is not None for source in self.validation):
            raise ValueError("validation: proportion belongs to training data; every validation row is measured")
        if self.on_alarm == "stop" and self.logps_drop is None:
            raise ValueError("on_alarm: stop needs logps_drop: what both log-probs may fall by")
        return self

    @property
    def has_steps(self) -> bool:
        """Whether anything is trained on."""
        return self.steps != 0

    def build_loss(self) -> KtoLoss | BcoLoss:
        """Return the loss of completions."""
        from posttrain.objectives.kto import BcoLoss, KtoLoss

        kind = KtoLoss if self.loss == "kto" else BcoLoss
        return kind(self.beta, self.desirable_weight, self.undesirable_weight)


@dataclass(slots=True)
class KtoParts:
    """Live objects built by the wiring.

    `references` says where the starting policy's log-probs are kept; `context_tokens` is the longest row that the
    policy takes, None where it takes any. `num_tokens` is filled in by `run`: tokens seen, prompts included.
    """

    policy: ScoredPolicy
    train: PairData
    validation: PairData | None
    references: ReferenceCache
    context_tokens: int | None
    name: str
    ranks: Ranks
    device: str
    publish: Callable[[dict[str, torch.Tensor]], Artifact]
    num_tokens: int | None = None


def run(config: KtoConfig, inputs: dict[str, Artifact], parts: KtoParts, context: RunContext) -> dict[str, Artifact]:
    """Train the policy on labelled completions and return the artifact of its weights.

    Raises:
        DataError: All labels, or all completions, are the same.
        RefusedError: Both log-probs fell by more than `logps_drop`, and `on_alarm` is stop; a checkpoint was saved.
    """
    del inputs  # the policy was loaded from them by the wiring; their hashes are in the artifact's key
    from posttrain.kernels.token_logprobs import TokenScores
    from posttrain.objectives.kto import UnpairedObjective
    from posttrain.stages.kto_figures import UnpairedFigures, describe_unpaired, has_both_labels
    from posttrain.stages.preference_figures import FallAlarm
    from posttrain.training.batches import MicroBatch
    from posttrain.training.loop import LoopFunctions, LoopSettings, TrainingLoop, space_snapshots
    from posttrain.training.step import Updater

    order = build_order(config, parts.train, context.seed)
    num_steps = count_steps(config, order.steps_per_epoch)
    if num_steps == 0:
        context.progress.note("zero steps: the policy is passed on as it is")
    batches = build_batches(config, parts, parts.train, order.rows_of_steps(num_steps), context)
    note_balance(config, batches, context)
    figures = UnpairedFigures(config.build_loss(), parts.ranks, parts.device)
    alarm = FallAlarm(config.logps_drop, config.on_alarm == "stop", True, parts.name, context.progress.note)

    def observe(batch: MicroBatch, scores: TokenScores) -> None:
        figures.observe(batch, scores)
        batches.observe(batch, scores.logprobs_N)

    updater = Updater(
        parts.policy,
        config.build_optimizer(parts.policy.model),
        parts.ranks,
        UnpairedObjective(config.build_loss()),
        max_grad_norm=config.max_grad_norm,
        device=parts.device,
        observe=observe,
        with_entropy=False,
    )

    def batch_at(step: int) -> StepBatch:
        return batches.build_step(order.rows_of_step(step))  # the reference point, then rows, labels, micro-batches

    def collect() -> dict[str, float]:
        sums = figures.collect()
        return describe_unpaired(sums) | batches.collect_point() | (alarm.look(sums) if has_both_labels(sums) else {})

    def restore(kept: dict[str, str]) -> None:
        figures.restore(kept)
        batches.restore(kept)
        alarm.restore(kept)

    loop = TrainingLoop(
        LoopSettings(
            num_steps=num_steps,
            validate_every_steps=config.validate_every_steps,
            checkpoint_every_steps=config.checkpoint_every_steps,
            log_every_steps=config.log_every_steps,
            keep_best=config.keep != "last",
            best_by=keys.VALIDATION_LOSS,
            snapshot_steps=space_snapshots(num_steps, context.num_snapshots),
        ),
        LoopFunctions(
            batch_at=batch_at,
            learning_rate_at=lambda step: config.compute_learning_rate(step, num_steps),
            epoch_at=lambda step: step / order.steps_per_epoch,
            validate=build_validation(config, parts, batches, updater, context),
            figures=collect,
            keep_figures=lambda: figures.keep() | batches.keep() | alarm.keep(),
            restore_figures=restore,
        ),
        updater,
        context,
        alarm,
    )
    state = loop.run()  # resume; at each step: reference point, log-probs, loss, update, record, and at times save
    parts.num_tokens = state.num_tokens
    return {"policy": parts.publish(loop.final_weights())}


def build_order(config: KtoConfig, train: PairData, seed: int) -> RowOrder:
    """Return which rows each step trains on: a pure function of the seed and the step."""
    return order_rows(config, train.sources, seed, noun="row", expected="rows of both labels")


def build_batches(
    config: KtoConfig, parts: KtoParts, data: PairData, places: list[Place], context: RunContext
) -> KtoBatches:
    """Return what lays rows out, with the reference's log-probs of those that are asked for.

    Raises:
        DataError: All labels, or for KTO all completions, are the same.
    """
    from posttrain.data.mismatched import mismatch_rows
    from posttrain.data.unpaired import read_labels
    from posttrain.stages.kto_batches import KlSamples, KtoBatches
    from posttrain.stages.preference_batches import PairBatches, References
    from posttrain.stages.reference_logprobs import load_references

    def lay_out(sources: Sequence[PairRows]) -> PairBatches:
        return PairBatches(sources, parts.ranks, parts.policy.layout, False, config.micro_batch_tokens)

    def load(batches: PairBatches) -> References:
        return load_references(
            parts.policy, batches, places, parts.references, device=parts.device, progress=context.progress
        )

    labels, own = read_labels(data.sources), lay_out(data.sources)
    kl_samples = None
    if config.loss == "kto":
        lengths = [limit for limit in (config.max_length, parts.context_tokens) if limit is not None]
        others = lay_out(mismatch_rows(data.sources, min(lengths, default=None)))
        kl_samples = KlSamples(others, load(others) if places else [])
    decay = SHIFT_DECAY if config.shift_decay is None else config.shift_decay
    references = load(own) if places else []
    return KtoBatches(own, labels, references, parts.policy, parts.device, config.beta, decay, kl_samples)


def note_balance(config: KtoConfig, batches: KtoBatches, context: RunContext) -> None:
    """Say how much both labels weigh, where that is not as KTO's authors advise."""
    from posttrain.objectives.kto import compute_balance

    good = sum(int(labels_R.sum()) for labels_R in batches.labels)
    bad = sum(len(labels_R) for labels_R in batches.labels) - good
    text = f"{good:,} desirable and {bad:,} undesirable rows"
    if not config.undesirable_weight:
        context.progress.note(f"{text}, the latter of weight 0")
        return
    balance = compute_balance(good, bad, config.desirable_weight, config.undesirable_weight)
    low, high = ADVISED_BALANCE
    is_advised = low - 0.05 <= balance <= high + 0.05
    advice = "" if is_advised else f"; advised is {low:g} to {high:.2f}: set desirable_weight or undesirable_weight"
    context.progress.note(f"{text}; together they weigh {balance:.3g} to 1{advice}")


def build_validation(
    config: KtoConfig, parts: KtoParts, train: KtoBatches, updater: Updater, context: RunContext
) -> Callable[[], dict[str, float]] | None:
    """Return what measures the validation rows, or None if there are none; BCO's are held against the current shift."""
    if parts.validation is None:
        return None
    from posttrain.stages.kto_figures import UnpairedFigures, describe_unpaired_validation
    from posttrain.stages.preference_batches import compute_token_logprobs

    data = parts.validation
    places = [(source, row) for source, rows in enumerate(data.sources) for row in range(len(rows))]
    batches = build_batches(config, parts, data, places, context)

    def validate() -> dict[str, float]:
        figures = UnpairedFigures(config.build_loss(), parts.ranks, parts.device)
        point = batches.measure_kl_point(places) if config.loss == "kto" else train.settle().value
        updater.policy.eval()
        for micro_batch in batches.iterate(places, point):
            part = micro_batch.to(parts.device)
            figures.add(part, compute_token_logprobs(updater.policy, part))
        updater.policy.train()
        return describe_unpaired_validation(figures.collect())

    return validate
