"""Reward models: a head of scores on the policy's backbone, from pairs, ratings or labelled steps.

    pairwise      L = mean over pairs of -log sigma(r(x, y_c) - r(x, y_r) - m) + c (r(x, y_c) + r(x, y_r))^2
    regression    L = mean over ratings of (r_k(x, y) - t_k)^2, t_k standardised
    process       L = mean over steps of binary cross-entropy of sigma(r(x, y_<=t)) and the step's label

The score is read at the completion's last token, its end of turn (a step's at the token that completes it). The policy
itself is passed on unchanged: what the stage makes is a second artifact, which later stages and scorers name by the
stage's name (`scorer: {type: learned, model: <stage>}`).

Sources: Bradley and Terry 1952; InstructGPT (arXiv 2203.02155, equation 1); the margin of Llama 2 (arXiv 2307.09288,
equation 2); centring: Eisenstein et al. (arXiv 2312.09244); process labels: Lightman et al. (arXiv 2305.20050);
ensembles: Coste et al. (arXiv 2310.02743).

Not here: scores by a language model's own words (a judge), preference losses without a reward model (`preference`),
online relabelling.

What goes wrong with it: it learns whatever tells chosen from rejected, length first (the stage measures it on its
validation pairs); it is over-confident beyond its data, and a second epoch makes it worse (watch validation/loss and
the calibration error); an ensemble averages out errors of finite data and none that all members share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.core import metrics as keys
from posttrain.core.protocols import RunContext
from posttrain.data.sources import DataSource
from posttrain.stages.training_keys import TrainingKeys, count_steps

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from posttrain.core.records import Artifact
    from posttrain.data.mixing import RowOrder
    from posttrain.data.pairs import PairData
    from posttrain.objectives.reward_model import RewardObjective
    from posttrain.stages.reward_diagnosis import Diagnosis
    from posttrain.stages.reward_members import FinishedMember
    from posttrain.stages.reward_rows import RewardRows
    from posttrain.training.distributed import Ranks
    from posttrain.training.reward_policy import ScoredRewardModel
    from posttrain.training.step import StepBatch, Updater


class RewardModelConfig(TrainingKeys):
    """Configuration of a reward-model stage; every key changes the result unless it is marked as display."""

    type: Literal["reward_model"] = "reward_model"
    learns: Literal["pairwise", "regression", "process"] = "pairwise"
    data: list[DataSource] = Field(min_length=1)
    validation: list[DataSource] = Field(default_factory=list)
    max_length: int | None = Field(None, ge=3, description="tokens of prompt and completion; None is the model's limit")
    truncation: Literal["refuse", "drop"] = "refuse"
    max_affected_fraction: float = Field(0.005, ge=0, le=1)

    margin: str | None = Field(None, min_length=1, description="the column of each pair's margin")
    centring: float | None = Field(None, gt=0)
    attributes: list[str] = Field(default_factory=list, description="the columns of ratings, one output each")
    separator: str = Field("\n", min_length=1, description="what stands between two steps")
    quality: list[str] | None = Field(None, min_length=2, max_length=2, description="columns of true qualities")
    probability: str | None = Field(None, min_length=1, description="the column of the label's true probability")

    max_length_correlation: float = Field(
        0.3, gt=0, le=1, description="partial correlation of score and length at equal quality"
    )

    members: int = Field(1, ge=1, le=32)
    resample: bool = False

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1, description="rows of an optimizer step, over all ranks")
    learning_rate: float = Field(1e-5, gt=0, lt=10)
    validate_every_steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check_pairs(self) -> RewardModelConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and not both")
        if self.validate_every_steps is not None and not self.validation:
            raise ValueError("validate_every_steps needs validation rows; add validation: [...]")
        if any(source.proportion is not None for source in self.validation):
            raise ValueError("validation: proportion belongs to training data; every validation row is measured")
        of_pairs = {"margin": self.margin, "centring": self.centring, "quality": self.quality}
        given = [name for name, value in {**of_pairs, "probability": self.probability}.items() if value is not None]
        if given and self.learns != "pairwise":
            raise ValueError(f"{', '.join(given)} belongs to learns: pairwise")
        if (self.learns == "regression") != bool(self.attributes):
            raise ValueError("attributes and learns: regression belong together: name the columns of ratings")
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError("attributes: a column is named twice")
        if self.learns != "process" and self.separator != "\n":
            raise ValueError("separator belongs to learns: process")
        if self.members == 1 and self.resample:
            raise ValueError("resample belongs to members: a single one sees the rows as they are")
        return self

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The columns of pairs that are kept beside their tokens."""
        named = [self.margin, *(self.quality or []), self.probability]
        return tuple(dict.fromkeys(name for name in named if name is not None))


@dataclass(slots=True)
class RewardModelParts:
    """Live objects built by the wiring.

    `build_member` gives a member in training form, from the policy that the stage starts from, its head and adapter
    drawn from the seed that it is given; `publish` makes the artifact of so many members, whose trained tensors by name
    it is given one member at a time, with what their numbers mean and the diagnosis of validation rows. `is_sharing`
    says whether completions may share their prompt's tokens. `num_tokens` is filled in by `run`.
    """

    build_member: Callable[[int], ScoredRewardModel]
    train: PairData
    validation: PairData | None
    ranks: Ranks
    device: str
    is_sharing: bool
    publish: Callable[[Callable[[int], dict[str, torch.Tensor]], Diagnosis], Artifact]
    num_tokens: int | None = None


def run(
    config: RewardModelConfig, inputs: dict[str, Artifact], parts: RewardModelParts, context: RunContext
) -> dict[str, Artifact]:
    """Train the members one after the other and return the reward model, beside the policy as it came."""
    from posttrain.stages.reward_diagnosis import diagnose
    from posttrain.stages.reward_members import MemberContexts
    from posttrain.stages.reward_rows import RewardRows, fit_ratings

    ratings = fit_ratings(config, parts.train)
    train = RewardRows(config, parts.train, ratings)
    shown = RewardRows(config, parts.validation or parts.train, ratings)
    members = MemberContexts(context, config.members, parts.ranks)
    scores, parts.num_tokens = [], 0
    for number in range(config.members):
        finished = members.find_finished(number)
        if finished is None:
            finished = train_member(config, parts, train, shown, members.open(number))
            members.close(number, finished)
        scores.append(finished.scores_RK)
        parts.num_tokens += finished.num_tokens
    diagnosis = diagnose(config, shown, scores, ratings, context.seed)
    diagnosis.report["rows_are"] = "validation" if parts.validation is not None else "training"
    if parts.ranks.is_writer and parts.validation is not None:
        members.end_metrics(diagnosis.metrics)
    return {"policy": inputs["policy"], "reward_model": parts.publish(members.load_weights, diagnosis)}


def train_member(
    config: RewardModelConfig, parts: RewardModelParts, train: RewardRows, shown: RewardRows, context: RunContext
) -> FinishedMember:
    """Train one member to the end and return what it says of the rows that are shown to it."""
    from posttrain.stages.reward_members import FinishedMember
    from posttrain.stages.reward_rows import build_step_batch, draw_again
    from posttrain.training.loop import LoopFunctions, LoopSettings, TrainingLoop
    from posttrain.training.step import Updater

    order = build_order(config, train, context.seed)
    num_steps = count_member_steps(config, order.steps_per_epoch)
    drawn = draw_again(train.lengths, context.seed) if config.members > 1 and config.resample else None
    policy = parts.build_member(context.seed)
    updater = Updater(
        policy,
        config.build_optimizer(policy),
        parts.ranks,
        build_objective(config),
        max_grad_norm=config.max_grad_norm,
        device=parts.device,
    )

    def batch_at(step: int) -> StepBatch:
        places = order.rows_of_step(step)
        if drawn is not None:
            places = [(source, int(drawn[source][index])) for source, index in places]
        rows = [train.row(place) for place in places]
        return build_step_batch(
            rows, config.micro_batch_tokens, parts.ranks, policy.layout, is_sharing=parts.is_sharing
        )[0]

    def validate() -> dict[str, float]:
        return compute_scores(config, parts, updater, shown)[1]

    loop = TrainingLoop(
        LoopSettings(
            num_steps=num_steps,
            validate_every_steps=config.validate_every_steps,
            checkpoint_every_steps=config.checkpoint_every_steps,
            log_every_steps=config.log_every_steps,
            hits_key=keys.REWARD_MODEL_HITS,
        ),
        LoopFunctions(
            batch_at=batch_at,
            learning_rate_at=lambda step: config.compute_learning_rate(step, num_steps),
            epoch_at=lambda step: step / order.steps_per_epoch,
            validate=validate if parts.validation is not None else None,
        ),
        updater,
        context,
    )
    state = loop.run()
    return FinishedMember(compute_scores(config, parts, updater, shown)[0], state.num_tokens, num_steps)


def build_order(config: RewardModelConfig, train: RewardRows, seed: int) -> RowOrder:
    """Return which rows each step trains on: a pure function of the seed and the step."""
    from posttrain.data.mixing import RowOrder

    return RowOrder(train.lengths, [source.proportion for source in config.data], seed, config.batch_size)


def count_member_steps(config: RewardModelConfig, steps_per_epoch: int) -> int:
    """Return the optimizer steps of a member, at least one."""
    return max(1, count_steps(config, steps_per_epoch))


def build_objective(config: RewardModelConfig) -> RewardObjective:
    """Return what the stage minimises."""
    from posttrain.objectives.reward_model import PairwiseObjective, RegressionObjective, StepObjective

    if config.learns == "regression":
        return RegressionObjective()
    return StepObjective() if config.learns == "process" else PairwiseObjective(config.centring or 0.0)


def compute_scores(
    config: RewardModelConfig, parts: RewardModelParts, updater: Updater, rows: RewardRows
) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
    """Return raw outputs at all reads of some rows, in order, the same on every rank, with loss and hits."""
    import numpy as np
    import torch

    from posttrain.objectives.reduction import normalise_weights
    from posttrain.stages.reward_rows import build_step_batch, check_scores

    all_rows = [rows.row(place) for place in rows.places]
    ends = np.cumsum([0, *(row.reading.num_reads for row in all_rows)])
    batch, groups = build_step_batch(
        all_rows, config.micro_batch_tokens, parts.ranks, updater.policy.layout, is_sharing=parts.is_sharing
    )
    scores = torch.zeros(int(ends[-1]), max(1, len(config.attributes)), dtype=torch.float64, device=updater.device)
    sums = torch.zeros(2, dtype=torch.float64, device=updater.device)
    updater.policy.eval()
    with torch.no_grad():
        for micro_batch, group in zip(batch.micro_batches, groups, strict=True):
            part = micro_batch.to(updater.device)
            found = updater.policy(part, updater.objective, normalise_weights(part.weights_N, batch.total_weight))
            sums += torch.stack([found.loss.double(), found.is_argmax_N.double().sum()])
            if group:
                places = np.concatenate([np.arange(ends[row], ends[row + 1]) for row in group])
                scores[torch.from_numpy(places).to(updater.device)] = found.logprobs_N.double()
    updater.policy.train()
    loss, hits = parts.ranks.sum(sums).tolist()
    figures = {keys.VALIDATION_LOSS: loss, keys.REWARD_MODEL_ACCURACY: hits / max(1, batch.num_trained)}
    scores_RK = parts.ranks.sum(scores).cpu().numpy()
    check_scores(scores_RK, all_rows, ends)
    return scores_RK, figures
