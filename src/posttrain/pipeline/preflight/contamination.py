"""How many training rows of a stage hold evaluation items of its recipe."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.data.ledger import Ledger, LossEntry
from posttrain.data.tokenizing import CONTAMINATED
from posttrain.pipeline.decontaminating import OFF
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.override_names import CONTAMINATION
from posttrain.pipeline.recipe_settings import DecontaminationSettings

_SHOWN = 3


def check_contamination(
    stage: str, ledgers: Sequence[Ledger], settings: DecontaminationSettings | None, searched: str
) -> Finding:
    """Return how many rows hold evaluation items, for the training source of which most do.

    Args:
        stage: The stage's label.
        ledgers: What became of the rows of each training source.
        settings: How items were looked for; None: they were not.
        searched: What was looked for, in words.
    """
    if settings is None:
        return Finding(stage, CONTAMINATION, "skipped", OFF)
    worst = max(ledgers, key=lambda ledger: _find(ledger).rows / max(1, ledger.rows_in))
    entry = _find(worst)
    share = entry.rows / max(1, worst.rows_in)
    total, rows_in = sum(_find(ledger).rows for ledger in ledgers), sum(ledger.rows_in for ledger in ledgers)
    figures = {"rows": total, "rows_in": rows_in, "worst_fraction": share}
    if share <= settings.max_fraction:
        found = f"{total:,} of {rows_in:,} rows hold evaluation items and are left out ({searched})"
        return Finding(stage, CONTAMINATION, "passed", found, figures=figures)
    shown = "; ".join(f"{row['row_id']} ({row['detail']})" for row in entry.listed[:_SHOWN])
    return Finding(
        stage,
        CONTAMINATION,
        "refused",
        f"{entry.rows:,} of {worst.rows_in:,} rows ({share:.1%}) of a source hold evaluation items: {shown}",
        f"at most {settings.max_fraction:.1%} of the rows of a source (decontaminate: max_fraction)",
        "train on other rows than those the tasks are measured on; or choose other rows for the tasks; or narrow what "
        "counts with decontaminate: {kinds: [...]}; decontaminate: false trains on them, and the report says so",
        figures,
    )


def describe_all_contaminated(stage: str, found: str, ledger: Ledger) -> Finding:
    """Return the finding of a stage of which too few rows hold no evaluation item; no override can help it."""
    return Finding(
        stage,
        CONTAMINATION,
        "refused",
        found,
        "at least one row that holds no evaluation item",
        "train on other rows than those the tasks are measured on",
        {"rows": _find(ledger).rows, "rows_in": ledger.rows_in},
        is_overridable=False,
    )


def _find(ledger: Ledger) -> LossEntry:
    return ledger.dropped.get(CONTAMINATED, LossEntry("contaminated"))
