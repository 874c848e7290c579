"""The ledger of data: every row in is trained on or dropped with a reason, every token kept or lost.

    rows in   = rows trained + rows dropped, summed over reasons
    tokens in = tokens kept + tokens lost

Counts are exact; row ids are listed up to a cap, so that a ledger stays small however large the data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from posttrain.core.errors import DataError

MAX_LISTED = 20
"""Rows that are listed by id for each reason."""

DropKind = Literal["bad", "length", "empty", "contaminated", "curated", "left_out"]


@dataclass(slots=True)
class LossEntry:
    """Rows that lost something for one reason.

    `kind` says what a row of this reason is: `bad` (unreadable or meaningless, held against
    `max_bad_fraction`), `length` (too many tokens, held against the truncation policy), `empty` (nothing
    in it is trained on), `contaminated` (it holds an evaluation item),
    `curated` (a filter of a curation strikes it), `left_out` (the rule of a published form: a tie).
    `listed` holds the first rows: id, tokens lost, detail.
    """

    kind: DropKind
    rows: int = 0
    tokens: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row_id: str, tokens: int, detail: str) -> None:
        """Count one row, and list it while there is room."""
        self.rows += 1
        self.tokens += tokens
        if len(self.listed) < MAX_LISTED:
            self.listed.append({"row_id": row_id, "tokens_lost": tokens, "detail": detail})


@dataclass(slots=True)
class Ledger:
    """What became of every row and token.

    Made while rows are read and tokenized, read by stages, the report and the gate. `dropped` is by
    reason; `shortened` is by truncation policy and holds rows that are trained on in part;
    `stops_cut` counts rows whose last stop token was cut off, so that the model is not taught to stop
    there. A row may become several samples when a template rewrites history.

    Example: 10 rows in, one of them not JSON and one cut by `cut_completion` from 90 to 64 tokens:
    `rows_in=10, rows_trained=9, dropped={"not JSON": 1 row}, shortened={"cut_completion": 1 row, 26 tokens}`.
    """

    rows_in: int = 0
    rows_trained: int = 0
    samples: int = 0
    tokens_in: int = 0
    tokens_kept: int = 0
    tokens_trained: int = 0
    stops_cut: int = 0
    dropped: dict[str, LossEntry] = field(default_factory=dict)
    shortened: dict[str, LossEntry] = field(default_factory=dict)

    def drop(self, row_id: str, reason: str, *, kind: DropKind, tokens: int = 0, detail: str = "") -> None:
        """Count one row as dropped; `tokens` of it had been rendered."""
        self.tokens_in += tokens
        self.dropped.setdefault(reason, LossEntry(kind)).add(row_id, tokens, detail)

    def train(self, *, samples: int, tokens: int, tokens_trained: int) -> None:
        """Count one row as trained on, with what is kept of it."""
        self.rows_trained += 1
        self.samples += samples
        self.tokens_in += tokens
        self.tokens_kept += tokens
        self.tokens_trained += tokens_trained

    def shorten(self, row_id: str, policy: str, *, tokens: int, detail: str = "", is_stop_cut: bool = False) -> None:
        """Count what a trained row lost to a truncation policy."""
        self.tokens_in += tokens
        self.stops_cut += is_stop_cut
        self.shortened.setdefault(policy, LossEntry("length")).add(row_id, tokens, detail)

    @property
    def rows_dropped(self) -> int:
        """Rows dropped, for whatever reason."""
        return sum(entry.rows for entry in self.dropped.values())

    @property
    def rows_bad(self) -> int:
        """Rows dropped because they could not be read or understood."""
        return sum(entry.rows for entry in self.dropped.values() if entry.kind == "bad")

    @property
    def tokens_lost(self) -> int:
        """Tokens of dropped rows and of the cut parts of others."""
        return sum(entry.tokens for entry in (*self.dropped.values(), *self.shortened.values()))

    def check_balance(self) -> None:
        """Check that nothing is unaccounted for.

        Raises:
            DataError: Rows or tokens are missing from the account, which is an error of this program.
        """
        sums = {
            "rows": (self.rows_in, self.rows_trained + self.rows_dropped),
            "tokens": (self.tokens_in, self.tokens_kept + self.tokens_lost),
        }
        for what, (found, expected) in sums.items():
            if found != expected:
                raise DataError(
                    f"the ledger does not balance: {found:,} {what} in, {expected:,} accounted for",
                    expected="every row and token trained on or dropped with a reason",
                    cure="this is an error of posttrain, not of the data: please report it with this ledger",
                )

    def merge(self, other: Ledger) -> None:
        """Add another ledger to this one."""
        for name in ("rows_in", "rows_trained", "samples", "tokens_in", "tokens_kept", "tokens_trained", "stops_cut"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.dropped, other.dropped), (self.shortened, other.shortened)):
            for reason, entry in theirs.items():
                sums = mine.setdefault(reason, LossEntry(entry.kind))
                sums.rows += entry.rows
                sums.tokens += entry.tokens
                sums.listed += entry.listed[: MAX_LISTED - len(sums.listed)]

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as JSON-like values, sums included."""
        return {**asdict(self), "rows_dropped": self.rows_dropped, "tokens_lost": self.tokens_lost}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Ledger:
        """Return the ledger that `to_json` wrote."""
        counts = {key: value for key, value in values.items() if key not in ("rows_dropped", "tokens_lost")}
        for part in ("dropped", "shortened"):
            counts[part] = {reason: LossEntry(**entry) for reason, entry in counts[part].items()}
        return cls(**counts)

    def describe(self) -> list[str]:
        """Return the ledger as plain lines for a terminal."""
        lines = [
            f"rows: {self.rows_in:,} in, {self.rows_trained:,} trained on, {self.rows_dropped:,} dropped",
            f"tokens: {self.tokens_in:,} in, {self.tokens_kept:,} kept ({self.tokens_trained:,} trained on), "
            f"{self.tokens_lost:,} lost",
        ]
        for title, part in (("dropped", self.dropped), ("shortened", self.shortened)):
            for reason, entry in sorted(part.items(), key=lambda item: (-item[1].rows, item[0])):
                ids = ", ".join(row["row_id"] for row in entry.listed[:3])
                rest = ", ..." if entry.rows > 3 else ""
                lines.append(f"{title} ({reason}): {entry.rows:,} rows, {entry.tokens:,} tokens: {ids}{rest}")
        if self.stops_cut:
            lines.append(f"{self.stops_cut:,} rows lost their stop token: the model is not taught to stop there")
        return lines
