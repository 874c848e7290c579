"""The names that `--override` takes: checks of preflight, gates, monitors that hold, and audits that stop a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.pipeline.recipe import Recipe

MASK, TRUNCATION, MEMORY, STEP_ZERO, ROLLOUTS = "mask", "truncation", "memory", "step_zero", "rollouts"
CONTAMINATION = "contamination"
LENGTH_CAPS, SCORER = "length_caps", "scorer"
STAGE_CHECKS = (MASK, TRUNCATION, CONTAMINATION, MEMORY, STEP_ZERO, ROLLOUTS, LENGTH_CAPS)
TASK_CHECKS = (LENGTH_CAPS, SCORER)
GATE = "gate"
MONITOR = "monitor"
AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user lets through, by name.

    Made by `read_overrides`, read by preflight, gates and monitors. Example: `("mask", "polish:memory", "gate:sft")`
    covers the mask of every stage, the memory of `polish`, and the gate after `sft`.
    """

    names: tuple[str, ...] = ()

    def covers(self, place: str, check: str) -> bool:
        """Return whether a check of a stage (its name) or of a task (`evaluate.<task>`) is let through."""
        return f"{place}:{check}" in self.names or check in self.names

    def covers_gate(self, stage: str) -> bool:
        """Return whether the gate after a stage is let through."""
        return f"{GATE}:{stage}" in self.names

    def covers_audit(self, stage: str) -> bool:
        """Return whether an alarm of a stage's audit is let through."""
        return f"{AUDIT}:{stage}" in self.names

    def covers_monitor(self, name: str) -> bool:
        """Return whether an alarm of a monitor is let through."""
        return f"{MONITOR}:{name}" in self.names


def name_task(task: str) -> str:
    """Return what a task is called in findings and overrides."""
    return f"evaluate.{task}"


def list_override_names(recipe: Recipe) -> list[str]:
    """Return every name that `--override` takes for a recipe."""
    stages = [entry.name for entry in recipe.stages]
    tasks = [name_task(task.name) for task in recipe.evaluate]
    return [
        *dict.fromkeys((*STAGE_CHECKS, *TASK_CHECKS)),
        *(f"{stage}:{check}" for stage in stages for check in STAGE_CHECKS),
        *(f"{task}:{check}" for task in tasks for check in TASK_CHECKS),
        *(f"{GATE}:{entry.name}" for entry in recipe.stages if entry.gate is not None),
        *(f"{AUDIT}:{entry.name}" for entry in recipe.stages if getattr(entry.config, "audit", None) is not None),
        *(f"{MONITOR}:{entry.name}" for entry in recipe.stages if getattr(entry.config, "on_alarm", None) == "hold"),
        *(f"{MONITOR}:{monitor.label}" for monitor in recipe.monitors if monitor.on_alarm == "hold"),
    ]


def read_overrides(recipe: Recipe, names: Sequence[str]) -> Overrides:
    """Return the overrides that a user gave, each once.

    Raises:
        RecipeError: A name is none that the recipe's checks, gates and monitors have.
    """
    known = list_override_names(recipe)
    for name in names:
        if name not in known:
            raise RecipeError(
                f"no check is called '{name}'",
                expected=f"one of {', '.join(dict.fromkeys((*STAGE_CHECKS, *TASK_CHECKS)))}, alone or after a stage "
                f"(<stage>:mask) or a task (evaluate.<task>:scorer); {GATE}:<stage>; {AUDIT}:<stage>; or "
                f"{MONITOR}:<name> of one that holds",
                cure=suggest(name, known),
                place="--override",
            )
    return Overrides(tuple(dict.fromkeys(names)))
