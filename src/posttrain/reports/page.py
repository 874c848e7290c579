"""Builds one self-contained report.html from a run's files: it opens on a phone, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posttrain.core.durable import write_text
from posttrain.core.run_folder import RunFolder
from posttrain.reports import charts
from posttrain.reports.card_metadata import find_base
from posttrain.reports.charts import Chart, build_charts
from posttrain.reports.checks import build_checks, build_overrides
from posttrain.reports.columns import Column
from posttrain.reports.components import build_components
from posttrain.reports.field_reader import FieldReader
from posttrain.reports.flips import build_flips
from posttrain.reports.gaps import build_gaps
from posttrain.reports.gates import GateView, build_gates
from posttrain.reports.matrix import build_matrix
from posttrain.reports.measuring import list_measuring
from posttrain.reports.monitors import build_monitors
from posttrain.reports.numbers import format_compact, format_count, format_figure, format_seconds
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.rendering import render_page
from posttrain.reports.reward_models import RewardView, build_reward
from posttrain.reports.run_files import RunFiles, StageFiles, load_run
from posttrain.reports.samples import build_samples
from posttrain.reports.studies import StudyView, build_study
from posttrain.reports.tables import (
    LedgerTable,
    build_ledger,
    build_lineage,
    write_results_csv,
)
from posttrain.reports.token_rows import TokenRow, build_token_rows, find_sources


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage as the template shows it."""

    number: int
    name: str
    kind: str
    status: str
    facts: list[tuple[str, str]]
    charts: list[Chart]
    other_charts: list[Chart]
    ledger: LedgerTable | None
    token_rows: list[TokenRow]
    sources: list[str]
    gate: GateView
    wiring: list[tuple[str, str, str]]
    reward: RewardView | None
    study: StudyView | None


def build_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder from the run's files, and return its path.

    A run in progress is shown as far as its files go, with a list of what is missing. The same files
    give the same bytes.

    Raises:
        StorageError: run.json is missing or unreadable, or the report cannot be written.
    """
    path = RunFolder(run_folder).report
    write_text(path, render_report(load_run(run_folder)))
    return path


def render_report(files: RunFiles) -> str:
    """Return the page of a run that was read (see `build_report`)."""
    run, reader = files.run, FieldReader()
    gates = build_gates(files, reader)
    stages = [_build_stage(stage, gate) for stage, gate in zip(files.stages, gates, strict=True)]
    checks = build_checks(run, reader)
    overrides = build_overrides(run, checks, list(zip(files.stages, gates, strict=True)), reader)
    monitors, matrix = build_monitors(run, reader), build_matrix(files)
    drawn = {chart.identifier: chart.data for stage in stages for chart in [*stage.charts, *stage.other_charts]}
    measuring = list_measuring(run, reader)
    return render_page(
        "report.html",
        script="report.js",
        name=files.name,
        status=text_of(run.get("status")) or "unknown",
        facts=_list_facts(files),
        matrix=matrix,
        heads=[_list_heads(column, gates) for column in matrix.columns],
        gaps=build_gaps(files),
        components=build_components(files),
        flips=build_flips(files),
        monitors=monitors,
        results_csv="data:text/csv;charset=utf-8," + quote(write_results_csv(run).encode("utf-8", "replace")),
        stages=stages,
        chart_data=drawn,
        frame=charts,
        tasks=build_samples(files),
        lineage=build_lineage(run),
        identity=_list_pairs({key: run.get(key) for key in ("seed", "recipe_hash", "plan_hash")}),
        versions=_list_pairs(mapping_of(run.get("versions"))),
        machine=_list_pairs(mapping_of(run.get("machine"))),
        recipe=files.recipe,
        checks=checks,
        overrides=overrides,
        measuring=measuring,
        notes=[*files.notes, *reader.notes],
    )


def _list_heads(column: Column, gates: Sequence[GateView]) -> list[tuple[str, str]]:
    """Return the badges over a column: what its stage's gate decided, or that a repair replaced it."""
    if column.is_replaced:
        return [("replaced", "plain")]
    return gates[column.stage].badges if column.stage is not None and column.stage < len(gates) else []


def _build_stage(stage: StageFiles, gate: GateView) -> StageView:
    entry = stage.entry
    primary, others = build_charts(stage.index, stage.points)
    token_rows = build_token_rows(stage.rows)
    tokens, seconds = number_of(entry.get("tokens")), number_of(entry.get("seconds"))
    facts = [("time", format_seconds(seconds))] if seconds is not None else []
    if tokens is not None:
        facts.append(("tokens", format_compact(tokens)))
    steps = [step for point in stage.points if (step := number_of(point.get("step"))) is not None]
    if steps:
        facts.append(("last logged step", format_count(max(steps))))
    if number_of(entry.get("round")):
        facts.append(("round", text_of(entry.get("round"))))
    return StageView(
        number=stage.index + 1,
        name=stage.name,
        kind=text_of(entry.get("type")),
        status=text_of(entry.get("status")) or "not in run.json yet",
        facts=facts,
        charts=primary,
        other_charts=others,
        ledger=build_ledger(stage.ledger) if stage.ledger else None,
        token_rows=token_rows,
        sources=find_sources(token_rows),
        gate=gate,
        wiring=_list_wiring(entry),
        reward=build_reward(stage.reward),
        study=build_study(stage.study, stage.study_page),
    )


def _list_wiring(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (in or out, name, hash) of a stage's inputs and outputs, and its key."""
    wiring = [("key", "configuration and inputs", text_of(entry["key"]))] if entry.get("key") else []
    for direction, field in (("in", "inputs"), ("out", "outputs")):
        values = entry.get(field)
        pairs = values.items() if isinstance(values, dict) else [("", value) for value in list_of(values)]
        wiring += [(direction, text_of(name), text_of(value)) for name, value in pairs]
    return wiring


def _list_facts(files: RunFiles) -> list[str]:
    run, facts = files.run, []
    if base := find_base(files.resolved):
        facts.append(f"base {base}")
    facts.append(f"{len(files.stages)} stage{'s' * (len(files.stages) != 1)}")
    entries = [mapping_of(entry) for entry in list_of(run.get("stages"))]
    seconds = [second for entry in entries if (second := number_of(entry.get("seconds"))) is not None]
    tokens = [count for entry in entries if (count := number_of(entry.get("tokens"))) is not None]
    if seconds:
        facts.append(format_seconds(sum(seconds)))
    if tokens:
        facts.append(f"{format_compact(sum(tokens))} tokens")
    if run.get("seed") is not None:
        facts.append(f"seed {text_of(run.get('seed'))}")
    if mapping_of(run.get("machine")).get("sandbox") == "unsafe":
        facts.append("programs ran WITHOUT A SANDBOX")
    return facts


def _list_pairs(values: dict[str, Any]) -> list[tuple[str, str]]:
    shown = []
    for key, value in values.items():
        if value is not None:
            number = number_of(value) if key.endswith("bytes") else None
            text = text_of(value) if number is None else format_figure(number, "bytes")
            shown.append((key.removesuffix("_bytes").replace("_", " "), text))
    return shown
