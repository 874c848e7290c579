"""A comparison of two policies as plain lines for a terminal: what the page shows, without drawings and texts."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.reports.comparison import ComparedRow, Comparison, build_rows, describe_verdicts
from posttrain.reports.visible_text import cut_text, show_hidden

MAX_NAME_CHARACTERS = 40
_HEADINGS = ("metric", "A", "B", "B − A", "p", "Holm", "verdict")
_TEXT_COLUMNS = (0, 6)


def list_comparison_lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines of text: a row for each metric with its details below, then what was found."""
    rows, _ = build_rows(comparison.metrics)
    cells = [_HEADINGS, *map(_list_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    lines = [
        f"A  {_flatten(comparison.a.name)}  {comparison.a.hash}",
        f"B  {_flatten(comparison.b.name)}  {comparison.b.hash}",
    ]
    lines += ["", _align(_HEADINGS, widths)]
    for row, values in zip(rows, cells[1:], strict=True):
        lines += [_align(values, widths), *(f"    {detail}" for detail in _list_details(row, comparison.confidence))]
    lines += ["", *describe_verdicts(comparison)]
    lines += [
        f"{_flatten(flips.task)}: {flips.num_lost} items lost, {flips.num_gained} gained" for flips in comparison.flips
    ]
    return [line.replace("\u00a0", " ") for line in [*lines, *map(_flatten, comparison.notes)]]


def _list_cells(row: ComparedRow) -> tuple[str, ...]:
    verdict = row.verdict if row.is_settled else f"{row.verdict}, {row.adjusted} after Holm"
    name = cut_text(_flatten(f"{row.task}/{row.label}"), MAX_NAME_CHARACTERS)[0]
    return (name, row.a.value, row.b.value, row.difference, row.p_value, row.adjusted_p_value, verdict)


def _list_details(row: ComparedRow, confidence: str) -> list[str]:
    sides = []
    for name, side in (("A", row.a), ("B", row.b)):
        failures = f" ({' · '.join(side.failures)})" if side.failures else ""
        sides.append(f"{name} {side.interval or 'no interval'}{failures}")
    details = ["; ".join(sides)]
    if row.plot:
        parts = [f"difference {row.limits} ({confidence})", f"{row.changed} {row.counted}"]
        parts += [f"{row.num_items} items" + (f" in {row.clusters}" if row.clusters else "")]
        details.append("; ".join([*parts, *([row.left_out] if row.left_out else [])]))
    return [*details, *([_flatten(row.reason)] if row.reason else [])]


def _align(values: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        value.ljust(width) if column in _TEXT_COLUMNS else value.rjust(width)
        for column, (value, width) in enumerate(zip(values, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _flatten(text: str) -> str:
    """Return a text that stays on its line, whatever it holds."""
    return " ".join(show_hidden(text).split())
