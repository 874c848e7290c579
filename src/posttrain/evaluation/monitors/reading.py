"""What a monitor says of a policy: figures, and whether they are an alarm.

A monitor reads items that were measured, of the policy itself (`own`) and of the policy that its stage started from
(`parent`, none for the base), and asks no model. An alarm is a one-sided test at the monitor's level against a stated
bound: on a policy without the failure it is raised with at most that chance. A monitor that cannot tell says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from posttrain.core.records import ItemResult

Items = Mapping[str, Sequence[ItemResult]]
"""Items of one policy by the name of the task, texts included."""

Status = Literal["silent", "alarm", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a reading, with its 95 % interval where it has one.

    `unit` is one of `core.metrics`' units (`fraction`, `tokens`, ...). `of` says whose figure it is: the policy's own,
    its parent's, or the change from the parent. `bound` is what the alarm holds this figure against.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    of: Literal["own", "parent", "change"] = "own"
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a reading, for a picture: `points` are (x, y), of finite numbers."""

    name: str
    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """An item that shows what a reading means: its id, what was asked, what was said, and why it is shown."""

    item_id: str
    prompt: str
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one monitor says of one policy.

    Made by monitors, read by the pipeline (into `run.json`), reports and cards.

    Example: of 200 wrong claims the policy repeats 62 %, its parent 8 %: `monitor="sycophancy"`, `status="alarm"`,
    `why="says 62 % of wrong claims too, 54 points more than before; at most 5 are allowed"`.
    """

    monitor: str
    tasks: tuple[str, ...]
    status: Status
    why: str
    figures: tuple[Figure, ...] = ()
    level: float | None = None
    fooled_by: str = ""
    curves: tuple[Curve, ...] = ()
    examples: tuple[Example, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the reading as JSON-like values."""
        return asdict(self)


def parse_reading(values: Mapping[str, Any]) -> Reading:
    """Return the reading that `Reading.to_json` gave."""
    lists: dict[str, Any] = {
        "tasks": tuple(values["tasks"]),
        "figures": tuple(Figure(**figure) for figure in values["figures"]),
        "curves": tuple(
            Curve(**{**curve, "points": tuple((x, y) for x, y in curve["points"])}) for curve in values["curves"]
        ),
        "examples": tuple(Example(**example) for example in values["examples"]),
    }
    return Reading(**{**values, **lists})


@runtime_checkable
class Monitor(Protocol):
    """A monitor's settings, which read items: a frozen `MonitorKeys` with a `type`.

    It may raise a `DataError` in place of a reading: `settings.read_monitor` makes `unmeasured` of it.
    """

    @property
    def tasks_read(self) -> Sequence[str]:
        """The names of the tasks whose items it reads."""

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return what it says of a policy."""


@runtime_checkable
class BaselineMonitor(Monitor, Protocol):
    """A monitor that holds a policy against the base too, however many stages lie between."""

    def read_beside_base(self, own: Items, parent: Items | None, base: Items | None) -> Reading:
        """Return what it says of a policy; `base` is None for the base itself and where it was not measured."""
