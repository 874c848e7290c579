"""From a step's problems to the micro-batches of its updates: draw, judge, compare, lay out; and what was measured.

Shape letters: S completions of a step, T tokens of one of them, N scored tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core import metrics as keys
from posttrain.core.protocols import RunContext
from posttrain.core.records import Group, Problem, Rollout
from posttrain.core.run_folder import StageFolder
from posttrain.core.sampling import PolicyVersion
from posttrain.data.mixing import RowOrder
from posttrain.data.packing import deal, pack, pack_padded
from posttrain.objectives.advantages import compute_advantages
from posttrain.objectives.aggregation import compute_token_weights
from posttrain.objectives.kl import compute_log_ratios, estimate_kl
from posttrain.rollouts.dynamic import Gathered, gather_groups
from posttrain.rollouts.groups import Drawing
from posttrain.rollouts.origin import check_drawn_by, read_sampler_logprobs
from posttrain.rollouts.overlength import compute_overlong_penalty
from posttrain.rollouts.shares import ShareJournals, WaveShare
from posttrain.rollouts.waves import WaveDrawer
from posttrain.statistics.reward_groups import compute_group_figures
from posttrain.training.batches import (
    MicroBatch,
    PromptFamily,
    ScoredCompletion,
    build_empty_micro_batch,
    build_family_batch,
)
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.step import StepBatch

if TYPE_CHECKING:
    from posttrain.kernels.token_logprobs import TokenScores
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


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a step's rollouts say, by metric key; `reward` is the mean reward."""

    reward: float
    values: dict[str, float]


@dataclass(slots=True)
class _Sums:
    """Sums over the scored tokens of an update, kept on the device until they are asked for."""

    names: tuple[str, ...] = ()
    totals: torch.Tensor | None = None
    largest_mismatch: torch.Tensor | None = None

    def read(self) -> tuple[dict[str, float], float] | None:
        """Return the sums by name and the largest mismatch; None where no token was scored."""
        if self.totals is None or self.largest_mismatch is None:
            return None
        return dict(zip(self.names, self.totals.tolist(), strict=True)), float(self.largest_mismatch)


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
    _sums: _Sums = field(default_factory=_Sums)
    _order: RowOrder = field(init=False)
    _waves: WaveDrawer = field(init=False)
    _journals: ShareJournals = field(init=False)

    def __post_init__(self) -> None:
        config, parts = self.config, self.parts
        self._order = RowOrder([len(parts.problems)], None, self.context.seed, config.problems_per_step)
        drawing = Drawing(parts.sampler, parts.scorer, config.sampling, config.overlap_scoring)
        ranks = parts.ranks
        self._journals = ShareJournals(StageFolder(self.context.folder), ranks.rank, ranks.count)
        self._waves = WaveDrawer(
            self._problems_of,
            drawing,
            self._journals.own,
            parts.scorer_hash,
            self.context.seed,
            WaveShare(ranks.rank, ranks.count, ranks.gather),
            self._journals.recall_share,
        )

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every problem is drawn once, where a step has one wave."""
        return len(self.parts.problems) / self.config.problems_per_step

    def _problems_of(self, wave: int) -> list[Problem]:
        return [self.parts.problems[row] for _, row in self._order.rows_of_step(wave)]

    def draw(self, step: int, *, is_under_way: bool = False) -> Gathered:
        """Return the groups of a step; where updates were taken on them already, from the journal.

        Over several ranks each draws its part of every wave, and all get the groups of the whole step.

        Raises:
            RefusedError: The scorer failed on too many completions.
            SamplerError: The sampler does not hold the published weights, or what was drawn is of other ones.
            StorageError: The journal cannot be read or written.
        """
        first = step * self.config.max_waves
        wanted, most = self.config.problems_per_step, self.config.max_waves
        if is_under_way:
            return gather_groups(lambda wave: self._waves.recall(first + wave), wanted, most)
        name = self.parts.name_policy()
        self._drop_journals(first)
        with torch.random.fork_rng(devices=[] if self.parts.device == "cpu" else [self.parts.device]):
            version = PolicyVersion(name, model=self.parts.policy.model)
            self.parts.ranks.gather(lambda: self.parts.sampler.publish(version))
            found = gather_groups(lambda wave: self._waves.draw(first + wave, name), wanted, most)
        self.parts.rest()
        check_drawn_by(name, found.groups)
        return found

    def _drop_journals(self, first: int) -> None:
        """Remove the journals that no checkpoint goes back to, and what others drew of the waves from `first` on."""
        whole = CheckpointStore(StageFolder(self.context.folder).checkpoints).list_whole()
        oldest = min(whole, default=0) // self.config.updates_per_step
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
        self._figures = self._describe(gathered, compared)
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
            bool(is_counted) and not (config.overlong == "mask" and rollout.last.finish_reason == "length")
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

    def observe(self, batch: MicroBatch, scores: TokenScores) -> None:
        """Take sums over the scored tokens of a micro-batch, without waiting for the device."""
        if not len(batch.targets_N):
            return
        logprobs_N, constants = scores.logprobs_N, batch.constants
        objective = self.config.method.build_objective(None)
        below_N, above_N = objective.find_clipped(logprobs_N, constants)
        mismatch_N = (logprobs_N - constants["sampler_logprobs"]).float()
        ratios_N = mismatch_N.exp()
        sums = {
            "tokens": torch.ones_like(logprobs_N),
            keys.CLIP_LOW: below_N.float(),
            keys.CLIP_HIGH: above_N.float(),
            keys.SAMPLER_MISMATCH: mismatch_N.abs(),
            "ratios": ratios_N,
            "squares": ratios_N.square(),
        }
        if scores.entropies_N is not None:
            sums[keys.ENTROPY] = scores.entropies_N
        if "reference_logprobs" in constants:
            sums[keys.KL] = estimate_kl(logprobs_N, constants["reference_logprobs"])
        totals = torch.stack([values.double().sum() for values in sums.values()])
        mine = self._sums
        mine.names = tuple(sums)
        mine.totals = totals if mine.totals is None else mine.totals + totals
        largest = mismatch_N.abs().max()
        mine.largest_mismatch = (
            largest if mine.largest_mismatch is None else torch.maximum(mine.largest_mismatch, largest)
        )

    def collect_figures(self) -> dict[str, float]:
        """Return what was measured since the last call: of the step's rollouts, and over the tokens of its updates.

        Every rank must call it: the tokens are those of all.
        """
        figures = dict(self._figures.values) if self._figures is not None else {}
        read = [share for share in self.parts.ranks.gather(self._sums.read) if share is not None]
        if read:
            totals = {name: sum(sums[name] for sums, _ in read) for name in read[0][0]}
            count = totals.pop("tokens")
            ratios, squares = totals.pop("ratios"), totals.pop("squares")
            figures |= {name: value / count for name, value in totals.items()}
            figures[keys.EFFECTIVE_SAMPLE_SIZE] = ratios**2 / (count * squares)
            figures[keys.LARGEST_MISMATCH] = max(largest for _, largest in read)
        self._sums = _Sums()
        return figures

    def _describe(self, gathered: Gathered, compared: Sequence[Compared]) -> StepFigures:
        groups = gathered.groups
        rewards = [group.rewards for group in groups]
        clipped = [[rollout.last.finish_reason == "length" for rollout in group.rollouts] for group in groups]
        found = compute_group_figures(rewards, clipped)
        known = [reward for group in rewards for reward in group if reward is not None]
        lengths = [one.rollout.num_drawn for one in compared]
        values = {
            keys.REWARD: found.mean if known else 0.0,
            keys.REWARD_STD: float(np.std(known)) if known else 0.0,
            keys.FRAC_REWARD_ZERO_STD: 1 - found.informative_fraction,
            keys.INFORMATIVE_FRACTION: gathered.informative_fraction,
            keys.NUM_WAVES: float(gathered.num_waves),
            keys.COMPLETION_LENGTH: float(np.mean(lengths)) if lengths else 0.0,
            keys.CLIPPED_RATIO: found.clipped_fraction,
        }
        return StepFigures(values[keys.REWARD], values)


def _count_tokens(family: PromptFamily) -> int:
    return len(family.prompt_ids) + sum(len(part.ids) for part in family.completions)
