"""Tables of a report: ledgers, artifacts, and the metrics as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.reports.numbers import NO_VALUE, format_count
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


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
    # Problems are counted and not tokenized: of their tokens the ledger says nothing.
    told = _LEDGER_FACTS if number_of(ledger.get("tokens_in")) else ("samples",)
    facts = [(key.replace("_", " "), number_of(ledger.get(key))) for key in told]
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
