"""GRPO and its family: reinforcement from rewards, several completions of each problem compared with one another.

    maximise  E_x E_{y_1..y_G ~ pi_old(.|x)} [ 1/G sum_i sum_t w_it min(rho_it A_i, clip(rho_it) A_i) ] - beta KL

`algorithm` names the choice of advantage A, ratio rho, clipping, weights w and KL (`grpo_family` has the table), and
each choice is a key of its own. A step draws `group_size` completions of `problems_per_step` problems, judges them
while others are drawn, and takes `epochs_per_step` x `minibatches` optimizer updates on them. The policy is published
to the sampler before every step. Where a step has one update its ratio is 1 by construction, and a truncated importance
weight corrects what the sampler's log-probs differ from the trainer's; where it has several, the ratio is taken to the
sampler's own log-probs.

Source: Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), section 4.1; the members' own in `grpo_family`.

Not here: learned value functions (PPO), preferences of judges (online preference), rewards that are models.

What goes wrong with it: a reward that can be had without the task is had (`audit`, `stages.audit`); groups
whose rewards are all equal teach nothing (`informative_fraction`); entropy falls until nothing is tried any more; long
completions are cut and read as wrong; a sampler of another precision draws from another policy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from posttrain.core.config import display_field, optional_field
from posttrain.core.protocols import RunContext
from posttrain.core.run_folder import StageFolder
from posttrain.core.sampling import SamplingSettings
from posttrain.data.sources import DataSource
from posttrain.objectives.choices import Aggregation, Baseline, Clipping, Kl, Ratio, Scale
from posttrain.rollouts.curriculum import CurriculumSettings
from posttrain.rollouts.environments import EnvironmentSettings
from posttrain.stages.audit import AuditSettings
from posttrain.stages.grpo_family import METHODS, Algorithm, KlPlace, Method
from posttrain.stages.rollouts import RolloutSettings
from posttrain.stages.sampler_keys import SamplerKeys, VllmKeys
from posttrain.stages.training_keys import TrainingKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from posttrain.core.protocols import Scorer
    from posttrain.core.records import Artifact, Group, Problem
    from posttrain.core.sampling import Sampler
    from posttrain.rollouts.environments import Environment
    from posttrain.stages.grpo_batches import LogprobsOf
    from posttrain.stages.step_audit import AuditParts, StepAudit
    from posttrain.training.distributed import Ranks
    from posttrain.training.policy import ScoredPolicy
    from posttrain.training.step import StepBatch

STAGE_VERSION = 1


class ProblemSource(DataSource):
    """A source of problems; `scorer` judges its rows in place of the stage's."""

    scorer: str | dict[str, Any] | None = None


class GrpoConfig(TrainingKeys):
    """Configuration of a GRPO stage; what `algorithm` says of a key that is not given holds."""

    type: Literal["grpo"] = "grpo"
    algorithm: Algorithm = "grpo"
    data: list[ProblemSource] = Field(min_length=1)
    scorer: str | dict[str, Any] | None = Field(None, description="who rewards where a source names nobody else")

    steps: int = Field(ge=0, description="times that completions are drawn")
    problems_per_step: int = Field(32, ge=1)
    group_size: int = Field(8, ge=2, le=1024)
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0, le=10)
    stop: list[str] = Field(default_factory=list)
    environment: EnvironmentSettings | None = optional_field()
    minibatches: int = Field(1, ge=1)
    epochs_per_step: int = Field(1, ge=1)

    baseline: Baseline | None = None
    scale: Scale | None = None
    ratio: Ratio | None = None
    clipping: Clipping | None = None
    clip_low: float | Literal["off"] | None = None
    clip_high: float | Literal["off"] | None = None
    aggregation: Aggregation | None = None
    kl: Kl | None = None
    kl_place: KlPlace | None = None
    kl_coefficient: float | None = Field(None, gt=0)
    importance_cap: float | None = Field(2.0, ge=1)

    sampler: SamplerKeys = optional_field("local")
    max_waves: int = Field(1, ge=1, le=64, description="times that problems are drawn until enough groups tell")
    rollout_tokens_per_step: int | None = Field(
        None, ge=1, description="what has not ended by then goes on in the next step; None: all end in their step"
    )
    curriculum: CurriculumSettings | None = Field(None, description="which problems are drawn; None: even passes")
    solved_from: float = Field(0.5, description="the least reward of a success, for the curriculum and figures")
    overlong: Literal["penalise", "mask"] = "penalise"
    overlong_buffer: int | None = Field(None, ge=1, description="tokens before the cap in which length is punished")

    audit: AuditSettings | None = optional_field()

    learning_rate: float = Field(1e-6, gt=0, lt=10)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    beta2: float = Field(0.95, ge=0, lt=1)
    activation_checkpointing: Literal["on", "off"] = "off"
    share_prompts: Literal["auto", "off"] = "auto"
    skip_settled: bool = Field(True, description="leave completions without an advantage out of the passes")
    overlap_scoring: bool = display_field(True)

    @model_validator(mode="after")
    def _check_choices(self) -> GrpoConfig:
        self._check_sources()
        method = self.method
        for name in ("clip_low", "clip_high"):
            value = getattr(self, name)
            if value is not None and method.clipping == "none":
                raise ValueError(f"{name} bounds nothing with clipping: none; set clipping, or leave {name} out")
            if isinstance(value, float) and not 0 < value < (1 if name == "clip_low" else 1000):
                raise ValueError(
                    f"{name} is {value}; expected a number above 0" + (" and below 1" * (name == "clip_low"))
                )
        if method.kl == "none" and (self.kl_coefficient is not None or self.kl_place is not None):
            raise ValueError("kl_coefficient and kl_place say nothing with kl: none; set kl: reverse_kl or forward_kl")
        if method.kl == "forward_kl" and method.kl_place == "reward":
            raise ValueError("a KL in the reward is the reverse one; set kl: reverse_kl, or kl_place: loss")
        if method.kl != "none" and not method.kl_coefficient:
            raise ValueError(f"kl: {method.kl} needs kl_coefficient, such as 0.02")
        if method.scale == "group_std" and method.baseline in ("batch_mean", "none"):
            raise ValueError(f"scale: group_std needs a baseline of the group, found baseline: {method.baseline}")
        if method.ratio == "sequence" and method.aggregation != "sequence_mean":
            raise ValueError("ratio: sequence is of whole completions: set aggregation: sequence_mean")
        if self.minibatches > self.problems_per_step:
            raise ValueError(f"minibatches: {self.minibatches} of {self.problems_per_step} problems")
        self._check_partial()
        if self.environment is not None and self.stop:
            raise ValueError(
                "a stop string ends a turn before its stop token, behind which tools reply: leave out stop"
            )
        if self.audit is not None and (self.environment is not None or self.rollout_tokens_per_step is not None):
            raise ValueError(
                "audit reads completions of one turn that are drawn in one step: leave it out, or the other"
            )
        if isinstance(self.sampler, VllmKeys) and self.temperature != 1:
            raise ValueError(
                "vLLM gives log-probs at temperature 1 alone, and the ratio needs those that were drawn with: leave "
                "temperature out, or set sampler: local"
            )
        if self.overlong == "mask" and self.overlong_buffer is not None:
            raise ValueError("overlong_buffer punishes length, which overlong: mask leaves out; give one of them")
        if self.overlong_buffer is not None and self.overlong_buffer >= self.max_new_tokens:
            raise ValueError(f"overlong_buffer: {self.overlong_buffer} is no part of {self.max_new_tokens} tokens")
        return self

    def _check_sources(self) -> None:
        if self.scorer is not None and all(source.scorer is not None for source in self.data):
            raise ValueError("every source has a scorer of its own, so that the stage's judges nothing: leave one out")
        for source in self.data:
            if source.scorer is None and self.scorer is None:
                raise ValueError(f"nobody rewards the rows of {source.source}: give the stage or the source a scorer")
            if source.proportion is not None:
                raise ValueError(
                    f"proportion of {source.source}: every problem is drawn once in a pass; choose how many of each "
                    "source by rows, or leave the choice to curriculum"
                )

    def _check_partial(self) -> None:
        tokens = self.rollout_tokens_per_step
        if tokens is None:
            return
        if tokens >= self.max_new_tokens:
            raise ValueError(f"rollout_tokens_per_step: {tokens} sets nothing aside of {self.max_new_tokens} tokens")
        if self.environment is not None:
            raise ValueError("rollout_tokens_per_step would cut calls in two: leave it out, or environment")
        if self.stop:
            raise ValueError("a stop string may lie across two steps: leave out stop, or rollout_tokens_per_step")
        if self.max_waves > 1:
            raise ValueError(
                "max_waves above 1 asks which groups tell, and of those set aside nobody knows yet: "
                "leave out max_waves, or rollout_tokens_per_step"
            )
        if self.updates_per_step == 1 and self.importance_cap is None:
            raise ValueError(
                "rollout_tokens_per_step trains on tokens of earlier policies, which importance_cap: null does not "
                "correct: leave importance_cap out"
            )

    @property
    def has_steps(self) -> bool:
        """Whether completions are drawn at all."""
        return self.steps != 0

    @property
    def method(self) -> Method:
        """Every choice: the key's, else the algorithm's."""
        known = METHODS[self.algorithm]
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Method)}
        chosen: dict[str, Any] = {k: None if v == "off" else v for k, v in given.items() if v is not None}
        if chosen.get("clipping") == "none":
            chosen |= {"clip_low": None, "clip_high": None}
        if chosen.get("kl") == "none":
            chosen |= {"kl_place": "loss", "kl_coefficient": 0.0}
        return replace(known, **chosen)

    @property
    def scorers(self) -> list[str | dict[str, Any]]:
        """Who rewards the rows of each source, in order: its own scorer, else the stage's."""
        found = [self.scorer if source.scorer is None else source.scorer for source in self.data]
        return [scorer for scorer in found if scorer is not None]

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates on what a step draws."""
        return self.minibatches * self.epochs_per_step

    @property
    def num_updates(self) -> int:
        """Optimizer updates of the stage."""
        return self.steps * self.updates_per_step

    @property
    def sampling(self) -> SamplingSettings:
        """How completions are drawn: nothing is cut off the distribution, so that its log-probs are the trainer's."""
        return SamplingSettings(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            num_samples=self.group_size,
            stop_strings=tuple(self.stop),
        )

    def describe_rollouts(self) -> RolloutSettings:
        """Return what a few groups are drawn by before the stage runs (preflight)."""
        return RolloutSettings(self.data[0], self.scorers[0], self.sampling, environment=self.environment)


@dataclass(slots=True)
class GrpoParts:
    """Live objects built by the wiring.

    `compute_reference` gives the reference's log-probs of completions, None where the method reads none.
    `name_policy` names the policy as it is now, the same on every rank; `decode` gives the text of ids;
    `context_tokens` is the longest row that it takes; `rest` has the sampler give back between steps what only drawing
    needs; `show` is told of each step's groups. `num_tokens` is filled in by `run`: tokens drawn.
    """

    policy: ScoredPolicy
    sampler: Sampler
    scorer: Scorer
    scorer_hash: str
    problems: Sequence[Problem]
    compute_reference: LogprobsOf | None
    name_policy: Callable[[], str]
    decode: Callable[[Sequence[int]], str]
    context_tokens: int | None
    is_sharing_exact: bool
    ranks: Ranks
    device: str
    publish: Callable[[dict[str, torch.Tensor]], Artifact]
    rest: Callable[[], None]
    environment: Environment | None = None
    audit: AuditParts | None = None
    show: Callable[[Sequence[Group]], None] | None = None
    num_tokens: int | None = None


def run(config: GrpoConfig, inputs: dict[str, Artifact], parts: GrpoParts, context: RunContext) -> dict[str, Artifact]:
    """Train the policy on its own completions and return the artifact of its weights.

    Raises:
        RefusedError: The audit raised an alarm that stops the stage; a checkpoint was saved.
    """
    del inputs  # the policy was loaded from them by the wiring; their hashes are in the artifact's key
    from posttrain.stages.grpo_batches import StepBatches
    from posttrain.training.loop import LoopFunctions, LoopSettings, TrainingLoop, space_snapshots
    from posttrain.training.step import Updater

    batches = StepBatches(config, parts, context)
    audit = _build_audit(config, parts, context)
    if audit is not None and audit.should_stop:
        raise audit.refuse()
    updater = Updater(
        parts.policy,
        config.build_optimizer(parts.policy.model),
        parts.ranks,
        config.method.build_objective(config.importance_cap if config.updates_per_step == 1 else None),
        max_grad_norm=config.max_grad_norm,
        device=parts.device,
        observe=batches.tokens.observe,
    )

    def batch_at(update: int) -> StepBatch:
        step, place = divmod(update, config.updates_per_step)
        if batches.step != step:  # not at place 0 where a run goes on between two updates of a step
            drawn = batches.draw(step, is_under_way=place > 0)  # publish, sample, score; or what the journal holds
            if audit is not None:
                audit.look(step, drawn.groups)
            figures = batches.prepare(step, drawn)  # the reference's log-probs, advantages, weights, packed rows
            if figures.reward is not None:
                context.progress.advance(0, reward=figures.reward)
        return batches.minibatch(place)

    loop = TrainingLoop(
        LoopSettings(
            num_steps=config.num_updates,
            validate_every_steps=None,
            checkpoint_every_steps=config.checkpoint_every_steps,
            log_every_steps=config.log_every_steps,
            snapshot_steps=space_snapshots(config.num_updates, context.num_snapshots),
        ),
        LoopFunctions(
            batch_at=batch_at,
            learning_rate_at=lambda update: config.compute_learning_rate(update, config.num_updates),
            epoch_at=lambda update: update / config.updates_per_step / batches.steps_per_epoch,
            validate=None,
            figures=lambda: batches.collect_figures() | (audit.collect_figures() if audit is not None else {}),
            keep_figures=batches.tokens.keep,
            restore_figures=batches.tokens.restore,
        ),
        updater,
        context,
        audit,
    )
    state = loop.run()  # resume; at each update: batch_at, log-probs, loss, update, record, and now and then save
    parts.num_tokens = state.num_tokens
    return {"policy": parts.publish(loop.final_weights())}


def _build_audit(config: GrpoConfig, parts: GrpoParts, context: RunContext) -> StepAudit | None:
    """Return what looks at the stage's steps, None where nothing does."""
    if config.audit is None or parts.audit is None:
        return None
    from posttrain.stages.step_audit import StepAudit

    path = StageFolder(context.folder).audit
    return StepAudit(config.audit, parts.audit, path, config.steps, context.progress.note)
