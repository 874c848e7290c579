"""Reading monitors over what was measured: items from files, against the parent's and the base's.

Readings are computed from items and from nothing else, so that a run that was stopped, or takes its stages from the
cache, reads the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.core.errors import RecipeError, RefusedError
from posttrain.core.protocols import Progress
from posttrain.core.records import Artifact, ItemResult
from posttrain.core.run_folder import StageFolder
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.monitors.keys import MonitorKeys
from posttrain.evaluation.monitors.reading import Monitor, Reading
from posttrain.evaluation.monitors.settings import read_monitor
from posttrain.evaluation.task import EvaluationTask
from posttrain.pipeline.evaluating import Evaluated, EvaluationChoice, evaluate_model
from posttrain.pipeline.measure import Measured
from posttrain.pipeline.monitor_checks import list_monitors
from posttrain.pipeline.preflight.override_names import MONITOR, Overrides
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.recipe_settings import BASE
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.rounds import Round
from posttrain.pipeline.run_record import RunRecord
from posttrain.pipeline.stage_kinds.kind import find_kind
from posttrain.pipeline.task_rows import read_task_problems
from posttrain.stages.audit import read_looks

Side = Mapping[str, Measured]
"""What a policy was measured on, by task."""


@dataclass(slots=True)
class MonitorReader:
    """Reads monitors over measured policies.

    Args:
        monitors: What is read.
        tasks: What policies are measured on.
        roots: Where the rows lie, for the columns that a monitor asks for.
    """

    monitors: Sequence[MonitorKeys]
    tasks: Sequence[EvaluationTask]
    roots: Roots
    _columns: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def read(self, own: Side, parent: Side | None, base: Side | None) -> list[Reading]:
        """Return what each monitor says of a policy.

        Args:
            own: What the policy was measured on.
            parent: The same of the policy that its stage started from; None for the base.
            base: The same of the base; None for the base itself.

        Raises:
            StorageError: An item file is torn before its last line.
            DataError: Rows whose columns a monitor asks for cannot be read.
        """
        readings = []
        for monitor in self.monitors:
            assert isinstance(monitor, Monitor)
            sides = [None if side is None else self._load(monitor, side, own) for side in (own, parent, base)]
            readings.append(read_monitor(monitor, sides[0] or {}, sides[1], sides[2]))
        return readings

    def _load(self, monitor: MonitorKeys, side: Side, own: Side) -> dict[str, list[ItemResult]]:
        """Return the items that a monitor reads of a side; of a reference those of the problems that `own` has."""
        assert isinstance(monitor, Monitor)
        found = {}
        for name in monitor.tasks_read:
            if name in side:
                asked = own[name].problem_ids if name in own else side[name].problem_ids
                # Of a repeated item the first counts, as it does where metrics are summed up.
                items = {(item.item_id, item.sample_index): item for item in reversed(side[name].read_items())}
                kept = [item for item in reversed(items.values()) if item.item_id in asked]
                found[name] = self._add_columns(name, kept, list(getattr(monitor, "columns_read", ())))
        return found

    def _add_columns(self, task: str, items: list[ItemResult], names: Sequence[str]) -> list[ItemResult]:
        """Return items with the numbers of these columns of their rows among their parts; parts come first."""
        if not names or all(any(name in item.outcome.parts for item in items) for name in names):
            return items
        if task not in self._columns:
            settings = next(one for one in self.tasks if one.name == task)
            if isinstance(settings, HarnessTask):  # its documents have no columns of ours
                return items
            problems = read_task_problems(self.roots, settings, settings.data, are_shown=False)
            wanted = {name for one in self.monitors for name in getattr(one, "columns_read", ())}
            self._columns[task] = {one.problem_id: _read_numbers(one.columns, wanted) for one in problems}
        columns = self._columns[task]

        def complete(item: ItemResult) -> ItemResult:
            numbers = {name: value for name, value in columns.get(item.item_id, {}).items() if name in names}
            return replace(item, outcome=replace(item.outcome, parts={**numbers, **item.outcome.parts}))

        return [complete(item) for item in items]


def _read_numbers(columns: Mapping[str, Any], names: Collection[str]) -> dict[str, float]:
    """Return the numbers of these columns; without those that are no finite float."""
    found = {}
    for name in names:
        value = columns.get(name)
        # An integer beyond the largest float cannot be made one.
        if isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max:
            found[name] = float(value)
    return found


@dataclass(slots=True)
class RunMonitors:
    """The monitors of a run, on the writing rank: remembers what was measured, and reads it after every stage."""

    recipe: Recipe
    record: RunRecord
    progress: Progress
    overrides: Overrides
    _measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    _reader: MonitorReader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = MonitorReader(self.recipe.monitors, self.recipe.evaluate, self.recipe.roots)

    def remember(self, policy_hash: str, measured: Measured) -> None:
        """Take note of what a policy was measured on; what was measured on more rows stays."""
        known = self._measured.setdefault(policy_hash, {})
        if measured.task not in known or len(known[measured.task].problem_ids) <= len(measured.problem_ids):
            known[measured.task] = measured

    def note_audit(self, stage: Round, folder: StageFolder) -> None:
        """Put what the audit of a stage that is under way, or was stopped, has seen into the record."""
        looks = read_looks(folder.audit)
        readings = find_kind(stage.entry).read_outcome(stage.entry.config, folder)
        if looks and readings:
            self.record.set_readings(stage.label, looks[-1].policy, readings)

    # many parameters: whose policy, held against whose, and what its stage said of itself
    def read(
        self,
        label: str,
        policy_hash: str,
        *,
        parent: str | None,
        base: str | None,
        may_hold: bool,
        beside: Sequence[Reading] = (),
    ) -> None:
        """Read every monitor over a policy, into the record.

        Args:
            label: The stage and round, or `base`.
            policy_hash: The policy.
            parent: The policy that its stage started from.
            base: The run's base.
            may_hold: Whether an alarm may stop the run; not where the policy is not passed on.
            beside: What the stage's audit says.

        Raises:
            RefusedError: A monitor with `on_alarm: hold` raised an alarm, and nobody goes on against it.
        """
        if not self._reader.monitors and not beside:
            return
        sides = [self._measured.get(name) if name is not None else None for name in (parent, base)]
        readings = [*beside, *self._reader.read(self._measured.get(policy_hash, {}), sides[0], sides[1])]
        self.record.set_readings(label, policy_hash, readings)
        self.record.write()
        alarms = [reading for reading in readings if reading.status == "alarm"]
        for reading in alarms:
            self.progress.note(f"ALARM {reading.monitor} {_say_when(label)}: {reading.why}")
        holding = {monitor.label for monitor in self._reader.monitors if monitor.on_alarm == "hold"}
        held = [one for one in alarms if one.monitor in holding and not self.overrides.covers_monitor(one.monitor)]
        if held and may_hold:
            names = " ".join(f"--override {MONITOR}:{one.monitor}" for one in held)
            raise RefusedError(
                "; ".join(f"{one.monitor} raised an alarm: {one.why}" for one in held),
                expected="no alarm of a monitor whose 'on_alarm' is hold",
                cure=f"look at its examples in the report and change the stage's data or settings, or go on against it "
                f"with {names}, which is recorded",
                place=f"monitors after {label}",
            )

    def take_made(self, stage: Round, policy_hash: str, made: Artifact) -> None:
        """Put what monitors say in an artifact that a stage made beside the policy into the record.

        Raises:
            RefusedError: One raised an alarm, the stage holds on alarms, and nobody goes on against it.
        """
        readings = find_kind(stage.entry).read_made(made)
        if not readings:
            return
        self.record.set_readings(stage.label, policy_hash, readings)
        self.record.write()
        alarms = [reading for reading in readings if reading.status == "alarm"]
        for reading in alarms:
            self.progress.note(f"ALARM {reading.monitor} {_say_when(stage.label)}: {reading.why}")
        name, holds = stage.entry.name, getattr(stage.entry.config, "on_alarm", None) == "hold"
        if alarms and holds and not self.overrides.covers_monitor(name):
            raise RefusedError(
                "; ".join(f"{one.monitor} raised an alarm: {one.why}" for one in alarms),
                expected="no alarm of a study whose 'on_alarm' is hold",
                cure="look at the study's page, choose among fewer answers or by another proxy, or go on against it "
                f"with --override {MONITOR}:{name}, which is recorded",
                place=f"study {stage.label}",
            )


def _say_when(label: str) -> str:
    return "of the base" if label == BASE else f"after {label}"


@dataclass(frozen=True, slots=True)
class Monitored:
    """A model measured on a suite, and what the suite's monitors say of it beside another."""

    evaluated: Evaluated
    against: Evaluated | None
    readings: list[Reading]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        against = None if self.against is None else self.against.to_json()
        readings = [reading.to_json() for reading in self.readings]
        return {**self.evaluated.to_json(), "against": against, "monitors": readings}


def evaluate_monitored(
    model: str,
    against: str | None,
    choice: EvaluationChoice,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> Monitored:
    """Return what a model scores on a suite, and what the suite's monitors say of it.

    Args:
        model: What is measured.
        against: The model that it is held against, which is measured too; None: none.
        choice: What to measure on, and how.
        progress: Shows how far measuring has come.
        should_stop: Asked after every batch.

    Raises:
        RecipeError: A model to hold against is named, and the suite has no monitors, or none for the chosen tasks.
        PosttrainError: As `evaluate_model`.
    """
    monitors = list_monitors(choice.suite.monitors, choice.chosen)
    if against is not None and not monitors and choice.suite.monitors:
        names = ", ".join(one.name for one in choice.chosen)
        raise RecipeError(
            f"the monitors of the suite '{choice.suite.name}' read none of {names}",
            expected="a task that its monitors read: of 'auto' one of the type generation or perplexity",
            cure="choose another --task or all, name a monitor of this task in the suite, or use posttrain compare",
            place="--task" if len(choice.chosen) < len(choice.suite.tasks) else "--against",
        )
    if against is not None and not monitors:
        raise RecipeError(
            f"the suite '{choice.suite.name}' has no monitors",
            expected="monitors, which say what has changed from the other model",
            cure="add 'monitors: auto' to the suite, or use posttrain compare",
            place="--against",
        )
    other = None if against is None else evaluate_model(against, choice, progress, should_stop)
    own = evaluate_model(model, choice, progress, should_stop)
    reader = MonitorReader(monitors, choice.chosen, choice.suite.roots)
    return Monitored(own, other, reader.read(own.measured, None if other is None else other.measured, None))
