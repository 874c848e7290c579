"""Offline preference optimisation (DPO and its family): make chosen completions more probable than rejected ones.

    minimise  E_(x, w, l) [ f(z) ] + nll_coefficient E[ -log pi(w | x) / n_w ],    z = beta (h(w) - h(l)) - margin + ...

`algorithm` names the choice of loss f, implicit reward h and terms beside them (`preference_family` has the list), and
each choice is a key of its own; the formulas stand in `objectives.preference`. A step's loss is the mean over its
pairs, so that it does not depend on how they are packed. Both completions of a pair lie behind one prompt in a packed
row, which is run once. The reference is the policy that the stage starts from: its log-probs are computed before the
first step and kept on disk, so that no second model is in memory.

Source: Rafailov et al. 2023, "Direct Preference Optimization" (arXiv 2305.18290); the members' own in
`preference_family`.

Not here: labels of single completions (KTO), reward models, completions drawn while training (online preference).

What goes wrong with it: only differences count, so that chosen completions may become less probable too, as long as
rejected ones fall faster (`logps_drop` watches that); longer completions win where annotators like length
(`length_penalty`, `length_normalisation`); pairs that nothing contradicts are driven apart without an end (`ipo`,
`cdpo`); completions that the policy would never give teach little (train on what it draws itself).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from posttrain.core import metrics as keys
from posttrain.core.config import display_field
from posttrain.core.protocols import RunContext
from posttrain.data.sources import DataSource
from posttrain.objectives.choices import ImplicitReward, PairLoss, Smoothing
from posttrain.stages.preference_family import METHODS, PreferenceAlgorithm, PreferenceMethod
from posttrain.stages.row_order import order_rows
from posttrain.stages.training_keys import TrainingKeys, count_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from posttrain.core.records import Artifact
    from posttrain.data.mixing import RowOrder
    from posttrain.data.pairs import PairData
    from posttrain.stages.preference_batches import PairBatches, Place, References
    from posttrain.stages.reference_logprobs import ReferenceCache
    from posttrain.training.distributed import Ranks
    from posttrain.training.policy import ScoredPolicy
    from posttrain.training.step import StepBatch, Updater

STAGE_VERSION = 1


class PreferenceConfig(TrainingKeys):
    """Configuration of a preference stage; what `algorithm` says of a key that is not given holds."""

    type: Literal["preference"] = "preference"
    algorithm: PreferenceAlgorithm = "dpo"
    data: list[DataSource] = Field(min_length=1)
    validation: list[DataSource] = Field(default_factory=list)
    max_length: int | None = Field(None, ge=3, description="tokens of a prompt with its longer completion")
    truncation: Literal["refuse", "drop", "cut_oldest_turn"] = "refuse"
    max_affected_fraction: float = Field(0.005, ge=0, le=1)

    loss: PairLoss | None = None
    implicit_reward: ImplicitReward | None = None
    length_normalisation: bool | None = None
    beta: float | None = Field(None, gt=0, le=1000)
    margin: float | None = Field(None, ge=0)
    label_smoothing: float | None = Field(None, ge=0, lt=0.5)
    smoothing: Smoothing | None = None
    length_penalty: float | None = Field(None, ge=0)
    nll_coefficient: float | None = Field(None, ge=0)
    preference_coefficient: float | None = Field(None, gt=0)

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=0)
    batch_size: int = Field(32, ge=1, description="pairs of an optimizer step, over all ranks")
    share_prompts: Literal["auto", "off"] = "auto"
    validate_every_steps: int | None = Field(None, ge=1)
    keep: Literal["last", "best_validation_loss", "best_validation_accuracy"] = "last"
    logps_drop: float | None = display_field(0.5, gt=0, description="nats a token that both log-probs may fall by")
    on_alarm: Literal["warn", "stop"] = display_field("warn")

    learning_rate: float = Field(1e-6, gt=0, lt=10)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    activation_checkpointing: Literal["on", "off"] = "off"

    @model_validator(mode="after")
    def _check_choices(self) -> PreferenceConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        if self.keep != "last" and not self.validation:
            raise ValueError(f"keep: {self.keep} needs validation rows; add validation: [...]")
        if self.validate_every_steps is not None and not self.validation:
            raise ValueError("validate_every_steps needs validation rows; add validation: [...]")
        if any(source.proportion is not None for source in self.validation):
            raise ValueError("validation: proportion belongs to training data; every validation row is measured")
        if self.on_alarm == "stop" and self.logps_drop is None:
            raise ValueError("on_alarm: stop needs logps_drop: what both log-probs may fall by")
        method = self.method
        if method.implicit_reward == "log_odds" and not method.length_normalisation:
            raise ValueError("implicit_reward: log_odds is of the mean token: set length_normalisation: true")
        if method.loss == "ipo" and method.margin:
            raise ValueError("loss: ipo has a margin of its own, 1 / (2 beta): leave margin out")
        if method.loss == "ipo" and method.length_penalty:
            raise ValueError("loss: ipo has no reward that a length could be taken off: leave length_penalty out")
        if method.smoothing == "robust" and not method.label_smoothing:
            raise ValueError("smoothing: robust corrects for wrong labels: set label_smoothing to their share")
        if method.length_normalisation and method.length_penalty:
            raise ValueError("length_normalisation takes length out already: leave length_penalty out")
        return self

    @property
    def has_steps(self) -> bool:
        """Whether anything is trained on."""
        return self.steps != 0

    @property
    def method(self) -> PreferenceMethod:
        """Every choice: the key's, else the algorithm's."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(PreferenceMethod)}
        chosen = {name: value for name, value in given.items() if value is not None}
        if chosen.get("label_smoothing") == 0 and "smoothing" not in chosen:
            chosen["smoothing"] = "conservative"
        return replace(METHODS[self.algorithm], **chosen)


@dataclass(slots=True)
class PreferenceParts:
    """Live objects built by the wiring.

    `references` says where the starting policy's log-probs are kept. `num_tokens` is filled in by `run`: tokens seen,
    prompts included.
    """

    policy: ScoredPolicy
    train: PairData
    validation: PairData | None
    is_sharing_exact: bool
    references: ReferenceCache
    name: str
    ranks: Ranks
    device: str
    publish: Callable[[dict[str, torch.Tensor]], Artifact]
    num_tokens: int | None = None


def run(
    config: PreferenceConfig, inputs: dict[str, Artifact], parts: PreferenceParts, context: RunContext
) -> dict[str, Artifact]:
    """Train the policy on pairs and return the artifact of its weights.

    Raises:
        RefusedError: Both log-probs fell by more than `logps_drop`, and `on_alarm` is stop; a checkpoint was saved.
    """
    del inputs  # the policy was loaded from them by the wiring; their hashes are in the artifact's key
    from posttrain.objectives.preference import PreferenceObjective
    from posttrain.stages.preference_figures import FallAlarm, PairFigures, describe_pairs
    from posttrain.training.loop import LoopFunctions, LoopSettings, TrainingLoop, space_snapshots
    from posttrain.training.step import Updater

    order = build_order(config, parts.train, context.seed)
    num_steps = count_steps(config, order.steps_per_epoch)
    if num_steps == 0:
        context.progress.note("zero steps: the policy is passed on as it is")
    loss, batches = config.method.build_loss(), build_batches(config, parts, parts.train)
    references = load_train_references(config, parts, batches, order, num_steps, context)
    figures = PairFigures(loss, parts.ranks, parts.device)
    has_reference = config.method.needs_reference
    alarm = FallAlarm(config.logps_drop, config.on_alarm == "stop", has_reference, parts.name, context.progress.note)
    updater = Updater(
        parts.policy,
        config.build_optimizer(parts.policy.model),
        parts.ranks,
        PreferenceObjective(loss),
        max_grad_norm=config.max_grad_norm,
        device=parts.device,
        observe=figures.observe,
        with_entropy=False,
    )

    def batch_at(step: int) -> StepBatch:
        return batches.build_step(order.rows_of_step(step), references)

    def collect() -> dict[str, float]:
        sums = figures.collect()
        return describe_pairs(sums) | alarm.look(sums)

    def restore(kept: dict[str, str]) -> None:
        figures.restore(kept)
        alarm.restore(kept)

    loop = TrainingLoop(
        LoopSettings(
            num_steps=num_steps,
            validate_every_steps=config.validate_every_steps,
            checkpoint_every_steps=config.checkpoint_every_steps,
            log_every_steps=config.log_every_steps,
            keep_best=config.keep != "last",
            best_by=keys.VALIDATION_REWARD_ACCURACY
            if config.keep == "best_validation_accuracy"
            else keys.VALIDATION_LOSS,
            is_higher_better=config.keep == "best_validation_accuracy",
            snapshot_steps=space_snapshots(num_steps, context.num_snapshots),
        ),
        LoopFunctions(
            batch_at=batch_at,
            learning_rate_at=lambda step: config.compute_learning_rate(step, num_steps),
            epoch_at=lambda step: step / order.steps_per_epoch,
            validate=build_validation(config, parts, updater, context),
            figures=collect,
            keep_figures=lambda: figures.keep() | alarm.keep(),
            restore_figures=restore,
        ),
        updater,
        context,
        alarm,
    )
    state = loop.run()  # resume; at each step: log-probs of both branches, loss, update, record, and at times save
    parts.num_tokens = state.num_tokens
    return {"policy": parts.publish(loop.final_weights())}


def build_order(config: PreferenceConfig, train: PairData, seed: int) -> RowOrder:
    """Return which pairs each step trains on: a pure function of the seed and the step."""
    return order_rows(config, train.sources, seed, noun="pair", expected="at least one pair whose branches differ")


def build_batches(config: PreferenceConfig, parts: PreferenceParts, data: PairData) -> PairBatches:
    """Return what lays pairs out for the policy."""
    from posttrain.stages.preference_batches import PairBatches

    layout = parts.policy.layout
    is_shared = config.share_prompts == "auto" and parts.is_sharing_exact and layout == "packed"
    return PairBatches(data.sources, parts.ranks, layout, is_shared, config.micro_batch_tokens)


# many parameters: what is trained on, in which order and for how long, and by whom
def load_train_references(
    config: PreferenceConfig,
    parts: PreferenceParts,
    batches: PairBatches,
    order: RowOrder,
    num_steps: int,
    context: RunContext,
) -> References | None:
    """Return the reference's log-probs of every pair that some step trains on; None where none are read."""
    return _load_references(config, parts, batches, order.rows_of_steps(num_steps), context)


def _load_references(
    config: PreferenceConfig, parts: PreferenceParts, batches: PairBatches, places: list[Place], context: RunContext
) -> References | None:
    if not config.method.needs_reference or not places:
        return None
    from posttrain.stages.reference_logprobs import load_references

    return load_references(
        parts.policy, batches, places, parts.references, device=parts.device, progress=context.progress
    )


def build_validation(
    config: PreferenceConfig, parts: PreferenceParts, updater: Updater, context: RunContext
) -> Callable[[], dict[str, float]] | None:
    """Return what measures the validation pairs, or None if there are none."""
    if parts.validation is None:
        return None
    from posttrain.stages.preference_batches import compute_token_logprobs
    from posttrain.stages.preference_figures import PairFigures, describe_validation

    data = parts.validation
    places = [(source, row) for source, rows in enumerate(data.sources) for row in range(len(rows))]
    batches = build_batches(config, parts, data)
    references = _load_references(config, parts, batches, places, context)

    def validate() -> dict[str, float]:
        figures = PairFigures(config.method.build_loss(), parts.ranks, parts.device)
        updater.policy.eval()
        for _, micro_batch in batches.build_micro_batches(places, references):
            part = micro_batch.to(parts.device)
            figures.add(part, compute_token_logprobs(updater.policy, part))
        updater.policy.train()
        return describe_validation(figures.collect())

    return validate
