"""Two runs side by side: what each measured by stage, what differs between their recipes, gates, monitors, cost.

Read from the files of both; `posttrain compare` compares two policies item by item instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.durable import write_text
from posttrain.reports.changes import Change, compare_measured
from posttrain.reports.columns import Column
from posttrain.reports.field_reader import FieldReader
from posttrain.reports.gates import GateView, build_gates
from posttrain.reports.matrix import Cell, Matrix, MatrixRow, build_matrix, find_side, index_metrics
from posttrain.reports.monitors import MonitorsView, State, build_monitors
from posttrain.reports.numbers import NO_VALUE, format_count, format_seconds
from posttrain.reports.raw_values import number_of, text_of
from posttrain.reports.recipe_differences import Difference, list_differences
from posttrain.reports.rendering import render_page
from posttrain.reports.run_files import RunFiles, load_run

WORDS = {"improved": "B better", "worse": "B worse", "higher": "B higher", "lower": "B lower"}


@dataclass(frozen=True, slots=True)
class PairRow:
    """One metric by the stages of both runs, a side for each that measured it, and B's last policy against A's."""

    task: str
    name: str
    unit: str
    is_main: bool
    meaning: str
    sides: list[tuple[str, str, list[Cell | None]]]
    change: Change | None
    word: str


@dataclass(frozen=True, slots=True)
class PairStage:
    """One stage as both runs have it: badges, reasons, seconds and tokens of A and of B; empty where a run lacks it."""

    name: str
    badges: tuple[list[tuple[str, str]], list[tuple[str, str]]]
    reasons: tuple[str, str]
    seconds: tuple[str, str]
    tokens: tuple[str, str]


@dataclass(frozen=True, slots=True)
class RunPair:
    """All that stands on the page."""

    names: tuple[str, str]
    facts: tuple[list[str], list[str]]
    headings: list[str]
    objectives: list[PairRow]
    others: list[PairRow]
    differences: list[Difference]
    stages: list[PairStage]
    monitors: list[tuple[str, list[State], list[State]]]
    notes: list[str]

    @property
    def is_wide(self) -> bool:
        """Whether there are so many columns that their text must be smaller."""
        return len(self.headings) > 5


def write_run_pair(roots: tuple[Path, Path], path: Path) -> Path:
    """Write the page of two runs side by side, and return its path; the same files give the same bytes.

    Raises:
        StorageError: A run.json is missing or unreadable, or the page cannot be written.
    """
    write_text(path, render_run_pair(load_run(roots[0]), load_run(roots[1])))
    return path


def render_run_pair(a: RunFiles, b: RunFiles) -> str:
    """Return the self-contained page of two runs."""
    return render_page("runs.html", pair=build_run_pair(a, b))


def build_run_pair(a: RunFiles, b: RunFiles) -> RunPair:
    """Return two runs aligned by task, metric and stage."""
    runs, readers = (a, b), (FieldReader(), FieldReader())
    matrices = (build_matrix(a), build_matrix(b))
    gates = tuple(build_gates(files, reader) for files, reader in zip(runs, readers, strict=True))
    monitors = tuple(build_monitors(files.run, reader) for files, reader in zip(runs, readers, strict=True))
    headings = _align(*([column.heading for column in _list_steps(matrix)] for matrix in matrices))
    names = [files.name for files in runs]
    if names[0] == names[1]:
        names = [files.root.resolve().name for files in runs]
    is_objective = {(row.task, row.name) for matrix in matrices for row in matrix.objectives}
    rows = _build_rows(runs, matrices, headings)
    notes = [
        f"{side}: {note}"
        for side, files, reader in zip("AB", runs, readers, strict=True)
        for note in [*files.notes, *reader.notes]
    ]
    return RunPair(
        names=(names[0], names[1]),
        facts=(_list_facts(a), _list_facts(b)),
        headings=headings,
        objectives=[row for row in rows if (row.task, row.name) in is_objective],
        others=[row for row in rows if (row.task, row.name) not in is_objective],
        differences=list_differences(a, b),
        stages=_build_stages(runs, (gates[0], gates[1])),
        monitors=_align_monitors(monitors[0], monitors[1]),
        notes=notes,
    )


def _list_steps(matrix: Matrix) -> list[Column]:
    """Return the columns that are shown: what a repair replaced is left to the run's own report."""
    return [column for column in matrix.columns if not column.is_replaced]


def _align(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Return all names of both lists; one that only the second has stands after what it follows there."""
    found = list(first)
    for place, name in enumerate(second):
        if name not in found:
            found.insert(found.index(second[place - 1]) + 1 if place else 0, name)
    return found


def _build_rows(
    runs: tuple[RunFiles, RunFiles], matrices: tuple[Matrix, Matrix], headings: Sequence[str]
) -> list[PairRow]:
    by_metric = [{(row.task, row.name): row for row in [*m.objectives, *m.others]} for m in matrices]
    indexed = [index_metrics(files.run) for files in runs]
    rows = []
    for metric in dict.fromkeys([*by_metric[0], *by_metric[1]]):
        found = [of_run.get(metric) for of_run in by_metric]
        known = next(row for row in found if row)
        lasts = [matrix.columns[matrix.last] for matrix in matrices]
        sides = [
            find_side(files, column, metric[0], entries.get(metric, {}).get(column.label))
            for files, column, entries in zip(runs, lasts, indexed, strict=True)
        ]
        change = compare_measured(sides[0], sides[1], metric[1], is_main=known.is_main)
        cells = [
            (side, row.counted, _place_cells(row, matrix, headings))
            for side, row, matrix in zip("AB", found, matrices, strict=True)
            if row
        ]
        word = WORDS.get(change.word, change.word) if change else ""
        rows.append(PairRow(*metric, known.unit, known.is_main, known.meaning, cells, change, word))
    return rows


def _place_cells(row: MatrixRow, matrix: Matrix, headings: Sequence[str]) -> list[Cell | None]:
    by_heading = {
        column.heading: cell for column, cell in zip(matrix.columns, row.cells, strict=True) if not column.is_replaced
    }
    return [by_heading.get(heading) for heading in headings]


def _build_stages(
    runs: tuple[RunFiles, RunFiles], gates: tuple[Sequence[GateView], Sequence[GateView]]
) -> list[PairStage]:
    """Return the stages of both runs, and all of them together at the end."""
    by_name = [
        {stage.name: (stage.entry, gate) for stage, gate in zip(files.stages, of_run, strict=True)}
        for files, of_run in zip(runs, gates, strict=True)
    ]
    rows = []
    for name in _align(list(by_name[0]), list(by_name[1])):
        found = [of_run.get(name) for of_run in by_name]
        badges = [side[1].badges if side else [] for side in found]
        reasons = [side[1].brief if side else "" for side in found]
        entries = [side[0] if side else {} for side in found]
        rows.append(PairStage(name, (badges[0], badges[1]), (reasons[0], reasons[1]), *_say_costs(entries)))
    totals = [
        {key: _add_up([entry.get(key) for entry, _ in of_run.values()]) for key in ("seconds", "tokens")}
        for of_run in by_name
    ]
    return [*rows, PairStage("all stages", ([], []), ("", ""), *_say_costs(totals))]


def _say_costs(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], tuple[str, str]]:
    seconds = [format_seconds(number_of(entry.get("seconds"))) for entry in entries]
    tokens = [format_count(number_of(entry.get("tokens"))) for entry in entries]
    return (seconds[0], seconds[1]), (tokens[0], tokens[1])


def _add_up(values: Sequence[Any]) -> float | None:
    numbers = [number for value in values if (number := number_of(value)) is not None]
    return sum(numbers) if numbers else None


def _align_monitors(a: MonitorsView, b: MonitorsView) -> list[tuple[str, list[State], list[State]]]:
    states = [{view.name: view.states for view in monitors.views} for monitors in (a, b)]
    names = dict.fromkeys([*states[0], *states[1]])
    return [(name, states[0].get(name, []), states[1].get(name, [])) for name in names]


def _list_facts(files: RunFiles) -> list[str]:
    facts = [text_of(files.run.get("status")) or "unknown"]
    facts += [f"seed {text_of(files.run.get('seed'))}"] if files.run.get("seed") is not None else []
    recipe = text_of(files.run.get("recipe_hash"))
    return [*facts, f"recipe {recipe[:12] or NO_VALUE}"]
