"""Tables of a report: results from the base to the last stage, ledgers, artifacts, and their CSV form."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from posttrain.core.metrics import describe_metric
from posttrain.reports.numbers import NO_VALUE, format_change, format_count, format_figure
from posttrain.reports.run_files import BASE, label_stage, list_of, mapping_of, number_of, remark_stage, text_of

Item = TypeVar("Item")
PLOT_WIDTH, PLOT_MARGIN, PLOT_LINE = 168, 8, 16
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured value with everything that must stand beside it.

    Example: value `87.5 %`, interval `82.2 – 91.4`, n `200`, clusters `50 clusters`, failures `unparsed 1.5 %`.
    """

    value: str
    interval: str
    n: str
    clusters: str
    method: str
    failures: str


@dataclass(frozen=True, slots=True)
class Whisker:
    """One interval of a row's plot, in SVG units; `style` is `base`, `middle` or `last` (of those let through)."""

    low: float
    value: float
    high: float
    y: float
    style: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One metric of one task over the stages, and its change from the base to the last stage that was let through."""

    task: str
    name: str
    meaning: str
    cells: list[Cell | None]
    last: Cell | None
    change: str
    direction: str
    evidence: str
    whiskers: list[Whisker]
    plot_height: int
    plot_range: tuple[str, str]

    @property
    def first(self) -> Cell | None:
        """The base's value."""
        return self.cells[0]


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Metrics by stage: `stages` are the columns (the base first), `rows` the metrics in recipe order.

    `remarks` says of each column why it is no step on the way from the base to the last: `rolled back`; mostly empty.
    """

    stages: list[str]
    remarks: list[str]
    rows: list[ResultRow]


def build_results(run: Mapping[str, Any]) -> ResultTable:
    """Return the table of run.json's metrics: base, then each stage that was measured, in the order of the run."""
    entries = [mapping_of(entry) for entry in list_of(run.get("metrics"))]
    entries = [entry for entry in entries if number_of(entry.get("value")) is not None or _is_unread(entry)]
    columns = _list_columns(run, _distinct(text_of(entry.get("stage")) for entry in entries))
    rows = []
    for task, name in _distinct((text_of(entry.get("task")), text_of(entry.get("name"))) for entry in entries):
        of_row = {
            text_of(entry.get("stage")): entry
            for entry in entries
            if (text_of(entry.get("task")), text_of(entry.get("name"))) == (task, name)
        }
        steps = [of_row.get(stage) for stage, remark in columns.items() if not remark]
        rows.append(_build_row(task, name, [of_row.get(stage) for stage in columns], steps))
    return ResultTable(list(columns), list(columns.values()), rows)


def _list_columns(run: Mapping[str, Any], measured: Sequence[str]) -> dict[str, str]:
    """Return what was measured, in the order of the run, each with a remark if it is no step to the last policy.

    What a repair replaced stands before its stage, as `sft, as trained`.
    """
    columns = {BASE: ""}
    for entry in map(mapping_of, list_of(run.get("stages"))):
        label = label_stage(entry)
        if label:
            columns |= {name: "replaced" for name in measured if name.startswith(f"{label}, ")}
        if label in measured:
            columns.setdefault(label, remark_stage(entry))
    return columns | {name: "" for name in measured if name not in columns}


def choose_key_rows(table: ResultTable, limit: int = 3) -> list[ResultRow]:
    """Return the rows shown large: the first metric of each task, then the others, at most `limit`."""
    first_of_task = {row.task: row for row in reversed(table.rows)}
    leading = [row for row in table.rows if first_of_task[row.task] is row]
    rest = [row for row in table.rows if first_of_task[row.task] is not row]
    return (leading + rest)[:limit]


Entry = Mapping[str, Any]


def _build_row(task: str, name: str, entries: Sequence[Entry | None], steps: Sequence[Entry | None]) -> ResultRow:
    """Return a metric's row; `steps` are the entries on the way from the base to the last policy, the base first."""
    spec = describe_metric(name)
    unit = spec.unit if spec else ""
    base, last = steps[0], next((entry for entry in reversed(steps[1:]) if entry), None)
    before, after = (number_of(mapping_of(entry).get("value")) for entry in (base, last))
    change, direction, evidence = None, "level", ""
    if base and last and before is not None and after is not None:
        change = after - before
        hashes = {text_of(entry.get("task_hash")) for entry in (base, last) if entry.get("task_hash") is not None}
        evidence = "measured on other rows than the base" if len(hashes) > 1 else _compare_intervals(base, last)
        if spec and spec.lower_is_better is not None and change:
            direction = "better" if (change < 0) == spec.lower_is_better else "worse"
    drawn = [entry if number_of(mapping_of(entry).get("value")) is not None else None for entry in entries]
    whiskers, bottom, top = _place_whiskers(drawn, last, unit)
    return ResultRow(
        task=task,
        name=name,
        meaning=spec.meaning if spec else "",
        cells=[_build_cell(entry, unit) if entry else None for entry in entries],
        last=_build_cell(last, unit) if last else None,
        change=format_change(change, unit),
        direction=direction,
        evidence=evidence,
        whiskers=whiskers,
        plot_range=(_format_end(bottom, unit), _format_end(top, unit)) if whiskers else ("", ""),
        plot_height=PLOT_LINE * len(whiskers),
    )


def _build_cell(entry: Mapping[str, Any], unit: str) -> Cell:
    low, high = number_of(entry.get("low")), number_of(entry.get("high"))
    num_clusters = number_of(entry.get("clusters"))
    interval = ""
    if low is not None and high is not None:
        interval = f"{format_figure(low, unit, with_unit=False)} – {format_figure(high, unit, with_unit=False)}"
    return Cell(
        value="unread" if _is_unread(entry) else format_figure(number_of(entry.get("value")), unit),
        interval=interval,
        n=format_count(number_of(entry.get("n"))),
        clusters="" if num_clusters in (None, number_of(entry.get("n"))) else f"{format_count(num_clusters)} clusters",
        method=text_of(entry.get("method")),
        failures=" · ".join(list_failures(mapping_of(entry.get("outcomes")))),
    )


def _is_unread(entry: Entry) -> bool:
    """Return whether no answer could be read: such a metric has no value, and is shown as measured all the same."""
    return entry.get("value") is None and entry.get("method") == "unread"


def list_failures(outcomes: Mapping[str, Any]) -> list[str]:
    """Return the share of each outcome that is not a score: no number stands without them."""
    counts = {name: number_of(count) or 0.0 for name, count in outcomes.items()}
    left_out = {"not applicable": counts.pop("not_applicable", 0.0), "harness faults": counts.pop("harness", 0.0)}
    total = sum(counts.values())
    parts = [
        f"{name.replace('_', ' ')} {100 * count / total:.1f}\u00a0%"
        for name, count in counts.items()
        if count > 0 and name != "scored"
    ]
    parts += [f"{name} {format_count(count)}, left out" for name, count in left_out.items() if count]
    return parts


def _compare_intervals(base: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    bounds = [number_of(entry.get(bound)) for entry in (base, last) for bound in ("low", "high")]
    if any(bound is None for bound in bounds):
        return ""
    low, high, last_low, last_high = (bound or 0.0 for bound in bounds)
    return "clear of the base's interval" if last_low > high or last_high < low else "overlaps the base's interval"


def _format_end(value: float, unit: str) -> str:
    return format_figure(value, unit).replace(".0\u00a0%", "\u00a0%")


def _place_whiskers(
    entries: Sequence[Entry | None], final: Entry | None, unit: str
) -> tuple[list[Whisker], float, float]:
    """Return the intervals of a row's plot, and the values at its left and right rail."""
    known = [(index, entry) for index, entry in enumerate(entries) if entry]
    triples: list[tuple[float, float, float]] = []
    for _, entry in known:
        value = number_of(entry["value"]) or 0.0
        low, high = number_of(entry.get("low")), number_of(entry.get("high"))
        triples.append((value if low is None else low, value, value if high is None else high))
    bottom, top = min(map(min, triples), default=0.0), max(map(max, triples), default=1.0)
    if unit == "fraction" and bottom >= 0 and top <= 1:
        bottom, top = 0.0, 1.0
    span = (top - bottom) or 1.0

    def place(value: float) -> float:
        return round(PLOT_MARGIN + (value - bottom) / span * (PLOT_WIDTH - 2 * PLOT_MARGIN), 1)

    whiskers = []
    for line, ((index, entry), (low, value, high)) in enumerate(zip(known, triples, strict=True)):
        style = "base" if index == 0 else "last" if entry is final else "middle"
        whiskers.append(Whisker(place(low), place(value), place(high), PLOT_LINE * (line + 0.5), style))
    return whiskers, bottom, top


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """Where a stage's rows went: every row in was trained on or dropped for a reason.

    `parts` are (label, count, share of rows in, is the trained part); `facts` are further counts;
    `examples` are the rows listed for each reason.
    """

    rows_in: str
    parts: list[tuple[str, str, float, bool]]
    facts: list[tuple[str, str]]
    imbalance: str
    examples: list[tuple[str, list[str]]]
    decontamination: str = ""


_LEDGER_FACTS = ("samples", "tokens_in", "tokens_kept", "tokens_trained", "tokens_lost", "stops_cut")


def build_ledger(ledger: Mapping[str, Any]) -> LedgerTable:
    """Return ledger.json (`data.ledger.Ledger.to_json`) as a table; what does not balance is said, not hidden."""
    rows_in, trained = number_of(ledger.get("rows_in")), number_of(ledger.get("rows_trained")) or 0.0
    dropped = {reason: mapping_of(entry) for reason, entry in mapping_of(ledger.get("dropped")).items()}
    shortened = {reason: mapping_of(entry) for reason, entry in mapping_of(ledger.get("shortened")).items()}
    counts = [(reason, number_of(entry.get("rows")) or 0.0) for reason, entry in dropped.items()]
    counts.sort(key=lambda pair: (-pair[1], pair[0]))
    total = trained + sum(count for _, count in counts)
    whole = max(rows_in or 0.0, total) or 1.0
    imbalance = ""
    if rows_in is not None and rows_in != total:
        imbalance = f"{format_count(rows_in)} rows in, but {format_count(total)} accounted for"
    facts = [(key.replace("_", " "), number_of(ledger.get(key))) for key in _LEDGER_FACTS]
    cut = [(f"rows shortened: {reason}", number_of(entry.get("rows"))) for reason, entry in shortened.items()]
    return LedgerTable(
        rows_in=format_count(rows_in if rows_in is not None else total),
        parts=[
            ("trained on", format_count(trained), trained / whole, True),
            *((f"dropped: {reason}", format_count(count), count / whole, False) for reason, count in counts),
        ],
        facts=[(label, format_count(number)) for label, number in facts + cut if number is not None],
        imbalance=imbalance,
        examples=[*map(_list_rows, dropped.items()), *map(_list_rows, shortened.items())],
        decontamination=text_of(ledger.get("decontamination")),
    )


def _list_rows(part: tuple[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return a reason and the first rows it struck, each with its detail."""
    rows = [mapping_of(row) for row in list_of(part[1].get("listed"))[:8]]
    details = [(text_of(row.get("row_id")), text_of(row.get("detail"))) for row in rows]
    return part[0], [f"{name} ({detail})" if detail else name for name, detail in details]


@dataclass(frozen=True, slots=True)
class LineageRow:
    """One artifact: its name by content, what it was made from, and where it lies."""

    hash: str
    kind: str
    stage: str
    folder: str
    parents: list[tuple[str, bool]]


def build_lineage(run: Mapping[str, Any]) -> list[LineageRow]:
    """Return the artifacts in the order of the run; a parent is marked if it is in this run too."""
    entries = [mapping_of(entry) for entry in list_of(run.get("artifacts"))]
    known = {text_of(entry.get("hash")) for entry in entries}
    rows = []
    for entry in entries:
        raw = entry.get("parents")
        parents = [text_of(parent) for parent in (list(raw.values()) if isinstance(raw, dict) else list_of(raw))]
        rows.append(
            LineageRow(
                hash=text_of(entry.get("hash")) or NO_VALUE,
                kind=text_of(entry.get("kind")),
                stage=text_of(entry.get("stage")),
                folder=text_of(entry.get("folder")),
                parents=[(parent, parent in known) for parent in parents],
            )
        )
    return rows


def write_results_csv(run: Mapping[str, Any]) -> str:
    """Return run.json's metrics as CSV text, safe to open in a spreadsheet (see `quote_cell`)."""
    columns = ("stage", "task", "name", "value", "low", "high", "n", "method")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for entry in (mapping_of(entry) for entry in list_of(run.get("metrics"))):
        writer.writerow([quote_cell(entry.get(column)) for column in columns])
    return buffer.getvalue()


def quote_cell(value: Any) -> str:
    """Return a CSV cell that no spreadsheet takes for a formula.

    Text that starts with = + - @ TAB or CR (also after spaces) gets an apostrophe in front; a number,
    negative ones too, stays a number.
    """
    text = text_of(value)
    if isinstance(value, str) and (text.lstrip(" \n").startswith(_FORMULA_STARTS) or text.startswith(_FORMULA_STARTS)):
        return "'" + text
    return text


def _distinct(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))
