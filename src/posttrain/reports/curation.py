"""The page of a curation: what was dropped and why, and how long rows were before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.durable import write_text
from posttrain.reports.numbers import format_count, format_figure
from posttrain.reports.rendering import render_page

NUM_BARS = 32
_HEIGHT = 100


@dataclass(frozen=True, slots=True)
class LengthBar:
    """One bar of the histogram, in units of its drawing: where it begins, its width, and the heights of both sides."""

    x: float
    width: float
    height_in: float
    height_kept: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Rows by length, before and after; the last bar holds all longer ones. `limit` is where it begins, in words."""

    bars: list[LengthBar]
    limit: int
    summary: str


@dataclass(frozen=True, slots=True)
class DropReason:
    """One reason: how many rows it struck, and some of them (id, detail, prompt, answer)."""

    reason: str
    count: str
    share: str
    examples: list[tuple[str, str, str, str]]


def write_curation_page(
    path: Path, found: Mapping[str, Any], lengths_in: Mapping[int, int], lengths_kept: Mapping[int, int]
) -> None:
    """Write the page of a curation.

    Args:
        path: The HTML file.
        found: What `Curated.to_json` returns.
        lengths_in: Rows by their words, of all that could be read.
        lengths_kept: The same, of those that are kept.

    Raises:
        StorageError: It cannot be written.
    """
    rows_in = found["rows_in"]
    entries = sorted(found["ledger"]["dropped"].items(), key=lambda pair: (-pair[1]["rows"], pair[0]))
    reasons = [
        DropReason(
            reason,
            format_count(entry["rows"]),
            f"{entry['rows'] / max(1, rows_in):.1%}",
            [(row["row_id"], row["detail"], row["prompt"], row["answer"]) for row in found["examples"].get(reason, [])],
        )
        for reason, entry in entries
    ]
    words = [
        (
            label,
            [format_figure(found[key].get(name), "words", with_unit=False) for name in ("mean", "p5", "median", "p95")],
        )
        for label, key in (("read", "words_in"), ("kept", "words_kept"))
    ]
    page = render_page(
        "curation.html",
        sources=found["sources"],
        against=found["against"],
        rows_in=format_count(rows_in),
        rows_kept=format_count(found["rows_kept"]),
        rows_dropped=format_count(found["ledger"]["rows_dropped"]),
        notes=found["notes"],
        reasons=reasons,
        words=words,
        histogram=build_histogram(lengths_in, lengths_kept),
        quality=[(name.replace("_", " "), f"{value:.3f}") for name, value in found["mean_quality"].items()],
        settings=[(name.replace("_", " "), str(value)) for name, value in found["settings"].items()],
    )
    write_text(path, page)


def build_histogram(lengths_in: Mapping[int, int], lengths_kept: Mapping[int, int]) -> Histogram:
    """Return rows by length in equal bars up to the 98th percentile of all rows; the last bar holds what is longer."""
    total = sum(lengths_in.values())
    limit, seen = 1, 0
    for length in sorted(lengths_in):
        seen += lengths_in[length]
        limit = max(1, length)
        if seen >= 0.98 * total:
            break
    step = max(1, -(-limit // (NUM_BARS - 1)))

    def count(lengths: Mapping[int, int]) -> list[int]:
        bars = [0] * NUM_BARS
        for length, rows in lengths.items():
            bars[min(NUM_BARS - 1, length // step)] += rows
        return bars

    before, after = count(lengths_in), count(lengths_kept)
    highest = max(1, *before)
    width = 1000 / NUM_BARS
    bars = [
        LengthBar(round(width * place, 2), round(width - 2, 2), *(round(_HEIGHT * n / highest, 2) for n in pair))
        for place, pair in enumerate(zip(before, after, strict=True))
    ]
    summary = f"bars of {step:,} words each, the highest {highest:,} rows; the last holds all rows of more words"
    return Histogram(bars, step * (NUM_BARS - 1), summary)
