"""Evaluated items as columns of numbers: a file is read once, line by line, and no text of it is kept.

Of each item a table keeps what it counts for, the parts that are asked for, and where its line begins; the few items
that a report shows are read again from there. So a report of a run with a hundred thousand answers fits in memory.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError
from posttrain.reports.raw_values import mapping_of, number_of, parse_object
from posttrain.statistics.pairing import Pairs, build_pairs
from posttrain.statistics.pass_at_k import compute_pass_at_k

MAX_LINE_BYTES = 4 << 20
"""A longer JSON line is skipped with a note: one completion is never this long."""
MAX_ITEMS = 300_000
"""Of a longer file the first so many items are read, and a note says so."""

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(slots=True)
class ItemTable:
    """The items of one policy on one task.

    Made by `read_item_table`, read by everything in a report that speaks of items. `values` are NaN where an item does
    not count (the harness failed, or the scorer does not apply), and `parts` where its outcome has none of that name.

    Example: 200 answers of which 3 were cut off: `len(table) == 200`, and three of `is_failure` are true.
    """

    path: Path
    places: dict[bytes, int] = field(default_factory=dict)
    values: array[float] = field(default_factory=lambda: array("d"))
    is_failure: array[int] = field(default_factory=lambda: array("b"))
    applies: array[int] = field(default_factory=lambda: array("b"))
    parts: dict[str, array[float]] = field(default_factory=dict)
    clusters: array[int] = field(default_factory=lambda: array("q"))
    problems: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.values)

    def read_values(self, part: str | None = None) -> Floats:
        """Return what each item counts for, NaN where it does not; of a part, a failure's declared value stands in."""
        values = np.array(self.values, dtype=np.float64)
        if part is None:
            return values
        read = np.array(self.parts[part], dtype=np.float64)
        stands_in = np.isnan(read) & np.array(self.is_failure, dtype=bool)
        return np.where(np.isnan(values), np.nan, np.where(stands_in, values, read))

    def has_part(self, part: str) -> bool:
        """Return whether the outcome of any item has a part."""
        return not all(map(math.isnan, self.parts.get(part, ())))

    def read_part(self, part: str) -> tuple[Floats, Codes]:
        """Return the values of a part of the items that have it, and their clusters."""
        read = np.array(self.parts.get(part, array("d")), dtype=np.float64)
        is_there = ~np.isnan(read) & ~np.isnan(np.array(self.values, dtype=np.float64)) if read.size else np.zeros(0)
        kept = is_there.astype(bool)
        return read[kept], np.array(self.clusters, dtype=np.int64)[: read.size][kept]

    def read_item(self, place: int) -> dict[str, Any]:
        """Return an item with its texts, read again from its line; empty if the file has changed since."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offsets[place])
                return parse_object(file.readline(MAX_LINE_BYTES)) or {}
        except OSError:
            return {}

    def add(self, item: Mapping[str, Any], offset: int, wanted: Collection[str], codes: Codebook) -> None:
        """Add an item's numbers; of an item that stands twice the first counts."""
        key = hash_item(item)
        if key in self.places:
            return
        outcome = mapping_of(item.get("outcome"))
        value = read_value(item)
        self.places[key] = len(self.values)
        self.values.append(math.nan if value is None else value)
        self.is_failure.append(outcome.get("fault") == "policy")
        self.applies.append(outcome.get("status") != "not_applicable")
        parts = mapping_of(outcome.get("parts"))
        for name in wanted:
            number = number_of(parts.get(name))
            self.parts.setdefault(name, array("d")).append(math.nan if number is None else number)
        problem = _digest(item.get("item_id"))
        cluster = _digest(item["cluster_id"]) if item.get("cluster_id") else b"item" + problem
        self.problems.append(codes.problems.setdefault(problem, len(codes.problems)))
        self.clusters.append(codes.clusters.setdefault(cluster, len(codes.clusters)))
        self.offsets.append(offset)


@dataclass(slots=True)
class Codebook:
    """The numbers that problems and clusters were given, for as long as a file is read."""

    problems: dict[bytes, int] = field(default_factory=dict)
    clusters: dict[bytes, int] = field(default_factory=dict)


def read_item_table(path: Path, wanted: Collection[str], say: Callable[[str], None]) -> ItemTable:
    """Return the table of an item file.

    Args:
        path: One JSON object a line.
        wanted: Names of the parts that are kept.
        say: Is told what was left out.
    """
    table, codes, num_bad, is_torn = ItemTable(path), Codebook(), 0, False
    for offset, line, is_whole in iterate_lines(path):
        item = parse_object(line)
        if item is None:
            num_bad += is_whole
            is_torn = is_torn or not is_whole
        elif len(table) < MAX_ITEMS:
            table.add(item, offset, wanted, codes)
        else:
            say(f"more than {MAX_ITEMS:,} items; those beyond are left out.")
            break
    say_left_out(num_bad, is_torn, say)
    return table


def say_left_out(num_bad: int, is_torn: bool, say: Callable[[str], None]) -> None:
    """Say how many lines of a file could not be read."""
    if num_bad:
        say(f"{num_bad} unreadable line{'s' * (num_bad > 1)} left out.")
    if is_torn:
        say("the last line is half written and left out.")


def read_value(item: Mapping[str, Any]) -> float | None:
    """Return an item's value, or None where the harness failed or the scorer does not apply: that is no score."""
    outcome = mapping_of(item.get("outcome"))
    is_left_out = outcome.get("fault") == "harness" or outcome.get("status") == "not_applicable"
    return None if is_left_out else number_of(outcome.get("value"))


def match_items(before: ItemTable, after: ItemTable) -> tuple[Codes, Codes]:
    """Return the places of the items that both tables hold, in the order of `after`."""
    both = [(before.places[key], place) for key, place in after.places.items() if key in before.places]
    places = np.array(both, dtype=np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def pair_tables(before: ItemTable, after: ItemTable, part: str | None = None) -> Pairs | None:
    """Return the pairs of two tables, None unless both hold the same items and some of them count on both sides."""
    if not before.places or before.places.keys() != after.places.keys():
        return None
    first, second = match_items(before, after)
    x, y = before.read_values(part)[first], after.read_values(part)[second]
    counts = ~np.isnan(x) & ~np.isnan(y)
    if not counts.any():
        return None
    clusters = np.array(before.clusters, dtype=np.int64)[first][counts]
    try:
        return build_pairs(x[counts], y[counts], clusters)
    except DataError:
        return None


def compute_problem_passes(table: ItemTable, k: int, *, at_least: int = 1) -> tuple[Floats, Codes]:
    """Return pass@k of each problem that has enough samples which count, and the problems' clusters.

    Args:
        table: All samples of a task.
        k: Samples that may be drawn, at least 1.
        at_least: A problem with fewer samples than this, or than k, is left out.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1 (`statistics.pass_at_k`).
    """
    values, problems = table.read_values(), np.array(table.problems, dtype=np.int64)
    counted = ~np.isnan(values)
    num_problems = int(problems.max(initial=-1)) + 1
    num_samples = np.bincount(problems[counted], minlength=num_problems)
    num_right = np.bincount(problems[counted], values[counted] >= 1.0, minlength=num_problems)
    cluster_of = np.zeros(num_problems, dtype=np.int64)
    cluster_of[problems] = np.array(table.clusters, dtype=np.int64)
    asked = np.flatnonzero(num_samples >= max(k, at_least))
    passes = [compute_pass_at_k(int(num_samples[index]), int(num_right[index]), k) for index in asked]
    return np.array(passes, dtype=np.float64), cluster_of[asked]


def hash_item(item: Mapping[str, Any]) -> bytes:
    """Return what names an item among others: of its id and the number of its sample."""
    return _digest([item.get("item_id"), item.get("sample_index")])


def iterate_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the lines of a file with their offsets, and whether each was ended; an over-long line comes as b""."""
    offset = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            start, is_whole = offset, line.endswith(b"\n")
            offset += len(line)
            if not is_whole and len(line) == MAX_LINE_BYTES:
                while rest := file.readline(MAX_LINE_BYTES):
                    offset += len(rest)
                    if rest.endswith(b"\n"):
                        break
                yield start, b"", True
            elif line.strip():
                yield start, line, is_whole


def _digest(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
