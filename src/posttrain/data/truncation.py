"""What to do with rows that have more tokens than may be trained on: a stated policy, never a silent cut.

* `refuse` (the default): such rows are dropped and counted; above `max_affected_fraction` of all rows
  (0.5 %) the start is refused.
* `drop`: the same without a limit.
* `cut_oldest_turn`: the oldest turn that is not the system message (a user message and what follows it,
  up to the next one) is left out and the rest rendered again, until it fits. The last turn stays; if it
  alone is too long, the row is dropped.
* `cut_completion`: the tail is cut off. The stop token of the last answer is then not trained, and the
  ledger says for how many rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.core.errors import DataError
from posttrain.core.records import Message, RenderedSample
from posttrain.data.ledger import Ledger

TruncationPolicy = Literal["refuse", "drop", "cut_oldest_turn", "cut_completion"]
TOO_LONG = "too many tokens"


def is_trained(sample: RenderedSample) -> bool:
    """Return whether anything in a sample is trained on; the first token has nothing that it could follow."""
    return bool(sample.is_trainable_T[1:].any())


def cut_oldest_turn(messages: list[Message], first_trained: int) -> tuple[list[Message], int] | None:
    """Return a conversation without its oldest turn, or None if only one turn is left.

    Args:
        messages: The conversation; a leading system message stays.
        first_trained: Index of the first message that may be trained on.

    Returns:
        The shorter conversation, and the index in it of the first message that may be trained on.
    """
    start = 1 if messages and messages[0]["role"] == "system" else 0
    users = [index for index, message in enumerate(messages) if message["role"] == "user" and index > start]
    if not users:
        return None
    num_cut = users[0] - start
    kept_first = first_trained if first_trained <= start else max(start, first_trained - num_cut)
    return messages[:start] + messages[users[0] :], kept_first


def cut_completion(sample: RenderedSample, max_length: int) -> tuple[RenderedSample, bool]:
    """Return the first `max_length` tokens of a sample, and whether its last trained token was cut off."""
    kept = RenderedSample(sample.ids_T[:max_length], sample.sources_T[:max_length], sample.is_trainable_T[:max_length])
    return kept, bool(sample.is_trainable_T[max_length:].any())


def split_document(sample: RenderedSample, max_length: int) -> list[RenderedSample]:
    """Return a document in pieces of at most `max_length` tokens that, laid end to end, are the document.

    All pieces but the last two are full. A last piece of one token would have nothing to predict, so
    the piece before it gives it one of its own.

    Args:
        sample: The document's tokens.
        max_length: Tokens of a piece, at least 3.
    """
    num_tokens = len(sample.ids_T)
    edges = [*range(0, num_tokens, max_length), num_tokens]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        edges[-2] -= 1
    return [
        RenderedSample(sample.ids_T[a:b], sample.sources_T[a:b], sample.is_trainable_T[a:b])
        for a, b in itertools.pairwise(edges)
    ]


@dataclass(frozen=True, slots=True)
class TooLongRows:
    """The rows of a source that have more tokens than may be trained on.

    Made by `find_too_long`, read by the check below and by preflight. `longest` is the most tokens of any that the
    ledger lists by id (it lists the first few), 0 where none is too long.

    Example: of 400 rows, four of 574 to 580 tokens under a limit of 512: `TooLongRows(4, 2311, 580, ...)`.
    """

    num_rows: int
    num_tokens: int
    longest: int
    listed: list[dict[str, Any]]


def find_too_long(ledger: Ledger) -> TooLongRows:
    """Return the rows that `refuse` and `drop` leave out, in whole or in part, because of their length."""
    entries = [part[name] for part, name in ((ledger.dropped, TOO_LONG), (ledger.shortened, "drop")) if name in part]
    listed = [row for entry in entries for row in entry.listed]
    return TooLongRows(
        num_rows=sum(entry.rows for entry in entries),
        num_tokens=sum(entry.tokens for entry in entries),
        longest=max((int(row["tokens_lost"]) for row in listed), default=0),
        listed=listed,
    )


def check_affected(ledger: Ledger, policy: TruncationPolicy, max_length: int | None, max_fraction: float) -> None:
    """Check that the rows that are too long are few enough to be dropped without asking.

    Raises:
        DataError: The policy is `refuse` and more than `max_fraction` of the rows are too long.
    """
    found = find_too_long(ledger)
    if policy != "refuse" or found.num_rows <= max_fraction * ledger.rows_in:
        return
    shown = ", ".join(f"{row['row_id']} ({row['detail']})" for row in found.listed[:8])
    raise DataError(
        f"{found.num_rows:,} of {ledger.rows_in:,} rows ({found.num_rows / ledger.rows_in:.1%}) have more than "
        f"{max_length:,} tokens; dropping them loses {found.num_tokens:,} tokens: "
        f"{shown}{', ...' if found.num_rows > 8 else ''}",
        expected=f"at most {max_fraction:.1%} of the rows above max_length",
        cure=f"raise max_length (up to {found.longest:,} tokens were found), or choose a truncation policy: "
        "drop, cut_oldest_turn or cut_completion",
    )
