"""What the figures of a run say of three gaps, and what would have to be measured where they say nothing.

* coverage: can the policy produce what is wanted at all? The loss on held-out texts, and pass@k of the largest k.
* alignment: does it produce it when asked once? How far one sample lies below the best of k, and how often the policy
  beats the one that its stage started from on the same items (a tie is a half).
* elicitation: does what is optimised still stand for what is wanted? A proxy beside its gold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.metrics import BITS_PER_BYTE, NATS_PER_TOKEN
from posttrain.reports.changes import find_unit
from posttrain.reports.columns import Column, list_columns
from posttrain.reports.item_tables import ItemTable, compute_problem_passes, pair_tables
from posttrain.reports.matrix import Metric, index_metrics
from posttrain.reports.numbers import format_change, format_figure
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.run_files import RunFiles
from posttrain.statistics.bounded_mean import compute_interval, summarise_bounded
from posttrain.statistics.intervals import clustered_interval
from posttrain.statistics.pairing import Pairs
from posttrain.statistics.repeats import parse_repeated

MEASURE_TEXTS = "add a task of `type: perplexity` on held-out demonstrations"
MEASURE_SAMPLES = "add `num_samples: 8, pass_at: [1, 8]` and a `temperature` above 0 to a task"
MEASURE_GOLD = "add the monitor `over_optimisation`, which holds a proxy against its gold"
PROXY_MONITOR = "over_optimisation"


@dataclass(frozen=True, slots=True)
class GapCell:
    """A value with its 95 % interval (empty where there is none)."""

    value: str
    interval: str


@dataclass(frozen=True, slots=True)
class GapRow:
    """One figure by stage, and what it means."""

    name: str
    meaning: str
    cells: list[GapCell | None]


@dataclass(frozen=True, slots=True)
class Gap:
    """One of the three gaps: its question, its figures, and how to measure what is missing."""

    name: str
    question: str
    rows: list[GapRow]
    missing: list[str]


@dataclass(frozen=True, slots=True)
class GapView:
    """The gaps over the columns of a run."""

    columns: list[Column]
    gaps: list[Gap]

    @property
    def has_figures(self) -> bool:
        """Whether anything is known of any gap."""
        return any(gap.rows for gap in self.gaps)


Entry = Mapping[str, Any]
Entries = Mapping[Metric, Mapping[str, Entry]]


def build_gaps(files: RunFiles) -> GapView:
    """Return what is known of the three gaps; what a repair replaced is left out."""
    columns = list_columns(files.run)
    entries = index_metrics(files.run)
    losses, passes = _choose_losses(entries), _choose_passes(entries)
    texts = [_read_row(entries, metric, columns, "loss on held-out texts, less is better") for metric in losses]
    reach = [_read_row(entries, metric, columns, "problems that a sample of k solves") for metric in passes]
    headroom = [_find_headroom(files, metric, columns) for metric in passes]
    of_texts = {task for task, _ in losses}
    answered = [task for task in dict.fromkeys(task for task, _ in entries) if task not in of_texts]
    wins = [_find_wins(files, task, columns) for task in answered]
    proxies = _list_proxies(files.run, columns)
    coverage = [*([] if texts else [MEASURE_TEXTS]), *([] if reach else [MEASURE_SAMPLES])]
    shown = [place for place, column in enumerate(columns) if not column.is_replaced]
    gaps = [
        Gap("Coverage", "Can it produce what is wanted at all?", [*texts, *reach], coverage),
        Gap(
            "Alignment",
            "Does it do so when asked once?",
            [*headroom, *(row for row in wins if any(row.cells))],
            [] if headroom else [MEASURE_SAMPLES],
        ),
        Gap(
            "Elicitation",
            "Does what is optimised still stand for what is wanted?",
            proxies,
            [] if proxies else [MEASURE_GOLD],
        ),
    ]
    return GapView([columns[place] for place in shown], [_choose_cells(gap, shown) for gap in gaps])


def _choose_cells(gap: Gap, places: Sequence[int]) -> Gap:
    return replace(gap, rows=[replace(row, cells=[row.cells[place] for place in places]) for row in gap.rows])


def _choose_losses(entries: Iterable[Metric]) -> list[Metric]:
    """Return the loss of each task of texts: by token, else by byte."""
    found: dict[str, Metric] = {}
    for wanted in (BITS_PER_BYTE, NATS_PER_TOKEN):
        found |= {task: (task, name) for task, name in entries if name == wanted}
    return list(found.values())


def _choose_passes(entries: Iterable[Metric]) -> list[Metric]:
    """Return pass@k of the largest k above 1 of each task."""
    found: dict[str, tuple[int, Metric]] = {}
    for task, name in entries:
        kind = parse_repeated(name)
        if kind and kind[0] == "pass" and kind[1] > max(1, found[task][0] if task in found else 0):
            found[task] = (kind[1], (task, name))
    return [metric for _, metric in found.values()]


def _read_row(entries: Entries, metric: Metric, columns: Sequence[Column], meaning: str) -> GapRow:
    unit, cells = find_unit(metric[1], []), []
    for column in columns:
        entry = mapping_of(entries[metric].get(column.label))
        value, low, high = (number_of(entry.get(key)) for key in ("value", "low", "high"))
        cells.append(_say(value, low, high, unit))
    return GapRow(f"{metric[0]}: {metric[1]}", meaning, cells)


# many parameters: a value with its limits, and how they are written
def _say(
    value: float | None, low: float | None, high: float | None, unit: str, *, is_change: bool = False
) -> GapCell | None:
    if value is None:
        return None
    show = format_change if is_change else format_figure
    ends = [show(end, unit, with_unit=False) for end in (low, high)]
    interval = "" if low is None or high is None else f"{ends[0]} {'to' if is_change else '–'} {ends[1]}"
    return GapCell(show(value, unit), interval)


def _find_headroom(files: RunFiles, metric: Metric, columns: Sequence[Column]) -> GapRow:
    """Return by how much the best of k samples is above one sample, over the same problems."""
    (task, name), cells = metric, []
    k = (parse_repeated(name) or ("", 1))[1]
    for column in columns:
        table = files.items.get(column.label, {}).get(task)
        cells.append(None if table is None else _measure_headroom(table, k))
    return GapRow(f"{task}: {name} − pass@1", f"what choosing among {k} samples could gain", cells)


def _measure_headroom(table: ItemTable, k: int) -> GapCell | None:
    (best, clusters), (once, _) = (compute_problem_passes(table, of, at_least=k) for of in (k, 1))
    if not best.size:
        return None
    try:
        found = clustered_interval(best - once, clusters)
    except DataError:  # all of one source
        return _say(float((best - once).mean()), None, None, "fraction", is_change=True)
    return _say(found.value, found.low, found.high, "fraction", is_change=True)


def _find_wins(files: RunFiles, task: str, columns: Sequence[Column]) -> GapRow:
    """Return how often each policy beats the one that its stage started from, item by item; a tie is a half."""
    cells: list[GapCell | None] = []
    for column in columns:
        own = files.items.get(column.label, {}).get(task)
        parent = None if column.before is None else files.items.get(columns[column.before].label, {}).get(task)
        is_same = own is None or parent is None or own.path == parent.path
        pairs = None if own is None or parent is None or is_same else pair_tables(parent, own)
        cells.append(None if pairs is None else _measure_wins(pairs))
    return GapRow(f"{task}: win rate", "against the policy that the stage started from, ties half", cells)


def _measure_wins(pairs: Pairs) -> GapCell | None:
    values = (np.sign(pairs.differences_N) + 1) / 2
    try:
        found = compute_interval(summarise_bounded(values, pairs.clusters_N, low=0.0, high=1.0))
    except DataError:  # all of one source
        return _say(float(values.mean()), None, None, "fraction")
    return _say(found.value, found.low, found.high, "fraction")


def _list_proxies(run: Mapping[str, Any], columns: Sequence[Column]) -> list[GapRow]:
    """Return the policies' own figures of the monitor that holds a proxy against its gold."""
    rows: dict[str, dict[str, GapCell | None]] = {}
    for reading in map(mapping_of, list_of(run.get("monitors"))):
        if reading.get("monitor") != PROXY_MONITOR or reading.get("status") not in ("silent", "alarm"):
            continue
        for figure in map(mapping_of, list_of(reading.get("figures"))):
            if figure.get("of") == "own":
                value, low, high = (number_of(figure.get(key)) for key in ("value", "low", "high"))
                cell = _say(value, low, high, text_of(figure.get("unit")))
                rows.setdefault(text_of(figure.get("name")), {})[text_of(reading.get("stage"))] = cell
    return [
        GapRow(name, "by the monitor of over-optimisation", [cells.get(column.label) for column in columns])
        for name, cells in rows.items()
    ]
