"""What a gate asks of a stage: the recipe's `gate:` mapping, typed and checked.

A metric is `<task>`, the mean of a task's scores, or `<task>/<part>`, the mean of a part of its outcomes. Scores,
margins and bounds are fractions, and more is better; what should be rare (refusals of benign prompts, say) gets a
`ceiling`, or a scorer that scores its absence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.core.config import Config, display_field, suggest
from posttrain.core.errors import RecipeError
from posttrain.core.metrics import METRIC_PATTERN
from posttrain.data.sources import DataSource

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
RepairName = Literal["interpolate", "replay", "smaller_learning_rate", "best_checkpoint"]


def _refuse_points(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= abs(value) <= 100:
        raise ValueError(f"a fraction is asked for: did you mean {value / 100:g}, which is {value:g} points?")
    return value


class ImproveRule(Config):
    """The stage claims that a metric rises by more than `by` over its parent."""

    metric: str = Field(pattern=METRIC_PATTERN)
    by: float = Field(0.0, ge=0, lt=1)

    _fractions = field_validator("by", mode="before")(_refuse_points)


class KeepRule(Config):
    """A loss of `margin` or more against the parent must be ruled out, and against the `baseline` stage too.

    `baseline` names an earlier stage, or `base`. Against it the `cumulative_margin` holds, or `margin` where there is
    none.
    """

    metric: str = Field(pattern=METRIC_PATTERN)
    margin: float = Field(gt=0, lt=1)
    baseline: str | None = Field(None, pattern=NAME_PATTERN)
    cumulative_margin: float | None = Field(None, gt=0, lt=1)

    _fractions = field_validator("margin", "cumulative_margin", mode="before")(_refuse_points)

    @model_validator(mode="after")
    def _check_baseline(self) -> KeepRule:
        if self.cumulative_margin is not None and self.baseline is None:
            raise ValueError("'cumulative_margin' needs a 'baseline' to count from")
        return self


class FloorRule(Config):
    """A metric must be shown to be at least `at_least`, whatever it was before."""

    metric: str = Field(pattern=METRIC_PATTERN)
    at_least: float = Field(gt=0, lt=1)

    _fractions = field_validator("at_least", mode="before")(_refuse_points)


class CeilingRule(Config):
    """A metric must be shown to be at most `at_most`, whatever it was before."""

    metric: str = Field(pattern=METRIC_PATTERN)
    at_most: float = Field(gt=0, lt=1)

    _fractions = field_validator("at_most", mode="before")(_refuse_points)


class GateRules(Config):
    """What must hold for a stage to be promoted, and what is tried where it does not.

    `level` is the chance, one-sided, with which a rule may pass although what it rules out is true; it is shared
    between the stage's own policy and its repairs. `looks` is how often the items may be decided on as more are drawn.
    `on_fail` names repairs in the order in which they are tried, each once; `max_attempts` is how many of them are.
    `replay` are rows that the repair of that name mixes in; without any, what the stages before were trained on.
    `power` is what the number of items that would decide is computed for.
    """

    improve: list[ImproveRule] = Field(default_factory=list)
    keep: list[KeepRule] = Field(default_factory=list)
    floor: list[FloorRule] = Field(default_factory=list)
    ceiling: list[CeilingRule] = Field(default_factory=list)
    on_fail: list[RepairName] = Field(default_factory=list)
    max_attempts: int | None = Field(None, ge=1, le=10)
    replay: list[DataSource] = Field(default_factory=list)
    level: float = Field(0.05, gt=0, le=0.2)
    looks: int = Field(1, ge=1, le=10)
    power: float = display_field(0.9, gt=0.5, lt=1)

    @property
    def num_attempts(self) -> int:
        """How many repairs may be tried."""
        return len(self.on_fail) if self.max_attempts is None else self.max_attempts

    @model_validator(mode="after")
    def _check_rules(self) -> GateRules:
        if not (self.improve or self.keep or self.floor or self.ceiling):
            raise ValueError("a gate without a rule promotes anything: add 'keep', or leave 'gate' out")
        if self.max_attempts is not None and not self.on_fail:
            raise ValueError("'max_attempts' without 'on_fail' tries nothing: name a repair, or leave it out")
        if self.max_attempts is not None and self.max_attempts > len(self.on_fail):
            raise ValueError(
                f"'max_attempts' of {self.max_attempts} with {len(self.on_fail)} repairs: searched again, one "
                "finds the same, so each is tried once"
            )
        if self.replay and "replay" not in self.on_fail:
            raise ValueError("'replay' names rows for the repair of that name: add it to 'on_fail', or leave it out")
        if any(source.proportion is not None for source in self.replay):
            raise ValueError("'replay': the repair sets the proportions itself; leave 'proportion' out")
        for name, rules in (("improve", self.improve), ("floor", self.floor), ("ceiling", self.ceiling)):
            _refuse_repeated(name, [rule.metric for rule in rules])
        _refuse_repeated("keep", [f"{rule.metric} against {rule.baseline or 'the parent'}" for rule in self.keep])
        _refuse_repeated("on_fail", self.on_fail)
        floors = {rule.metric: rule.at_least for rule in self.floor}
        for rule in self.ceiling:
            if floors.get(rule.metric, -1.0) >= rule.at_most:
                raise ValueError(f"the floor of '{rule.metric}' is not below its ceiling: nothing can pass")
        return self


def _refuse_repeated(key: str, names: list[Any]) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"'{key}' names '{repeated[0]}' twice")


def list_metrics(rules: GateRules) -> list[str]:
    """Return the metrics that a gate reads, each once, in the order of its rules."""
    return list(dict.fromkeys(rule.metric for rule in _all_rules(rules)))


def list_tasks(rules: GateRules) -> list[str]:
    """Return the names of the tasks that a gate reads, sorted."""
    return sorted({split_metric(rule.metric)[0] for rule in _all_rules(rules)})


def list_baselines(rules: GateRules) -> list[str]:
    """Return the names of the stages that a gate compares with beside the parent, sorted."""
    return sorted({rule.baseline for rule in rules.keep if rule.baseline is not None})


def split_metric(metric: str) -> tuple[str, str | None]:
    """Return a metric's task, and its part where it names one."""
    task, slash, part = metric.partition("/")
    return task, part if slash else None


def check_names(rules: GateRules, *, tasks: Iterable[str], stages: Iterable[str], place: str) -> None:
    """Check that a gate's tasks are evaluated and its baselines stand before the stage.

    Args:
        rules: The gate.
        tasks: The names of the recipe's evaluation tasks.
        stages: The names that `baseline` may take: the stages before this one, and `base`.
        place: The recipe key of the gate, for the message.

    Raises:
        RecipeError: A name is unknown; the error suggests the nearest.
    """
    for kind, wanted, known in (
        ("task", list_tasks(rules), sorted(tasks)),
        ("baseline", list_baselines(rules), sorted(stages)),
    ):
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise RecipeError(
                f"unknown {kind} {unknown[0]!r}",
                expected="a task of the recipe's evaluation" if kind == "task" else "an earlier stage, or base",
                cure=suggest(unknown[0], known),
                place=place,
            )


def _all_rules(rules: GateRules) -> list[ImproveRule | KeepRule | FloorRule | CeilingRule]:
    return [*rules.improve, *rules.keep, *rules.floor, *rules.ceiling]
