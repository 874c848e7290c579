"""Carrying out a recipe: stage after stage, each from the artifact before, measured and reported.

A stage whose key has an artifact is not run again; a run that was killed goes on from its newest
checkpoint. One process works in a run folder at a time; under torchrun that is one job, whose first
rank writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.durable import remove_temporaries, write_json, write_text
from posttrain.core.errors import PosttrainError, RefusedError, TerminatedError
from posttrain.core.progress import SilentProgress
from posttrain.core.protocols import MetricsSink, Progress, RunContext
from posttrain.core.records import Artifact
from posttrain.core.run_folder import FolderLock, RunFolder, StageFolder
from posttrain.evaluation.monitors.reading import Reading
from posttrain.pipeline.gatekeeper import Verdict
from posttrain.pipeline.loggers import FanOut, LoggedStage, build_metrics_sink, check_loggers
from posttrain.pipeline.measure import Measurer, read_measure_settings
from posttrain.pipeline.monitoring import RunMonitors
from posttrain.pipeline.named_models import name_stage_model, read_warnings
from posttrain.pipeline.plan import compute_stage_key, hash_base
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.preflight.checks import Preflight
from posttrain.pipeline.preflight.override_names import Overrides, read_overrides
from posttrain.pipeline.preflight.rounds import check_rounds
from posttrain.pipeline.preflight.waiting import WaitingStage, find_progress
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.repair import NUM_SNAPSHOTS
from posttrain.pipeline.rounds import Round, derive_stage_seed, list_rounds
from posttrain.pipeline.run_gates import RunGates, RunMeasuring, check_ranks, find_partial_tasks, refuse_hold
from posttrain.pipeline.run_record import RunRecord, read_findings
from posttrain.pipeline.stage_jobs import StageJob
from posttrain.pipeline.stage_kinds.kind import find_kind
from posttrain.pipeline.stage_runs import run_stage
from posttrain.pipeline.stage_types import find_stage_type
from posttrain.pipeline.stoppable import StoppableProgress, check_stop
from posttrain.pipeline.store import ArtifactStore, WorkingFolders
from posttrain.pipeline.wiring import build_callbacks
from posttrain.reports.page import build_report
from posttrain.stages.training_keys import TrainingKeys
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks, find_device, join_ranks


def run_recipe(
    recipe: Recipe,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    allow_unsafe: bool = False,
    override: Sequence[str] = (),
) -> Path:
    """Carry out a recipe and return its run folder.

    Args:
        recipe: What to do.
        progress: Shows how far it has come; silent if None.
        should_stop: Asked after every step; a run that is asked to stop saves first.
        allow_unsafe: Whether programs that a model wrote may run without a sandbox where none passes its self-check.
        override: Checks and gates to let through by name: `mask`, `sft:mask`, `evaluate.held_out:scorer`, `gate:sft`,
            `audit:rl`, `monitor:sycophancy`.

    Raises:
        RefusedError: A gate cannot decide, or a monitor that holds raised an alarm: what was made is kept, and nothing
            is made from it.
        LockedError: Another process works in the folder.
        TerminatedError: Asked to stop; the same call goes on from there.
        RefusedError: A check before or after a stage found what must not go on, with its cure.
        PosttrainError: Whatever stopped it, with its cure; nothing that was done is lost.
    """
    overrides = read_overrides(recipe, override)
    ranks = join_ranks(find_device())
    folder = RunFolder(recipe.folder)
    shown = (progress if ranks.is_writer else None) or SilentProgress()
    with ExitStack() as stack:
        _on_writer(ranks, lambda: _open_folder(recipe, folder, stack))
        base = ranks.first(lambda: find_base(recipe))
        renderer = stack.enter_context(open_renderer(recipe, base))
        stop = should_stop or (lambda: False)
        measurer = Measurer(
            read_measure_settings(recipe, allow_unsafe=allow_unsafe), folder, renderer, StoppableProgress(shown, stop)
        )
        _Run(recipe, folder, base, renderer, ranks, shown, stop, measurer, overrides).carry_out()
    return folder.root


def _on_writer(ranks: Ranks, action: Callable[[], object]) -> None:
    """Do something on the writing rank; if it fails, every rank stops with the same error, and none waits for it."""
    failure: PosttrainError | None = None
    if ranks.is_writer:
        try:
            action()
        except PosttrainError as error:
            failure = error
    ranks.share_failure(failure)


def _open_folder(recipe: Recipe, folder: RunFolder, stack: ExitStack) -> None:
    """Lock the run folder until the stack unwinds, and write down what is about to be done."""
    check_loggers(recipe.loggers)
    stack.enter_context(FolderLock(folder.lock))
    remove_temporaries(folder.root)
    write_text(folder.recipe, recipe.text)
    write_json(folder.resolved, {"overrides": list(recipe.overrides), **recipe.resolved()})


@dataclass(slots=True)
class _Run:
    """A run under way."""

    recipe: Recipe
    folder: RunFolder
    base: Path
    renderer: Renderer
    ranks: Ranks
    progress: Progress
    should_stop: Callable[[], bool]
    measurer: Measurer
    overrides: Overrides
    outputs: dict[str, Artifact] = field(default_factory=dict)
    record: RunRecord = field(init=False)
    preflight: Preflight = field(init=False)
    monitors: RunMonitors = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.record = RunRecord(self.folder, recipe.name, recipe.identity_hash(), recipe.hash, recipe.seed)
        self.record.overrides = list(self.overrides.names)
        self.preflight = self._build_preflight()
        self.monitors = RunMonitors(recipe, self.record, self.progress, self.overrides)

    @property
    def workplaces(self) -> WorkingFolders:
        """The folders that stages and measurements work in."""
        return WorkingFolders(self.folder)

    def carry_out(self) -> None:
        """Run every round of every stage, measuring what each made; the record and report are always written."""
        recipe, record = self.recipe, self.record
        base = Artifact("policy", "", hash_base(self.base), str(self.base))
        self.outputs[BASE] = base
        record.add_artifact(base, [], BASE)
        rounds = list_rounds(recipe)
        entries = [record.add_stage(r.entry.name, r.number, r.entry.type) for r in rounds]
        if self.ranks.is_writer:
            kept = self.workplaces.set_aside_strangers([self._folder_of(stage).root for stage in rounds])
            self._note_kept(kept)
        self._write()
        try:
            check_ranks(rounds, self.ranks)
            _on_writer(self.ranks, lambda: check_rounds(recipe, self.base, rounds, self.ranks))
            _on_writer(
                self.ranks,
                lambda: self.preflight.check_start(find_progress(recipe, rounds, entries, base, self.renderer)),
            )
            self._measure(base, BASE)
            self._read_monitors(BASE, base, None, may_hold=False)
            for stage, entry in zip(rounds, entries, strict=True):
                check_stop(self.ranks.agree(self.should_stop()))
                self._run_round(stage, entry)
            record.status = "finished"
        except TerminatedError:
            record.status = "stopped"
            raise
        except RefusedError:
            record.status = "refused"
            raise
        except BaseException:
            record.status = "failed"
            raise
        finally:
            for entry in entries:
                if entry["status"] == "running":
                    entry["status"] = record.status
            self._conclude()

    def _build_preflight(self) -> Preflight:
        shown = StoppableProgress(self.progress, self.should_stop) if self.ranks.count == 1 else self.progress
        return Preflight(
            recipe=self.recipe,
            base=self.base,
            renderer=self.renderer,
            ranks=self.ranks,
            overrides=self.overrides,
            progress=shown,
            findings=self.record.preflight,
            earlier=read_findings(self.folder),
            allow_unsafe=self.measurer.settings.allow_unsafe,
        )

    def _run_round(self, stage: Round, entry: dict[str, Any]) -> None:
        parent = self.outputs[stage.entry.parent if stage.number == 1 else stage.entry.name]
        key = self.ranks.first(lambda: self._compute_key(stage, parent))
        folder = self._folder_of(stage)
        if entry["key"] != key:  # what the record before this one said was of another configuration
            entry |= {"seconds": None, "tokens": None, "ledger": None}
        entry |= {"key": key, "inputs": {"policy": parent.hash}, "status": "running"}
        _on_writer(self.ranks, lambda: self._claim(folder.root, key))
        found = self.ranks.broadcast_object(ArtifactStore(self.folder).find(key) if self.ranks.is_writer else None)
        if found is not None:
            self.progress.note(f"{stage.label}: cached ({found.hash[:12]})")
            artifact, status = found, "cached"
        else:
            is_resumed = not CheckpointStore(folder.checkpoints).is_empty
            waiting = WaitingStage(stage, Path(parent.folder), is_resumed)
            _on_writer(self.ranks, lambda: self.preflight.check_stage(waiting))
            artifact = self._train(stage, entry, key, parent, folder)
            status = "finished"
        self.record.add_artifact(artifact, [parent.hash], stage.label)
        if find_stage_type(stage.entry.type).passes_policy_on:
            self._pass_on(stage, entry, artifact, parent, status)
            return
        # Rows that a gate asks a part of first are asked by it, and all of them once it has let the policy through.
        self._measure(artifact, stage.label, without=find_partial_tasks(stage.entry.gate))
        verdict = self._ask_gate(stage, key, artifact, parent)
        passed_on = artifact if verdict is None else verdict.policy
        is_passed_on = verdict is None or verdict.decision == "promote"
        made = passed_on if is_passed_on else artifact
        entry |= {"outputs": {"policy": made.hash}, "status": status, "gate": verdict and verdict.record}
        self._write()
        beside = find_kind(stage.entry).read_outcome(stage.entry.config, folder)
        self._read_monitors(stage.label, made, parent, may_hold=is_passed_on, beside=beside)
        if verdict is not None and verdict.decision == "hold":
            raise refuse_hold(stage, verdict)
        self.outputs[stage.entry.name] = passed_on

    # many parameters: what a round made beside the policy that it was given
    def _pass_on(self, stage: Round, entry: dict[str, Any], made: Artifact, policy: Artifact, status: str) -> None:
        """Go on with the policy as it came, and have later stages find a reward model by its stage's name.

        Raises:
            RefusedError: A monitor's alarm in what was made, and the stage holds on alarms.
        """
        if made.kind == "reward_model":
            _on_writer(self.ranks, lambda: name_stage_model(self.folder, stage.entry.name, made))
        self._measure(policy, stage.label)
        for warning in read_warnings(made) if made.kind == "reward_model" else ():
            self.progress.note(f"WARNING {stage.label}: {warning}")
        entry |= {"outputs": {"policy": policy.hash, made.kind: made.hash}, "status": status}
        self._write()
        self.outputs[stage.entry.name] = policy
        _on_writer(self.ranks, lambda: self.monitors.take_made(stage, policy.hash, made))

    def _compute_key(self, stage: Round, parent: Artifact) -> str:
        return compute_stage_key(self.recipe, stage, parent.hash, self.renderer, self.base)

    def _folder_of(self, stage: Round) -> StageFolder:
        return self.folder.stage(stage.index, stage.entry.name, stage.number)

    def _claim(self, folder: Path, key: str) -> None:
        kept = self.workplaces.claim(folder, key)
        self._note_kept([kept] if kept else [])

    def _note_kept(self, names: list[str]) -> None:
        if names:
            self.progress.note(f"what an earlier configuration left is kept in {', '.join(names)}")

    def _train(self, stage: Round, entry: dict[str, Any], key: str, parent: Artifact, folder: StageFolder) -> Artifact:
        self.progress.note(f"{stage.label}: {stage.entry.type} from {parent.hash[:12]}")
        self._write()
        # A stage that was stopped has seconds and no tokens yet: its sessions add up.
        before = entry["seconds"] or 0.0 if entry["tokens"] is None else 0.0
        began = time.perf_counter()
        with ExitStack() as stack:
            stack.callback(lambda: entry.update(seconds=round(before + time.perf_counter() - began, 3)))
            sink = self._build_sink(stage, folder)
            stack.callback(sink.close)
            stack.callback(lambda: self.monitors.note_audit(stage, folder))
            result = run_stage(self._build_job(stage, key, parent, folder, sink))
        entry |= {"tokens": result.tokens, "ledger": result.ledger}
        return result.artifacts[find_stage_type(stage.entry.type).makes]

    # many parameters: a job is what surrounds one round
    def _build_job(self, stage: Round, key: str, parent: Artifact, folder: StageFolder, sink: MetricsSink) -> StageJob:
        config, rules = stage.entry.config, stage.entry.gate
        context = RunContext(
            folder=folder.root,
            seed=derive_stage_seed(self.recipe, stage),
            metrics=sink,
            progress=self.progress,
            should_stop=self.should_stop,
            callbacks=build_callbacks(stage.entry),
            log_every_steps=config.log_every_steps if isinstance(config, TrainingKeys) else 10,
            num_snapshots=NUM_SNAPSHOTS if rules is not None and "best_checkpoint" in rules.on_fail else 0,
        )
        return StageJob(
            self.recipe,
            stage.entry,
            key,
            parent,
            folder,
            self.renderer,
            self.ranks,
            ArtifactStore(self.folder),
            context,
            lambda: self._compute_key(stage, parent),
            self.measurer.settings.allow_unsafe,
            tuple(self.ranks.broadcast_object(self.preflight.list_overridden(stage.label))),
            self.overrides.covers_audit(stage.entry.name),
        )

    def _build_sink(self, stage: Round, folder: StageFolder) -> MetricsSink:
        if not self.ranks.is_writer:
            return FanOut([])
        resolved = stage.entry.resolved()
        logged = LoggedStage(self.recipe.name, folder.root.name, folder.root, self.recipe.hash, resolved)
        return build_metrics_sink(folder.metrics, self.recipe.loggers, logged)

    def _measure(self, artifact: Artifact, label: str, *, without: Collection[str] = ()) -> None:
        if self.ranks.is_writer:
            self._measuring().measure(artifact, label, without=without)

    def _measuring(self) -> RunMeasuring:
        return RunMeasuring(self.recipe, self.measurer, self.record, self.monitors)

    # many parameters: whose policy, of which parent, and what its stage said of itself
    def _read_monitors(
        self,
        label: str,
        policy: Artifact,
        parent: Artifact | None,
        *,
        may_hold: bool,
        beside: Sequence[Reading] = (),
    ) -> None:
        """Read the monitors over a policy that was measured.

        Raises:
            RefusedError: One that holds raised an alarm.
        """
        base = None if parent is None else self.outputs[BASE].hash
        before = None if parent is None else parent.hash
        _on_writer(
            self.ranks,
            lambda: self.monitors.read(label, policy.hash, parent=before, base=base, may_hold=may_hold, beside=beside),
        )

    def _ask_gate(self, stage: Round, key: str, artifact: Artifact, parent: Artifact) -> Verdict | None:
        """Return what the stage's gate makes of its policy, None where it has no gate."""
        if stage.entry.gate is None:
            return None
        verdict: Verdict | None = None
        job = self._build_job(stage, key, parent, self._folder_of(stage), FanOut([]))

        def carry_out() -> None:
            nonlocal verdict
            gates = RunGates(
                self._measuring(), lambda changed, folder: self._train_again(changed, parent, folder), self.overrides
            )
            verdict = gates.carry_out(stage, job, artifact, self.outputs)

        _on_writer(self.ranks, carry_out)
        verdict = self.ranks.broadcast_object(verdict)
        assert verdict is not None  # a failure on the writing rank has been raised on all
        self.progress.note(f"gate of {stage.label}: {verdict.reason}")
        return verdict

    def _train_again(self, stage: Round, parent: Artifact, folder: StageFolder) -> Artifact:
        """Return what a changed stage makes of the parent, from the store if it was made before."""
        key = self._compute_key(stage, parent)
        found = ArtifactStore(self.folder).find(key)
        if found is None:
            self._claim(folder.root, key)
            found = self._train(stage, {"seconds": None, "tokens": None}, key, parent, folder)
        return found

    def _write(self) -> None:
        if self.ranks.is_writer:
            self.record.write()

    def _conclude(self) -> None:
        """Write record and report; a failure here must not hide the one that stopped the run."""
        if not self.ranks.is_writer:
            return
        try:
            self.record.write()
            build_report(self.folder.root)
            self.record.write()
        except PosttrainError as error:
            if self.record.status == "finished":
                raise
            self.progress.note(f"the report could not be written: {error.found}")
