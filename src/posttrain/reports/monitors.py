"""What monitors say of the base and of every stage: states at a glance, figures against their bounds, curves, examples.

Read from `monitors` of run.json (`evaluation.monitors.reading` says what a reading is). A reading that measured nothing
is a state of its own, and is shown without any number whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.reports.curves import CurveChart, build_curves
from posttrain.reports.field_reader import FieldReader
from posttrain.reports.interval_plots import IntervalPlot, choose_scale, draw_interval
from posttrain.reports.numbers import format_change, format_count, format_figure
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.visible_text import cut_text

STATES = {"silent": ("○", "quiet"), "alarm": ("▲", "bad"), "unmeasured": ("–", "none")}
"""Of each state its sign, which needs no colour, and its style."""
NUM_EXAMPLES = 3
"""Of one reading."""
MAX_EXAMPLE_CHARACTERS = 700


@dataclass(frozen=True, slots=True)
class State:
    """What one monitor says of one policy."""

    stage: str
    status: str
    sign: str
    style: str
    why: str


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure of one policy against its bound (empty where it has none); `style` is that of its reading."""

    stage: str
    value: str
    limits: str
    num_items: str
    bound: str
    style: str
    plot: IntervalPlot | None

    @property
    def summary(self) -> str:
        """The row in words, for whoever cannot see the drawing."""
        bound = f"; bound {self.bound}" if self.bound else ""
        return f"{self.stage}: {self.value}{', ' + self.limits if self.limits else ''}{bound}"


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure over the stages, all on one scale whose ends are `ends`."""

    name: str
    of: str
    rows: list[FigureRow]
    ends: tuple[str, str]


@dataclass(frozen=True, slots=True)
class ExampleView:
    """An item that shows what a reading means."""

    stage: str
    item_id: str
    prompt: str
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class MonitorView:
    """All that one monitor says over a run; `status` is what it says of the last policy that it read."""

    number: int
    name: str
    tasks: str
    level: str
    fooled_by: str
    states: list[State]
    trends: list[Trend]
    curves: list[CurveChart]
    examples: list[ExampleView]

    @property
    def has_alarm(self) -> bool:
        """Whether it raised an alarm on any policy."""
        return any(state.status == "alarm" for state in self.states)


@dataclass(frozen=True, slots=True)
class MonitorsView:
    """Every monitor, and a grid of states: `grid` has a row for each policy, with a state or None a monitor."""

    views: list[MonitorView]
    grid: list[tuple[str, list[State | None]]]

    @property
    def tally(self) -> str:
        """How many readings are in each state: `2 alarm · 4 silent · 1 unmeasured`."""
        found = [state.status for view in self.views for state in view.states]
        return " · ".join(f"{found.count(status)} {status}" for status in ("alarm", "silent", "unmeasured"))


Reading = Mapping[str, Any]


def build_monitors(run: Mapping[str, Any], reader: FieldReader) -> MonitorsView:
    """Return what the monitors of a run say; what is strange among their readings goes to the reader's notes."""
    if run.get("monitors") is None:
        return MonitorsView([], [])
    by_monitor: dict[str, list[tuple[str, Reading]]] = {}
    for place, record in reader.read_records(run, "monitors", ""):
        name = reader.read_text(record, "monitor", place) or "unnamed"
        reader.read_word(record, "status", list(STATES), place)
        by_monitor.setdefault(name, []).append((place, record))
    views = [_build_view(number, name, found) for number, (name, found) in enumerate(by_monitor.items(), start=1)]
    stages = list(dict.fromkeys(text_of(record.get("stage")) for found in by_monitor.values() for _, record in found))
    order = ["base", *(text_of(mapping_of(entry).get("stage")) for entry in list_of(run.get("metrics")))]
    stages.sort(key=lambda stage: order.index(stage) if stage in order else len(order))
    grid = [
        (stage, [next((state for state in view.states if state.stage == stage), None) for view in views])
        for stage in stages
    ]
    return MonitorsView(views, grid)


def _build_view(number: int, name: str, found: Sequence[tuple[str, Reading]]) -> MonitorView:
    readings = [record for _, record in found]
    tasks = dict.fromkeys(text_of(task) for record in readings for task in list_of(record.get("tasks")))
    level = next((known for record in reversed(readings) if (known := number_of(record.get("level")))), None)
    measured = [record for record in readings if record.get("status") in ("silent", "alarm")]
    return MonitorView(
        number=number,
        name=name,
        tasks=", ".join(tasks),
        level="" if level is None else f"{level:.3g}",
        fooled_by=next((text for record in reversed(readings) if (text := text_of(record.get("fooled_by")))), ""),
        states=[_build_state(record) for record in readings],
        trends=_build_trends(measured),
        curves=build_curves([
            (text_of(record.get("stage")), mapping_of(curve))
            for record in measured
            for curve in list_of(record.get("curves"))
        ]),
        examples=[example for record in measured for example in _list_examples(record)],
    )  # fmt: skip


def _build_state(record: Reading) -> State:
    status = text_of(record.get("status"))
    sign, style = STATES.get(status, ("·", "none"))
    shown = status if status in STATES else "unreadable"
    return State(text_of(record.get("stage")), shown, sign, style, text_of(record.get("why")))


def _build_trends(readings: Sequence[Reading]) -> list[Trend]:
    """Return the figures by name over the stages; a parent's is another stage's own and is shown where that is not."""
    groups: dict[tuple[str, str], list[tuple[Reading, Mapping[str, Any]]]] = {}
    for record in readings:
        for figure in map(mapping_of, list_of(record.get("figures"))):
            groups.setdefault((text_of(figure.get("name")), text_of(figure.get("of"))), []).append((record, figure))
    is_known = {name for (name, of), group in groups.items() if of == "own" and len(group) > 1}
    return [
        _build_trend(name, of, group) for (name, of), group in groups.items() if of != "parent" or name not in is_known
    ]


def _build_trend(name: str, of: str, group: Sequence[tuple[Reading, Mapping[str, Any]]]) -> Trend:
    unit, is_change = text_of(group[0][1].get("unit")), of == "change"
    numbers = [number_of(figure.get(key)) for _, figure in group for key in ("low", "value", "high", "bound")]
    scale = choose_scale([number for number in numbers if number is not None], unit, is_difference=is_change)
    show = format_change if is_change else format_figure
    rows = []
    for record, figure in group:
        value, low, high, bound = (number_of(figure.get(key)) for key in ("value", "low", "high", "bound"))
        plot = None if value is None else draw_interval(scale, value, low, high, bound=bound)
        limits = [show(end, unit, with_unit=False) for end in (low, high) if end is not None]
        rows.append(
            FigureRow(
                stage=text_of(record.get("stage")),
                value=show(value, unit),
                limits=" to ".join(limits) if len(limits) == 2 else "",
                num_items=format_count(number_of(figure.get("n"))),
                bound="" if bound is None else show(bound, unit),
                style="bad" if record.get("status") == "alarm" and bound is not None else "plain",
                # Which side of a bound is the alarm is the monitor's own; no side is shaded.
                plot=replace(plot, shade=None) if plot else None,
            )
        )
    said = {"own": "", "parent": "of its parent", "change": "change from its parent"}.get(of, of)
    return Trend(name, said, rows, (scale.label(scale.low), scale.label(scale.high)))


def _list_examples(record: Reading) -> list[ExampleView]:
    shown = []
    for example in map(mapping_of, list_of(record.get("examples"))[:NUM_EXAMPLES]):
        texts = [cut_text(text_of(example.get(key)), MAX_EXAMPLE_CHARACTERS) for key in ("prompt", "text", "why")]
        said = [text + (" …" if num_left_out else "") for text, num_left_out in texts]
        shown.append(ExampleView(text_of(record.get("stage")), text_of(example.get("item_id")), *said))
    return shown
