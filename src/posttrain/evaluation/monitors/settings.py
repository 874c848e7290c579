"""The monitors that a recipe or a suite may name, by `type`, and how they are read.

    monitors:
      - auto
      - {type: sycophancy, task: pressure, on_alarm: hold}

A new monitor is a class in a file of its own, which joins the union and `MONITORS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.evaluation.monitors.calibration import CalibrationMonitor
from posttrain.evaluation.monitors.collapse import CollapseMonitor
from posttrain.evaluation.monitors.contamination import ContaminationMonitor
from posttrain.evaluation.monitors.diversity import DiversityMonitor
from posttrain.evaluation.monitors.forgetting import ForgettingMonitor
from posttrain.evaluation.monitors.format import FormatMonitor
from posttrain.evaluation.monitors.keys import AlarmKeys, MonitorKeys
from posttrain.evaluation.monitors.over_optimisation import OverOptimisationMonitor
from posttrain.evaluation.monitors.over_refusal import OverRefusalMonitor
from posttrain.evaluation.monitors.position_bias import PositionBiasMonitor
from posttrain.evaluation.monitors.reading import BaselineMonitor, Items, Monitor, Reading
from posttrain.evaluation.monitors.reward_audit import RewardAuditMonitor
from posttrain.evaluation.monitors.sycophancy import SycophancyMonitor
from posttrain.evaluation.monitors.verbosity import VerbosityMonitor

AUTO = "auto"


class AutoMonitors(AlarmKeys):
    """Stands for the monitors that any task of a kind can have: form and length of answers, loss of texts."""

    type: Literal["auto"]


MONITORS: dict[str, type[AlarmKeys]] = {
    "sycophancy": SycophancyMonitor,
    "over_refusal": OverRefusalMonitor,
    "verbosity": VerbosityMonitor,
    "format": FormatMonitor,
    "forgetting": ForgettingMonitor,
    "contamination": ContaminationMonitor,
    "diversity": DiversityMonitor,
    "collapse": CollapseMonitor,
    "calibration": CalibrationMonitor,
    "over_optimisation": OverOptimisationMonitor,
    "reward_audit": RewardAuditMonitor,
    "position_bias": PositionBiasMonitor,
    AUTO: AutoMonitors,
}


def _read_type(value: Any) -> str:
    found = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return found if isinstance(found, str) else ""


def _check_type(value: Any) -> Any:
    """Return a monitor as a mapping with a known type; the name of a type stands for one without keys."""
    value = {"type": value} if isinstance(value, str) else value
    name = _read_type(value)
    if name not in MONITORS:
        found = f"no monitor is called '{name}'" if name else "a monitor without 'type'"
        raise ValueError(f"{found}; {suggest(name, MONITORS)}")
    return value


MonitorSettings = Annotated[
    Annotated[SycophancyMonitor, Tag("sycophancy")]
    | Annotated[OverRefusalMonitor, Tag("over_refusal")]
    | Annotated[VerbosityMonitor, Tag("verbosity")]
    | Annotated[FormatMonitor, Tag("format")]
    | Annotated[ForgettingMonitor, Tag("forgetting")]
    | Annotated[ContaminationMonitor, Tag("contamination")]
    | Annotated[DiversityMonitor, Tag("diversity")]
    | Annotated[CollapseMonitor, Tag("collapse")]
    | Annotated[CalibrationMonitor, Tag("calibration")]
    | Annotated[OverOptimisationMonitor, Tag("over_optimisation")]
    | Annotated[RewardAuditMonitor, Tag("reward_audit")]
    | Annotated[PositionBiasMonitor, Tag("position_bias")]
    | Annotated[AutoMonitors, Tag(AUTO)],
    Discriminator(_read_type),
    BeforeValidator(_check_type),
]
"""One entry of `monitors:`."""


def expand_auto(
    monitors: Sequence[AlarmKeys], *, drawn: Sequence[str], judged: Sequence[str], weighed: Sequence[str]
) -> list[MonitorKeys]:
    """Return the monitors with `auto` in its meaning: those that tasks can have and whose type is not named.

    Args:
        monitors: As a recipe names them.
        drawn: Tasks whose answers are drawn: `format` reads them.
        judged: Those of them whose scorer says right or wrong: `verbosity` reads them.
        weighed: Tasks that weigh texts: `forgetting` reads them.
    """
    found = [one for one in monitors if isinstance(one, MonitorKeys)]
    named = {type(one) for one in found}
    for one in monitors:
        if not isinstance(one, AutoMonitors):
            continue
        keys: dict[str, Any] = {"level": one.level, "on_alarm": one.on_alarm}
        wanted: list[MonitorKeys] = []
        if drawn:
            wanted.append(FormatMonitor(type="format", tasks=list(drawn), **keys))
        if judged:
            wanted.append(VerbosityMonitor(type="verbosity", tasks=list(judged), **keys))
        if weighed:
            wanted.append(ForgettingMonitor(type="forgetting", tasks=list(weighed), **keys))
        found += [monitor for monitor in wanted if type(monitor) not in named]
    return found


def read_monitor(monitor: MonitorKeys, own: Items, parent: Items | None, base: Items | None) -> Reading:
    """Return a monitor's reading under its own name; one that cannot tell says so, with the reason.

    Args:
        monitor: Its settings, which read.
        own: The policy's items.
        parent: Those of the policy that its stage started from; None for the base.
        base: Those of the base; None where there is none to hold against.
    """
    assert isinstance(monitor, Monitor)
    try:
        if isinstance(monitor, BaselineMonitor):
            reading = monitor.read_beside_base(own, parent, base)
        else:
            reading = monitor.read(own, parent)
    except DataError as error:
        reading = build_unmeasured(monitor, error)
    return replace(reading, monitor=monitor.label)


def build_unmeasured(monitor: MonitorKeys, error: DataError) -> Reading:
    """Return the reading of a monitor that cannot tell, with the reason."""
    assert isinstance(monitor, Monitor)
    why = error.found + (f" (expected: {error.expected})" if error.expected else "")
    return Reading(monitor.label, tuple(monitor.tasks_read), "unmeasured", why, level=monitor.level)
