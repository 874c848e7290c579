"""Preflight: which checks run when, what they found, and the refusal that names all that must not go on.

What needs no trained policy (rows, lengths, scorers, memory) is checked for every stage and task before anything is
trained. What needs the policy that a stage starts from is checked for the first stage then too, and for a later one
right before it trains.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.task import GenerationTask
from posttrain.models.loading import read_context_tokens
from posttrain.pipeline.preflight import rollouts
from posttrain.pipeline.preflight.findings import Finding, build_refusal
from posttrain.pipeline.preflight.override_names import MEMORY, STEP_ZERO, Overrides, name_task
from posttrain.pipeline.preflight.tasks import check_harness_task, check_task
from posttrain.pipeline.preflight.waiting import RunProgress, WaitingStage
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.rounds import Round, derive_stage_seed
from posttrain.pipeline.scorers import build_context
from posttrain.pipeline.stage_kinds.kind import StageSetting, find_kind
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
        first_rows: Any = None
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

    def _check_rows(self, stage: Round) -> Any:
        """Check what needs no policy, once for all rounds of a stage, and return what `_check_policy` needs of it."""
        name = stage.entry.name
        is_new = name not in self._seen
        self._seen.add(name)
        found = find_kind(stage.entry).check_rows(self._surround(stage), stage.entry.config, is_new=is_new)
        for finding in found.findings:
            self._add(finding, name)
        return found.rows

    def _surround(self, stage: Round) -> StageSetting:
        return StageSetting(self.recipe, stage, self.base, self.renderer, self.ranks, self.progress, self.allow_unsafe)

    def _check_policy(self, waiting: WaitingStage, rows: Any) -> None:
        """Check what needs the policy that a stage starts from."""
        stage, entry = waiting.stage, waiting.stage.entry
        self._started.add(stage.label)
        assert waiting.parent is not None  # who asks for it has the policy
        if rows is not None:
            self._check_step_zero(waiting, waiting.parent, rows)
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

    def _check_step_zero(self, waiting: WaitingStage, parent: Path, rows: Any) -> None:
        stage, label, name = waiting.stage, waiting.stage.label, waiting.stage.entry.name
        if waiting.is_resumed:
            if not self._keep_earlier(label, STEP_ZERO):
                self._add(Finding(label, STEP_ZERO, "skipped", "the stage goes on from a checkpoint"), name)
            return
        if any((refused.stage, refused.name) == (label, MEMORY) for refused in self._refused):
            self._add(Finding(label, STEP_ZERO, "skipped", "the policy may not fit into memory: see memory"), name)
            return
        kind = find_kind(stage.entry)
        self._add(kind.check_step_zero(self._surround(stage), stage.entry.config, parent, rows), name)
