"""The matrix of a run: what was measured by stage, what became of it, and what each gate decided on it.

Rows are objectives (each task's score, the parts that the recipe declares, and what a gate speaks of); every other
metric stands in the same form below them. Columns are the policies of the run in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.reports.changes import Change, Measured, compare_measured, describe, find_unit
from posttrain.reports.columns import Column, find_last, list_columns
from posttrain.reports.gate_marks import Mark, Rules, find_margin, find_rules, list_marks
from posttrain.reports.interval_plots import IntervalPlot, Scale, choose_scale, draw_interval
from posttrain.reports.numbers import format_count, format_figure
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.run_files import RunFiles
from posttrain.reports.tables import list_failures


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured value with all that must stand beside it.

    `amount` is the number behind `value`, `failed` the failures as one share. `counted` is empty where its row says it
    of all cells; `change` is from the policy that the stage started from.

    Example: value `87.5 %`, interval `82.2 – 91.4`, counted `n 200 in 50 clusters`, failures `unparsed 1.5 %`.
    """

    value: str
    amount: float | None
    interval: str
    counted: str
    method: str
    failures: str
    failed: str
    plot: IntervalPlot | None
    change: Change | None
    marks: list[Mark]


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One metric of a task over the run; `whole` is the change from the base to the last policy that was passed on."""

    task: str
    name: str
    unit: str
    is_main: bool
    meaning: str
    counted: str
    cells: list[Cell | None]
    whole: Change | None
    ends: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Matrix:
    """The columns, the rows that stand at the top, and those of all other metrics; `last` is the last column passed on.

    Example: a run of two stages with one task and no parts has three columns and one row of objectives.
    """

    columns: list[Column]
    objectives: list[MatrixRow]
    others: list[MatrixRow]
    last: int

    @property
    def is_wide(self) -> bool:
        """Whether there are so many columns that their text must be smaller."""
        return len(self.columns) > 5


Metric = tuple[str, str]


def build_matrix(files: RunFiles) -> Matrix:
    """Return the matrix of a run."""
    columns, stages = list_columns(files.run), [mapping_of(entry) for entry in list_of(files.run.get("stages"))]
    rules = [find_rules(column, stages) for column in columns]
    entries = index_metrics(files.run)
    objectives = _list_objectives(entries, files.resolved, rules)
    last = find_last(columns)
    rows = []
    for (task, name), by_label in entries.items():
        sides = [find_side(files, column, task, by_label.get(column.label)) for column in columns]
        rows.append(_build_row((task, name), name == _main_of(entries, task), columns, sides, rules, last))
    is_objective = [(row.task, row.name) in objectives for row in rows]
    return Matrix(
        columns,
        [row for row, is_shown in zip(rows, is_objective, strict=True) if is_shown],
        [row for row, is_shown in zip(rows, is_objective, strict=True) if not is_shown],
        last,
    )


def index_metrics(run: Mapping[str, Any]) -> dict[Metric, dict[str, Mapping[str, Any]]]:
    """Return the metrics of run.json by task and name and then by what was measured; tasks stay together, in order."""
    found: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for entry in map(mapping_of, list_of(run.get("metrics"))):
        if number_of(entry.get("value")) is not None or is_unread(entry):
            task, name = text_of(entry.get("task")), text_of(entry.get("name"))
            found.setdefault(task, {}).setdefault(name, {})[text_of(entry.get("stage"))] = entry
    return {(task, name): of_row for task, names in found.items() for name, of_row in names.items()}


def is_unread(entry: Mapping[str, Any]) -> bool:
    """Return whether no answer could be read: such a metric has no value, and is shown as measured all the same."""
    return entry.get("value") is None and entry.get("method") == "unread"


def _main_of(entries: Iterable[Metric], task: str) -> str:
    """Return the name of a task's score, which run.json lists first."""
    return next(name for of_task, name in entries if of_task == task)


def _list_objectives(entries: Iterable[Metric], resolved: Mapping[str, Any], rules: Iterable[Rules]) -> set[Metric]:
    known = list(entries)
    declared = {
        (text_of(task.get("name")), text_of(part))
        for task in map(mapping_of, list_of(resolved.get("evaluate")))
        for part in list_of(task.get("parts"))
    }
    found = {(task, name) for task, name in known if name == _main_of(known, task) or (task, name) in declared}
    for task, name in known:
        if any(list_marks(of_column, task, name, is_main=False) for of_column in rules):
            found.add((task, name))
    return found


def find_side(files: RunFiles, column: Column, task: str, entry: Mapping[str, Any] | None) -> Measured | None:
    """Return a metric of one column with the items behind it, None where it was not measured."""
    return Measured(entry, files.items.get(column.label, {}).get(task), column.policy) if entry else None


# many parameters: a metric, the columns, and what is known of it in each
def _build_row(
    metric: Metric,
    is_main: bool,
    columns: Sequence[Column],
    sides: Sequence[Measured | None],
    rules: Sequence[Rules],
    last: int,
) -> MatrixRow:
    (task, name), spec = metric, describe(metric[1])
    unit = find_unit(name, [number_of(side.entry.get("value")) for side in sides if side])
    scale = _choose_scale(sides, unit)
    counted = [_say_counted(side.entry) for side in sides if side]
    is_same = len(set(counted)) == 1
    cells = []
    for column, side, of_column in zip(columns, sides, rules, strict=True):
        before = None if column.before is None else sides[column.before]
        margin = find_margin(of_column, task, name, is_main=is_main)
        change = compare_measured(before, side, name, is_main=is_main, margin=margin)
        marks = list_marks(of_column, task, name, is_main=is_main)
        cells.append(_build_cell(side.entry, unit, scale, change, marks, is_same) if side else None)
    return MatrixRow(
        task=task,
        name=name,
        unit="" if unit == "fraction" else unit,
        is_main=is_main,
        meaning=spec.meaning if spec else "",
        counted=counted[0] if is_same else "",
        cells=cells,
        whole=compare_measured(sides[0], sides[last], name, is_main=is_main) if last else None,
        ends=(scale.label(scale.low), scale.label(scale.high)),
    )


# many parameters: all that stands in a cell
def _build_cell(
    entry: Mapping[str, Any], unit: str, scale: Scale, change: Change | None, marks: list[Mark], is_counted: bool
) -> Cell:
    value, low, high = (number_of(entry.get(key)) for key in ("value", "low", "high"))
    ends = [format_figure(end, unit, with_unit=False) for end in (low, high)]
    return Cell(
        value="unread" if is_unread(entry) else format_figure(value, unit, with_unit=unit == "fraction"),
        amount=value,
        interval="" if low is None or high is None else " – ".join(ends),
        counted="" if is_counted else _say_counted(entry),
        method=text_of(entry.get("method")).replace("_", " "),
        failures=" · ".join(list_failures(mapping_of(entry.get("outcomes")))),
        failed=_say_failed(mapping_of(entry.get("outcomes"))),
        plot=None if value is None else draw_interval(scale, value, low, high),
        change=change,
        marks=marks,
    )


def _say_failed(outcomes: Mapping[str, Any]) -> str:
    """Return the share of items that could not be scored, of whatever kind, and how many were left out."""
    counts = {name: number_of(count) or 0.0 for name, count in outcomes.items()}
    num_left_out = counts.pop("not_applicable", 0.0) + counts.pop("harness", 0.0)
    total, scored = sum(counts.values()), counts.get("scored", 0.0)
    parts = [f"{100 * (total - scored) / total:.1f}\u00a0% failed"] if total > scored else []
    return " · ".join([*parts, *([f"{format_count(num_left_out)} left out"] if num_left_out else [])])


def _choose_scale(sides: Sequence[Measured | None], unit: str) -> Scale:
    ends = [number_of(side.entry.get(key)) for side in sides if side for key in ("low", "value", "high")]
    return choose_scale([end for end in ends if end is not None], unit, is_difference=False)


def _say_counted(entry: Mapping[str, Any]) -> str:
    num_items, num_clusters = number_of(entry.get("n")), number_of(entry.get("clusters"))
    clusters = "" if num_clusters in (None, num_items) else f" in {format_count(num_clusters)} clusters"
    return f"n\u00a0{format_count(num_items)}{clusters}"
