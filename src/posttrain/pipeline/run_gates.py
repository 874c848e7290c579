"""What a run measures, and its gates: metrics into the record, verdicts into what is passed on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.core.errors import RefusedError
from posttrain.core.records import Artifact
from posttrain.core.run_folder import StageFolder
from posttrain.gates.rules import GateRules, list_baselines, list_tasks
from posttrain.pipeline.gate_checks import TRAINING_REPAIRS, find_replay
from posttrain.pipeline.gate_record import GateLedger
from posttrain.pipeline.gatekeeper import GateJob, Gatekeeper, Verdict
from posttrain.pipeline.measure import Measured, Measurer, measure_all
from posttrain.pipeline.monitoring import RunMonitors
from posttrain.pipeline.preflight.override_names import GATE, Overrides
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.repair import Repairs
from posttrain.pipeline.rounds import Round, list_rounds
from posttrain.pipeline.run_record import RunRecord
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob
from posttrain.pipeline.stage_runs import discard_snapshots
from posttrain.training.distributed import Ranks


@dataclass(frozen=True, slots=True)
class RunMeasuring:
    """Measures a run's policies on its tasks; every metric goes into the record as it comes."""

    recipe: Recipe
    measurer: Measurer
    record: RunRecord
    monitors: RunMonitors

    def measure(self, artifact: Artifact, label: str, *, without: Collection[str] = ()) -> None:
        """Measure a policy on every row of every task but those that are named."""
        tasks = [task for task in self.recipe.evaluate if task.name not in without]
        if not tasks:
            return
        with ExitStack() as stack:
            policy = self.measurer.open(stack, Path(artifact.folder), artifact.hash)
            measure_all(self.measurer, policy, tasks, done=lambda measured: self.note(measured, [label], artifact))

    def note(self, measured: Measured, labels: Sequence[str], artifact: Artifact) -> None:
        """Put a task's metrics into the record, under each of these names of the policy."""
        self.monitors.remember(artifact.hash, measured)
        metrics = [{**figures, "policy": artifact.hash} for figures in measured.metrics]
        for label in labels:
            self.record.set_metrics(label, measured.task, metrics)
        self.record.sandbox = self.measurer.sandbox or self.record.sandbox
        self.record.write()


@dataclass(frozen=True, slots=True)
class RunGates:
    """Carries out the gates of a run, on the writing rank.

    Args:
        measuring: Measures, and keeps the record.
        train_again: Trains a changed stage in a working folder, and returns what it made.
        overrides: What the user goes on against.
    """

    measuring: RunMeasuring
    train_again: Callable[[Round, StageFolder], Artifact]
    overrides: Overrides

    def carry_out(self, stage: Round, job: StageJob, made: Artifact, outputs: Mapping[str, Artifact]) -> Verdict:
        """Return what a stage's gate makes of its policy; a repaired one is measured in its place.

        Args:
            stage: The round.
            job: The round as it ran.
            made: What it made.
            outputs: The policies of the stages before, by name.

        Raises:
            PosttrainError: A policy cannot be measured, or a repair cannot be made.
        """
        rules, measuring = stage.entry.gate, self.measuring
        assert rules is not None  # asked only of a stage that has one
        repaired = f"{stage.label}, repaired"

        def on_measured(policy: Artifact, measured: Measured) -> None:
            known = measuring.record.list_labels(policy.hash)
            if policy.hash == made.hash:
                known = list(dict.fromkeys([*known, stage.label]))
            # What was measured on all rows stays: a look at some of them says less.
            asked = max(figures["n"] for figures in measured.metrics)
            labels = [
                label
                for label in known or [repaired]
                if measuring.record.count_items(label, measured.task, policy.hash) <= asked
            ]
            measuring.note(measured, labels, policy)

        ledger = GateLedger(measuring.record.folder, [one.label for one in list_rounds(measuring.recipe)])
        keeper = Gatekeeper(measuring.measurer, measuring.recipe.evaluate, ledger, on_measured)
        baselines = {name: outputs[name] for name in list_baselines(rules)}
        is_overridden = self.overrides.covers_gate(stage.entry.name)
        gate = GateJob(stage.label, rules, made, job.parent, baselines, is_overridden)
        verdict = keeper.carry_out(gate, self._build_repairs(stage, job, made))
        record = measuring.record
        if verdict.decision == "promote" and verdict.policy.hash != made.hash:
            record.add_artifact(verdict.policy, [job.parent.hash, made.hash], stage.label)
            record.rename_metrics(stage.label, f"{stage.label}, as trained")
        record.drop_metrics(repaired)
        # The stage's own policy has been measured on all but what the gate asked in part.
        if verdict.decision == "promote" and (verdict.policy.hash != made.hash or find_partial_tasks(rules)):
            measuring.measure(verdict.policy, stage.label)
        discard_snapshots(replace(job, ranks=Ranks()))
        return verdict

    def _build_repairs(self, stage: Round, job: StageJob, made: Artifact) -> Repairs:
        def train_again(changed: StageEntry, label: str) -> Artifact:
            return self.train_again(replace(stage, entry=changed), job.folder.repair(label))

        stages = self.measuring.recipe.stages
        replay = find_replay(stage.entry, stages[: stages.index(stage.entry)])
        # Only this process makes repairs: none waits for the others.
        alone = replace(job, ranks=Ranks())
        return Repairs(alone, made, replay, train_again, job.context.progress)


def find_partial_tasks(rules: GateRules | None) -> list[str]:
    """Return the tasks of which a gate asks a part of the rows first."""
    return list_tasks(rules) if rules is not None and rules.looks > 1 else []


def check_ranks(rounds: Sequence[Round], ranks: Ranks) -> None:
    """Refuse repairs that train again where several processes train.

    Raises:
        RefusedError: A gate asks for one.
    """
    for stage in rounds:
        rules = stage.entry.gate
        if ranks.count > 1 and rules is not None and set(rules.on_fail) & set(TRAINING_REPAIRS):
            raise RefusedError(
                "a repair that trains the stage again, in a run of several processes",
                expected="repairs that one process makes: interpolate, best_checkpoint",
                cure="leave the others out of on_fail, or run in one process",
                place=f"{stage.entry.name}: gate: on_fail",
            )


def refuse_hold(stage: Round, verdict: Verdict) -> RefusedError:
    """Return the error of a gate that cannot decide."""
    needed = [
        result["figures"]["items_to_decide"]
        for attempt in verdict.record["attempts"][-1:]
        for decision in attempt["decisions"][-1:]
        for result in decision["results"]
        if result["figures"] is not None and result["figures"]["items_to_decide"]
    ]
    more = f"evaluate about {max(needed)} items a task (data: rows), " if needed else ""
    return RefusedError(
        verdict.reason,
        expected="every rule of the gate decided",
        cure=f"{more}widen a margin with a reason you can defend, or go on against the gate with "
        f"--override {GATE}:{stage.entry.name}, which is recorded",
        place=f"gate of {stage.label}",
    )
