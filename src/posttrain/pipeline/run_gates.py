"""What a run measures, and its gates: metrics into the record, verdicts into what is passed on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.core.errors import RefusedError
from posttrain.core.records import Artifact
from posttrain.core.run_folder import StageFolder
from posttrain.gates.rules import list_baselines, list_tasks
from posttrain.pipeline.gate_checks import TRAINING_REPAIRS, find_replay
from posttrain.pipeline.gate_record import GateLedger
from posttrain.pipeline.gatekeeper import GateJob, Gatekeeper, Verdict
from posttrain.pipeline.measure import Measured, Measurer, measure_all
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.repair import Repairs
from posttrain.pipeline.rounds import Round
from posttrain.pipeline.run_record import RunRecord
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_runs import StageJob, discard_snapshots
from posttrain.training.distributed import Ranks

GATE_CHECK = "gate:"
"""What the name of a gate begins with where the user goes on against it: `gate:<stage>`."""


@dataclass(frozen=True, slots=True)
class RunMeasuring:
    """Measures a run's policies on its tasks; every metric goes into the record as it comes."""

    recipe: Recipe
    measurer: Measurer
    record: RunRecord

    def measure(self, artifact: Artifact, label: str) -> None:
        """Measure a policy on every task; where a gate looks several times, on the rows of its first look."""
        if not self.recipe.evaluate:
            return
        with ExitStack() as stack:
            policy = self.measurer.open(stack, Path(artifact.folder), artifact.hash)
            measure_all(
                self.measurer,
                policy,
                self.recipe.evaluate,
                firsts=self._count_first_rows(),
                done=lambda measured: self.note(measured, [label], artifact),
            )

    def note(self, measured: Measured, labels: Sequence[str], artifact: Artifact) -> None:
        """Put a task's metrics into the record, under each of these names of the policy."""
        metrics = [{**figures, "policy": artifact.hash} for figures in measured.metrics]
        for label in labels:
            self.record.set_metrics(label, measured.task, metrics)
        self.record.sandbox = self.measurer.sandbox or self.record.sandbox
        self.record.write()

    def _count_first_rows(self) -> dict[str, int]:
        """Return how many rows the first look of a gate needs, for each task that gates read, the most of all gates."""
        looks: dict[str, int] = {}
        for rules in [entry.gate for entry in self.recipe.stages if entry.gate is not None]:
            for name in list_tasks(rules):
                looks[name] = min(looks.get(name, rules.looks), rules.looks)
        return {
            task.name: math.ceil(len(self.measurer.prepare(task).problems) / looks[task.name])
            for task in self.recipe.evaluate
            if looks.get(task.name, 1) > 1
        }


@dataclass(frozen=True, slots=True)
class RunGates:
    """Carries out the gates of a run, on the writing rank.

    Args:
        measuring: Measures, and keeps the record.
        train_again: Trains a changed stage in a working folder, and returns what it made.
        overridden_checks: Names of checks that the user goes on against.
    """

    measuring: RunMeasuring
    train_again: Callable[[Round, StageFolder], Artifact]
    overridden_checks: Collection[str]

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
        labels: dict[str, list[str]] = {}
        for name, one in outputs.items():
            labels.setdefault(one.hash, []).append(name)
        labels.setdefault(made.hash, []).append(stage.label)
        repaired = f"{stage.label}, repaired"

        def on_measured(policy: Artifact, measured: Measured) -> None:
            measuring.note(measured, labels.get(policy.hash, [repaired]), policy)

        keeper = Gatekeeper(
            measuring.measurer, measuring.recipe.evaluate, GateLedger(measuring.record.folder), on_measured
        )
        baselines = {name: outputs[name] for name in list_baselines(rules)}
        is_overridden = f"{GATE_CHECK}{stage.entry.name}" in self.overridden_checks
        gate = GateJob(stage.label, rules, made, job.parent, baselines, is_overridden)
        verdict = keeper.carry_out(gate, self._build_repairs(stage, job, made))
        record = measuring.record
        if verdict.decision == "promote" and verdict.policy.hash != made.hash:
            record.add_artifact(verdict.policy, [job.parent.hash, made.hash], stage.label)
            record.rename_metrics(stage.label, f"{stage.label}, as trained")
            measuring.measure(verdict.policy, stage.label)
        record.drop_metrics(repaired)
        discard_snapshots(replace(job, ranks=Ranks()))
        return verdict

    def _build_repairs(self, stage: Round, job: StageJob, made: Artifact) -> Repairs:
        rules = stage.entry.gate
        assert rules is not None
        if job.ranks.count > 1 and set(rules.on_fail) & set(TRAINING_REPAIRS):
            raise RefusedError(
                "a repair that trains the stage again, in a run of several processes",
                expected="repairs that one process makes: interpolate, best_checkpoint",
                cure="leave the others out of on_fail, or run in one process",
                place=f"{stage.entry.name}: gate: on_fail",
            )

        def train_again(changed: StageEntry, label: str) -> Artifact:
            return self.train_again(replace(stage, entry=changed), job.folder.repair(label))

        stages = self.measuring.recipe.stages
        replay = find_replay(stage.entry, stages[: stages.index(stage.entry)])
        # Only this process makes repairs: none waits for the others.
        alone = replace(job, ranks=Ranks())
        return Repairs(alone, made, rules, replay, train_again, job.context.progress)


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
        f"--override {GATE_CHECK}{stage.entry.name}, which is recorded",
        place=f"gate of {stage.label}",
    )
