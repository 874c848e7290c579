"""Preflight: which checks run when, what they found, and the refusal that names all that must not go on.

What needs no trained policy (rows, lengths, scorers, memory) is checked for every stage and task before anything is
trained. What needs the policy that a stage starts from is checked for the first stage then too, and for a later one
right before it trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.ledger import Ledger
from posttrain.data.tokenizing import CONTAMINATED, NothingTrainedError
from posttrain.data.truncation import TOO_LONG
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.task import GenerationTask
from posttrain.models.loading import read_context_tokens
from posttrain.pipeline.decontaminating import describe_decontamination, list_searched_tasks
from posttrain.pipeline.grpo_wiring import build_stage_checks, read_stage_problems
from posttrain.pipeline.plan import derive_stage_seed
from posttrain.pipeline.preference_rows import PairStageConfig, check_labelled, load_stage_pairs
from posttrain.pipeline.preflight import contamination, mask, rollouts, truncation
from posttrain.pipeline.preflight.findings import Finding, build_refusal
from posttrain.pipeline.preflight.memory import check_memory, find_trained_adapter
from posttrain.pipeline.preflight.override_names import MEMORY, STEP_ZERO, Overrides, name_task
from posttrain.pipeline.preflight.step_zero import check_step_zero
from posttrain.pipeline.preflight.tasks import check_harness_task, check_task
from posttrain.pipeline.preflight.waiting import RunProgress, WaitingStage
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.reward_wiring import load_reward_data
from posttrain.pipeline.rounds import Round
from posttrain.pipeline.scorers import build_context
from posttrain.pipeline.wiring import StageData, load_stage_data
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.kto import KtoConfig
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.stages.reward_rows import check_rows
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import Ranks


@dataclass(slots=True)
class Preflight:
    """The checks of one run.

    `findings` is what `run.json` shows of them; `earlier` what it showed when the run was last started.
    """

    recipe: Recipe
    base: Path
    renderer: Renderer
    ranks: Ranks
    overrides: Overrides
    progress: Progress
    findings: list[dict[str, Any]]
    earlier: list[dict[str, Any]] = field(default_factory=list)
    allow_unsafe: bool = False
    _refused: list[Finding] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _started: set[str] = field(default_factory=set)

    def check_start(self, run: RunProgress) -> None:
        """Check every task, the rows of every stage that is yet to train, and the policy of the first of these.

        Of a round that is made already, what was found when it was made is shown again.

        Raises:
            RefusedError: One or more checks were refused, each named with its cure.
            DataError: Rows cannot be read or used at all.
            ModelError: The policy of the first stage cannot be loaded.
        """
        context = build_context(self.recipe.roots, self.recipe.scorers, allow_unsafe=self.allow_unsafe)
        context_tokens = read_context_tokens(self.base)
        for task in self.recipe.evaluate:
            if isinstance(task, GenerationTask):
                for finding in check_task(self.recipe, task, self.renderer, context, context_tokens):
                    self._add(finding, name_task(task.name))
            elif isinstance(task, HarnessTask):
                found = check_harness_task(self.recipe, task, self.renderer, allow_unsafe=self.allow_unsafe)
                self._add(found, name_task(task.name))
        self.earlier = [finding for finding in self.earlier if finding.get("stage") in run.unchanged]
        for label in run.made:
            self._keep_earlier(label)
        first_rows = None
        for number, waiting in enumerate(run.waiting):
            if waiting.stage.entry.name not in self._seen:
                rows = self._check_rows(waiting.stage)
                first_rows = rows if number == 0 else first_rows
        if run.waiting:
            self._check_policy(run.waiting[0], first_rows)
        if run.waiting or self._refused:
            self._conclude()

    def check_stage(self, waiting: WaitingStage) -> None:
        """Check a stage whose policy is there now, unless that was done at the start.

        Raises:
            RefusedError: See `check_start`.
        """
        if waiting.stage.label not in self._started:
            self._check_policy(waiting, self._check_rows(waiting.stage))
            self._conclude()

    def _keep_earlier(self, stage: str, *names: str) -> bool:
        """Show again what was found of a stage that has not changed since; return whether there was anything."""
        known = [
            finding
            for finding in self.earlier
            if finding.get("stage") == stage and (not names or finding.get("name") in names)
        ]
        self.findings += known
        return bool(known)

    def list_overridden(self, stage: str) -> list[str]:
        """Return the checks of a stage, by its label, that were refused and let through."""
        return [f["name"] for f in self.findings if f["stage"] == stage and f["status"] == "overridden"]

    def _add(self, finding: Finding, place: str) -> Finding:
        """Keep a finding, having looked whether the user lets it through; `place` is what overrides call its stage."""
        if finding.status == "refused" and finding.is_overridable and self.overrides.covers(place, finding.name):
            finding = replace(finding, status="overridden")
            self.progress.note(f"preflight: {finding.stage}: {finding.name} is overridden: {finding.found}")
        if finding.status == "refused":
            self._refused.append(finding)
        self.findings.append(finding.to_json())
        return finding

    def _conclude(self) -> None:
        refused, self._refused = self._refused, []
        if refused:
            raise build_refusal(refused)
        num_passed = sum(finding["status"] == "passed" for finding in self.findings)
        self.progress.note(f"preflight: {num_passed} checks passed")

    def _check_rows(self, stage: Round) -> StageData | None:
        """Check what needs no policy, once for all rounds of a stage, and return its rows, if any can be trained on.

        Of a stage that samples, every problem must be one that can be asked and judged.
        """
        config, name = stage.entry.config, stage.entry.name
        if isinstance(config, GrpoConfig) and name not in self._seen:
            self._seen.add(name)
            checks = build_stage_checks(self.recipe, config, self.renderer, self.base, allow_unsafe=self.allow_unsafe)
            read_stage_problems(self.recipe, config, checks)
        if isinstance(config, PairStageConfig) and name not in self._seen:
            self._seen.add(name)
            self._check_pairs(stage, config)
        context_tokens = read_context_tokens(self.base)
        if isinstance(config, RewardModelConfig) and name not in self._seen:
            self._seen.add(name)
            rows = load_reward_data(self.recipe, config, self.renderer, context_tokens, self.progress)
            check_rows(config, rows.train, rows.validation)
        if not isinstance(config, SftConfig):
            return None
        # All rows are looked at, however many are too long: that is for the check of truncation to judge.
        lenient = config.model_copy(update={"max_affected_fraction": 1.0})
        is_new = name not in self._seen
        self._seen.add(name)
        try:
            data = load_stage_data(self.recipe, lenient, self.renderer, context_tokens, self.progress)
        except NothingTrainedError as error:
            if is_new:
                self._add(self._describe_nothing(stage.label, error, config, context_tokens), name)
            return None
        if num_now := data.train.num_tokenized:
            self.progress.note(f"{stage.label}: {num_now:,} rows tokenized now")
        if is_new:
            self._add_row_findings(stage, config, data, context_tokens)
        return data

    def _check_pairs(self, stage: Round, config: PairStageConfig) -> None:
        """Check the pairs of a stage that compares them: lengths, and evaluation items among them."""
        context_tokens = read_context_tokens(self.base)
        lenient = config.model_copy(update={"max_affected_fraction": 1.0})
        try:
            data = load_stage_pairs(self.recipe, lenient, self.renderer, context_tokens, self.progress)
        except NothingTrainedError as error:
            self._add(self._describe_nothing(stage.label, error, config, context_tokens), stage.entry.name)
            return
        if isinstance(config, KtoConfig):
            check_labelled(config, data)
        ledgers = [*data.train.ledgers, *(data.validation.ledgers if data.validation else [])]
        self._add_ledger_findings(stage, config, data.train.ledgers, ledgers, context_tokens)

    def _add_ledger_findings(
        self,
        stage: Round,
        config: SftConfig | PairStageConfig,
        trained: Sequence[Ledger],
        ledgers: Sequence[Ledger],
        context_tokens: int | None,
    ) -> None:
        label, name, max_length = stage.label, stage.entry.name, config.max_length or context_tokens
        found = truncation.check_truncation(
            label, config, ledgers, max_length=max_length, context_tokens=context_tokens
        )
        self._add(found, name)
        if list_searched_tasks(self.recipe):
            searched, settings = describe_decontamination(self.recipe), self.recipe.head.decontaminate
            self._add(contamination.check_contamination(label, trained, settings, searched), name)

    def _describe_nothing(
        self, label: str, error: NothingTrainedError, config: SftConfig | PairStageConfig, context_tokens: int | None
    ) -> Finding:
        if CONTAMINATED in error.ledger.dropped:
            return contamination.describe_all_contaminated(label, error.found, error.ledger)
        if TOO_LONG in error.ledger.dropped:
            found, limit = f"{error.place}: {error.found}", config.max_length or context_tokens
            return truncation.describe_all_too_long(label, found, error.ledger, limit, context_tokens)
        if isinstance(config, PairStageConfig):
            raise error
        return mask.describe_nothing_trained(label, error.found, error.ledger, config)

    def _add_row_findings(self, stage: Round, config: SftConfig, data: StageData, context_tokens: int | None) -> None:
        label, name, seed = stage.label, stage.entry.name, derive_stage_seed(self.recipe, stage)
        ledgers = [*data.train.ledgers, *(data.validation.ledgers if data.validation else [])]
        self._add_ledger_findings(stage, config, data.train.ledgers, ledgers, context_tokens)
        rows = mask.choose_rows(data.train.rows, mask.MAX_ROWS, seed, "mask")
        self._add(mask.check_mask(label, rows, data.train.ledger, config, self.renderer.format.stop_ids), name)
        shaped = config
        if config.adapter is None and config.adapter_start == "continue":
            shaped = config.model_copy(update={"adapter": find_trained_adapter(self.recipe, stage.entry)})
        self._add(check_memory(label, self.base, shaped, data, self.ranks, seed), name)

    def _check_policy(self, waiting: WaitingStage, data: StageData | None) -> None:
        """Check what needs the policy that a stage starts from."""
        stage, entry = waiting.stage, waiting.stage.entry
        self._started.add(stage.label)
        assert waiting.parent is not None  # who asks for it has the policy
        if isinstance(entry.config, SftConfig) and data is not None:
            self._check_step_zero(waiting, waiting.parent, entry.config, data)
        sampled = rollouts.find_rollouts(entry)
        if sampled is None:
            return
        for finding in rollouts.probe_rollouts(
            stage.label,
            waiting.parent,
            *sampled,
            recipe=self.recipe,
            renderer=self.renderer,
            seed=derive_stage_seed(self.recipe, stage),
            progress=self.progress,
            allow_unsafe=self.allow_unsafe,
        ):
            self._add(finding, entry.name)

    def _check_step_zero(self, waiting: WaitingStage, parent: Path, config: SftConfig, data: StageData) -> None:
        label, name = waiting.stage.label, waiting.stage.entry.name
        if waiting.is_resumed:
            if not self._keep_earlier(label, STEP_ZERO):
                self._add(Finding(label, STEP_ZERO, "skipped", "the stage goes on from a checkpoint"), name)
            return
        if any((refused.stage, refused.name) == (label, MEMORY) for refused in self._refused):
            self._add(Finding(label, STEP_ZERO, "skipped", "the policy may not fit into memory: see memory"), name)
            return
        seed = derive_stage_seed(self.recipe, waiting.stage)
        self._add(check_step_zero(label, parent, config, data, name=name, seed=seed), name)
