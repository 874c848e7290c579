"""The components of weighted scorers: what each contributes, by stage, so that a total cannot hide which one moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import DataError
from posttrain.reports.columns import Column, list_columns
from posttrain.reports.item_tables import ItemTable
from posttrain.reports.numbers import format_count, format_figure
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.run_files import RunFiles
from posttrain.statistics.intervals import clustered_interval


@dataclass(frozen=True, slots=True)
class ComponentCell:
    """A component's mean over the items that it applies to, and, of a term, its share of the sum of all terms."""

    mean: str
    interval: str
    num_items: str
    share: str
    width: float


@dataclass(frozen=True, slots=True)
class ComponentRow:
    """One component over the stages; `role` says how it goes into the whole."""

    name: str
    role: str
    cells: list[ComponentCell | None]


@dataclass(frozen=True, slots=True)
class ComponentTable:
    """The components of one task's scorer; `columns` are the policies whose items are there."""

    task: str
    columns: list[Column]
    rows: list[ComponentRow]


def build_components(files: RunFiles) -> list[ComponentTable]:
    """Return the components of every task that is judged by several scorers as one."""
    scorers: dict[str, Sequence[Mapping[str, Any]]] = {}
    for metric in map(mapping_of, list_of(files.run.get("metrics"))):
        listed = list_of(mapping_of(mapping_of(metric.get("settings")).get("scorer")).get("components"))
        named = [mapping_of(one) for one in listed if isinstance(mapping_of(one).get("name"), str)]
        if named:
            scorers.setdefault(text_of(metric.get("task")), named)
    columns = list_columns(files.run)
    tables = []
    for task, components in scorers.items():
        measured = [(column, files.items.get(column.label, {}).get(task)) for column in columns]
        known = [(column, table) for column, table in measured if table is not None and len(table)]
        if known:
            tables.append(_build_table(task, components, known))
    return tables


def _build_table(
    task: str, components: Sequence[Mapping[str, Any]], known: Sequence[tuple[Column, ItemTable]]
) -> ComponentTable:
    sums = [sum(_find_term(table, component) for component in components) for _, table in known]
    rows = []
    for component in components:
        cells = [_build_cell(table, component, total) for (_, table), total in zip(known, sums, strict=True)]
        rows.append(ComponentRow(text_of(component.get("name")), _say_role(component), cells))
    return ComponentTable(task, [column for column, _ in known], rows)


def _find_term(table: ItemTable, component: Mapping[str, Any]) -> float:
    """Return weight x mean of a term, 0 of anything else."""
    values, _ = table.read_part(text_of(component.get("name")))
    is_term = component.get("role", "term") == "term"
    return _weight(component) * float(values.mean()) if is_term and values.size else 0.0


def _weight(component: Mapping[str, Any]) -> float:
    weight = number_of(component.get("weight"))
    return 1.0 if weight is None else weight


def _say_role(component: Mapping[str, Any]) -> str:
    role = text_of(component.get("role")) or "term"
    return "gate: multiplies" if role == "gate" else f"{role}, weight {_weight(component):g}"


def _build_cell(table: ItemTable, component: Mapping[str, Any], total: float) -> ComponentCell | None:
    values, clusters = table.read_part(text_of(component.get("name")))
    if not values.size:
        return None
    share = _find_term(table, component) / total if total > 0 else 0.0
    is_term = component.get("role", "term") == "term"
    try:
        found = clustered_interval(values, clusters)
        interval = f"{format_figure(found.low, '')} – {format_figure(found.high, '')}"
    except DataError:  # all of one source
        interval = ""
    return ComponentCell(
        mean=format_figure(float(values.mean()), ""),
        interval=interval,
        num_items=format_count(values.size),
        share=format_figure(share, "fraction") if is_term else "",
        width=round(100 * min(1.0, max(0.0, share)), 1) if is_term else 0.0,
    )
