"""How many rows are too long for a stage, and what is lost with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from posttrain.data.ledger import Ledger
from posttrain.data.truncation import TooLongRows, find_too_long
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.override_names import TRUNCATION
from posttrain.pipeline.stage_rows import RowKeys

_LENGTH_STEP = 64


def check_truncation(
    stage: str,
    config: RowKeys,
    ledgers: Sequence[Ledger],
    *,
    max_length: int | None,
    context_tokens: int | None,
) -> Finding:
    """Return how many rows of a stage are too long, for the source of which most are.

    Args:
        stage: The stage's label.
        config: Its configuration.
        ledgers: What became of the rows of each source, training and validation.
        max_length: Most tokens of a row; None for no limit.
        context_tokens: The model's own limit, which a proposal keeps to; None if it has none.
    """
    worst = max(ledgers, key=lambda ledger: find_too_long(ledger).num_rows / max(1, ledger.rows_in))
    too_long = find_too_long(worst)
    share = too_long.num_rows / max(1, worst.rows_in)
    proposed = propose_max_length(too_long, context_tokens)
    figures = {
        "rows": too_long.num_rows,
        "rows_in": worst.rows_in,
        "fraction": share,
        "tokens_lost": sum(ledger.tokens_lost for ledger in ledgers),
        "stops_cut": sum(ledger.stops_cut for ledger in ledgers),
        "max_length": max_length,
        "proposed_max_length": proposed,
    }
    if config.truncation != "refuse" or share <= config.max_affected_fraction:
        found = f"{too_long.num_rows:,} of {worst.rows_in:,} rows are dropped or shortened for their length"
        return Finding(stage, TRUNCATION, "passed", found, figures=figures)
    shown = ", ".join(f"{row['row_id']} ({row['detail']})" for row in too_long.listed[:4])
    found = (
        f"{too_long.num_rows:,} of {worst.rows_in:,} rows ({share:.1%}) have more than {max_length or 0:,} tokens; "
        f"dropping them loses {too_long.num_tokens:,} tokens: {shown}{', ...' if too_long.num_rows > 4 else ''}"
    )
    expected = f"at most {config.max_affected_fraction:.1%} of the rows above max_length (max_affected_fraction)"
    raise_it = f"set max_length: {proposed}, or " if proposed is not None and proposed > (max_length or 0) else ""
    cure = f"{raise_it}choose a truncation policy: {_list_policies(config)}"
    return Finding(stage, TRUNCATION, "refused", found, expected, cure, figures)


def _list_policies(config: RowKeys) -> str:
    kind: Any = type(config)
    others = [policy for policy in get_args(kind.model_fields["truncation"].annotation) if policy != "refuse"]
    return ", ".join(others[:-1]) + f" or {others[-1]}"


def propose_max_length(too_long: TooLongRows, context_tokens: int | None) -> int | None:
    """Return a limit that the listed rows keep to, rounded up, within the model's own; None where none is too long."""
    if not too_long.longest:
        return None
    rounded = -(-too_long.longest // _LENGTH_STEP) * _LENGTH_STEP
    return min(rounded, context_tokens or rounded)


def describe_all_too_long(
    stage: str, found: str, ledger: Ledger, max_length: int | None, context_tokens: int | None
) -> Finding:
    """Return the finding of a stage that no row is short enough for; no override can help it."""
    too_long = find_too_long(ledger)
    proposed = propose_max_length(too_long, context_tokens)
    if proposed is not None and max_length is not None and proposed <= max_length:
        proposed = None  # the model itself takes no longer rows
    figures = {
        "rows": too_long.num_rows,
        "rows_in": ledger.rows_in,
        "tokens_lost": ledger.tokens_lost,
        "proposed_max_length": proposed,
    }
    cure = f"set max_length: {proposed}, or choose rows that are shorter" if proposed else "choose shorter rows"
    expected = "at least one row that is short enough to be trained on"
    return Finding(stage, TRUNCATION, "refused", found, expected, cure, figures, is_overridable=False)
