"""From a step's problems to the micro-batches of its updates: draw, judge, compare, lay out; and what was measured.

Shape letters: S completions of a step, T tokens of one of them, N scored tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.protocols import RunContext
from posttrain.core.records import Group, Problem, Rollout
from posttrain.core.run_folder import StageFolder
from posttrain.core.sampling import PolicyVersion
from posttrain.data.packing import deal, pack, pack_padded
from posttrain.objectives.advantages import compute_advantages
from posttrain.objectives.aggregation import compute_token_weights
from posttrain.objectives.kl import compute_log_ratios
from posttrain.rollouts.dynamic import Gathered, gather_groups
from posttrain.rollouts.groups import Drawing
from posttrain.rollouts.origin import check_drawn_by, read_sampler_logprobs
from posttrain.rollouts.overlength import compute_overlong_penalty
from posttrain.rollouts.partial import PartialDrawer, PartialSettings
from posttrain.rollouts.partial_journal import PartialJournal
from posttrain.rollouts.shares import ShareJournals, WaveShare
from posttrain.rollouts.waves import WaveDrawer
from posttrain.stages.grpo_figures import StepFigures, describe_step
from posttrain.stages.grpo_problems import ProblemChooser, build_chooser
from posttrain.stages.token_figures import TokenFigures
from posttrain.training.batches import (
    PromptFamily,
    ScoredCompletion,
    build_empty_micro_batch,
    build_family_batch,
)
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.step import StepBatch

if TYPE_CHECKING:
    from posttrain.stages.grpo import GrpoConfig, GrpoParts

LogprobsOf = Callable[[Sequence[npt.NDArray[np.int32]], Sequence[npt.NDArray[np.int32]]], list[npt.NDArray[np.float32]]]
"""Maps prompts and what stands behind them, as token ids, to log-probs of the latter under the drawing temperature."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A completion of a step with what it is trained by.

    `weight` is that of each of its tokens, `divisor` what it adds to the step's; both 0 where it does not count.
    """

    rollout: Rollout
    group: int
    advantage: float
    weight: float
    divisor: float
    reference_T: npt.NDArray[np.float32] | None


@dataclass(slots=True)
class StepBatches:
    """Draws the completions of each step and lays out its updates.

    Args:
        config: The stage's configuration.
        parts: Its live parts.
        context: Its folder, seed and progress.
    """

    config: GrpoConfig
    parts: GrpoParts
    context: RunContext
    step: int | None = None
    _minibatches: list[StepBatch] = field(default_factory=list)
    _figures: StepFigures | None = None
    tokens: TokenFigures = field(init=False)
    _chooser: ProblemChooser = field(init=False)
    _waves: WaveDrawer = field(init=False)
    _partial: PartialDrawer | None = field(init=False)
    _journals: ShareJournals = field(init=False)

    def __post_init__(self) -> None:
        config, parts = self.config, self.parts
        ranks = parts.ranks
        self.tokens = TokenFigures(config.method.build_objective(None), ranks, parts.device)
        folder = StageFolder(self.context.folder).find_rollouts(ranks.rank, ranks.count)
        self._chooser = build_chooser(config, parts.problems, folder, self.context.seed)
        drawing = Drawing(parts.sampler, parts.scorer, config.sampling, config.overlap_scoring, parts.environment)
        seed, by_id = self.context.seed, {problem.problem_id: problem for problem in parts.problems}
        self._journals = ShareJournals(StageFolder(self.context.folder), ranks.rank, ranks.count)
        self._waves = WaveDrawer(
            self._problems_of,
            drawing,
            self._journals.own,
            parts.scorer_hash,
            seed,
            WaveShare(ranks.rank, ranks.count, ranks.gather),
            self._journals.recall_share,
        )
        self._partial = None
        if config.rollout_tokens_per_step is not None:
            settings = PartialSettings(
                config.rollout_tokens_per_step, config.steps - 1, parts.decode, parts.context_tokens
            )
            journal = PartialJournal(folder, by_id)
            self._partial = PartialDrawer(self._weigh_problems, drawing, settings, journal, parts.scorer_hash, seed)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every problem is drawn once, where a step has one wave."""
        return len(self.parts.problems) / self.config.problems_per_step

    def _problems_of(self, wave: int) -> list[Problem]:
        return [problem for problem, _ in self._weigh_problems(wave)]

    def _weigh_problems(self, wave: int) -> list[tuple[Problem, float]]:
        choice = self._chooser.choose(wave)
        return [(self.parts.problems[row], weight) for row, weight in zip(choice.rows, choice.weights, strict=True)]

    def draw(self, step: int, *, is_under_way: bool = False) -> Gathered:
        """Return the groups of a step; where updates were taken on them already, from the journal.

        Over several ranks each draws its part of every wave, and all get the groups of the whole step.

        Raises:
            RefusedError: The scorer failed on too many completions.
            SamplerError: The sampler does not hold the published weights, or what was drawn is of other ones.
            StorageError: The journal cannot be read or written.
        """
        found = self._gather(step, None) if is_under_way else self._draw(step)
        self._chooser.see(step, found.drawn)
        if self.parts.show is not None:
            self.parts.show(found.drawn)
        return found

    def _draw(self, step: int) -> Gathered:
        name = self.parts.name_policy()
        self._drop_journals(step * self.config.max_waves)
        with torch.random.fork_rng(devices=[] if self.parts.device == "cpu" else [self.parts.device]):
            version = PolicyVersion(name, model=self.parts.policy.model)
            self.parts.ranks.gather(lambda: self.parts.sampler.publish(version))
            found = self._gather(step, name)
        self.parts.rest()
        if self._partial is None:  # which knows how old its policies are
            check_drawn_by(name, found.groups)
        return found

    def _gather(self, step: int, policy: str | None) -> Gathered:
        """Return the groups of a step, drawn under a policy; without one, from the journal."""
        if self._partial is not None:
            ended = self._partial.recall(step) if policy is None else self._partial.draw(step, policy)
            return Gathered(ended.groups, (ended.groups,), ended.weights, ended.staleness)
        config, waves = self.config, self._waves
        first = step * config.max_waves
        found = gather_groups(
            lambda wave: waves.recall(first + wave) if policy is None else waves.draw(first + wave, policy),
            config.problems_per_step,
            config.max_waves,
        )
        choices = [self._chooser.choose(first + wave) for wave in range(len(found.waves))]
        return replace(found, weights=tuple(weight for choice in choices for weight in choice.weights))

    def _drop_journals(self, first: int) -> None:
        """Remove the journals that no checkpoint goes back to, and what others drew of the waves from `first` on."""
        whole = CheckpointStore(StageFolder(self.context.folder).checkpoints).list_whole()
        oldest = min(whole, default=0) // self.config.updates_per_step
        if self._partial is not None:
            self._partial.journal.drop_before(oldest)
        else:
            self._journals.drop_before(oldest * self.config.max_waves)
            self._journals.drop_strangers(first, first + self.config.max_waves - 1)

    def prepare(self, step: int, gathered: Gathered) -> StepFigures:
        """Compare the completions of a step and lay out its updates; return what its rollouts say."""
        references = self._compute_references(gathered.groups)
        compared = self._compare(gathered.groups, references)
        self.step = step
        self._minibatches = [
            self._build_minibatch([one for one in compared if one.group % self.config.minibatches == place])
            for place in range(self.config.minibatches)
        ]
        chosen = self._chooser.choose(step * self.config.max_waves)
        self._figures = describe_step(gathered, chosen.effective_fraction, self.config)
        return self._figures

    def minibatch(self, place: int) -> StepBatch:
        """Return the batch of an update of the step, counted over all epochs of it."""
        return self._minibatches[place % len(self._minibatches)]

    def _compute_references(self, groups: Sequence[Group]) -> list[npt.NDArray[np.float32] | None]:
        """Return the reference's log-probs of each completion, in order."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        if self.parts.compute_reference is None:
            return [None] * len(rollouts)
        compute, ranks = self.parts.compute_reference, self.parts.ranks
        own = rollouts[ranks.rank :: ranks.count]
        shares = ranks.gather(lambda: compute([one.prompt_ids for one in own], [one.ids_T for one in own]))
        return [shares[place % ranks.count][place // ranks.count] for place in range(len(rollouts))]

    def _compare(self, groups: Sequence[Group], references: Sequence[npt.NDArray[np.float32] | None]) -> list[Compared]:
        config, method = self.config, self.config.method
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        places = [place for place, group in enumerate(groups) for _ in group.rollouts]
        rewards = [self._reward(rollout, reference) for rollout, reference in zip(rollouts, references, strict=True)]
        found = compute_advantages(
            torch.tensor(rewards, dtype=torch.float64),
            torch.tensor(places),
            baseline=method.baseline,
            scale=method.scale,
            has_reward_S=torch.tensor([rollout.outcome.is_counted for rollout in rollouts], dtype=torch.bool),
        )
        weights, divisors = compute_token_weights(
            torch.tensor([rollout.num_drawn for rollout in rollouts]),
            method.aggregation,
            max_tokens=config.max_new_tokens,
        )
        counts = [
            bool(is_counted) and not (config.overlong == "mask" and rollout.is_cut)
            for is_counted, rollout in zip(found.is_counted_S.tolist(), rollouts, strict=True)
        ]
        return [
            Compared(rollout, place, advantage, weight * counted, divisor * counted, reference)
            for rollout, place, advantage, weight, divisor, counted, reference in zip(
                rollouts, places, found.advantages_S.tolist(), weights.tolist(), divisors.tolist(), counts, references,
                strict=True,
            )
        ]  # fmt: skip

    def _reward(self, rollout: Rollout, reference_T: npt.NDArray[np.float32] | None) -> float:
        """Return what a completion is worth to the policy: the scorer's value, length and KL taken off."""
        config, method = self.config, self.config.method
        value = rollout.outcome.value if rollout.outcome.is_counted else 0.0
        if config.overlong_buffer is not None:
            value += compute_overlong_penalty(rollout.num_drawn, config.max_new_tokens, config.overlong_buffer)
        if method.needs_reference and method.kl_place == "reward":
            assert reference_T is not None  # the wiring gives a reference to a method that needs one
            own_T = torch.from_numpy(read_sampler_logprobs(rollout))
            ratios_T = compute_log_ratios(own_T, torch.from_numpy(reference_T))[torch.from_numpy(rollout.is_drawn_T)]
            value -= method.kl_coefficient * float(ratios_T.double().sum())
        return value

    def _build_minibatch(self, compared: Sequence[Compared]) -> StepBatch:
        config = self.config
        is_settled = config.skip_settled and not config.method.has_loss_of_its_own
        taken = [one for one in compared if one.weight and not (is_settled and one.advantage == 0)]
        total = sum(one.divisor for one in compared)
        families = self._build_families(taken)
        is_shared = self._is_shared
        lengths = [_count_tokens(family) for family in families]
        group = pack if self.parts.policy.layout == "packed" else pack_padded
        batches = deal(group(lengths, config.micro_batch_tokens), self.parts.ranks.count)[self.parts.ranks.rank]
        has_filler = self.parts.policy.layout == "packed"
        micro_batches = [
            build_family_batch([families[i] for i in chosen], is_shared=is_shared, has_filler=has_filler)
            if chosen
            else build_empty_micro_batch()
            for chosen in batches
        ] or [build_empty_micro_batch()]
        trained = sum(int(part.is_scored.sum()) for family in families for part in family.completions)
        return StepBatch(micro_batches, total or 1.0, sum(lengths), trained)

    @property
    def _is_shared(self) -> bool:
        return (
            self.config.share_prompts == "auto" and self.parts.is_sharing_exact and self.parts.policy.layout == "packed"
        )

    def _build_families(self, taken: Sequence[Compared]) -> list[PromptFamily]:
        """Return prompts with their completions, as many behind one prompt as the token budget holds."""
        families: list[PromptFamily] = []
        sizes: list[int] = []
        owners: list[int] = []
        for number, one in enumerate(taken):
            part, prompt = self._build_completion(one, number), one.rollout.prompt_ids
            fits = (
                self._is_shared
                and owners
                and owners[-1] == one.group
                and sizes[-1] + len(part.ids) <= self.config.micro_batch_tokens
            )
            if fits:
                families[-1] = PromptFamily(prompt, [*families[-1].completions, part])
                sizes[-1] += len(part.ids)
            else:
                families.append(PromptFamily(prompt, [part]))
                sizes.append(len(prompt) + len(part.ids))
                owners.append(one.group)
        return families

    def _build_completion(self, one: Compared, number: int) -> ScoredCompletion:
        rollout = one.rollout
        ids, is_drawn = rollout.ids_T, rollout.is_drawn_T
        constants: dict[str, npt.NDArray[np.float32]] = {
            "advantages": np.full(len(ids), one.advantage, np.float32),
            "sampler_logprobs": read_sampler_logprobs(rollout),
        }
        if self.config.updates_per_step > 1:
            constants["old_logprobs"] = constants["sampler_logprobs"]
        if one.reference_T is not None:
            constants["reference_logprobs"] = one.reference_T
        if self.config.method.ratio == "sequence":
            constants["sequences"] = np.full(len(ids), number)
        name = f"{rollout.problem_id} sample {rollout.sample_index}"
        return ScoredCompletion(ids, is_drawn, np.full(len(ids), one.weight, np.float32), constants, name)

    def collect_figures(self) -> dict[str, float]:
        """Return what was measured since the last call: of the step's rollouts, and over the tokens of its updates."""
        return (self._figures.values if self._figures is not None else {}) | self.tokens.collect()


def _count_tokens(family: PromptFamily) -> int:
    return len(family.prompt_ids) + sum(len(part.ids) for part in family.completions)
