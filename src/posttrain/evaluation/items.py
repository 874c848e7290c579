"""Item files: one JSON line for each evaluated item, appended as items are scored.

A crash can tear the last line only; it is left out when the file is read, and its item is evaluated
again. Files are read a line at a time: what is kept of an item is up to the reader.
"""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from posttrain.core.durable import append_lines, storage_errors, write_lines
from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_text
from posttrain.core.records import ItemResult, Outcome

ItemKey = tuple[str, int]
"""What names an item in a file: the problem's id and the number of the sample."""
_STATUSES: tuple[str, ...] = get_args(get_type_hints(Outcome)["status"])


def format_item(item: ItemResult) -> str:
    """Return an item as one line of JSON; an outcome without an answer says nothing of one, nor one turn of others."""
    values = dataclasses.asdict(item)
    if not item.transcript:
        del values["transcript"]
    if item.outcome.answer is None:
        del values["outcome"]["answer"]
    return json.dumps(values, allow_nan=False)


def parse_item(line: str) -> ItemResult:
    """Return the item of a line.

    Raises:
        ValueError: The line is not an item (a torn one, say).
    """
    try:
        values: dict[str, Any] = json.loads(line)
        outcome = Outcome(**values.pop("outcome"))
        item = ItemResult(**values, outcome=outcome)
    except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"not an item: {error}") from None
    _check_types(item)
    return item


def _check_types(item: ItemResult) -> None:
    """Check what JSON may hold in place of an item's fields.

    Raises:
        ValueError: A field has another type, a number is not finite, or a status or fault is unknown.
    """
    outcome = item.outcome
    texts = (item.item_id, item.cluster_id, item.task_hash, item.policy_hash, item.text, item.reference, outcome.why)
    is_usable = {
        "a text": all(isinstance(text, str) for text in texts) and isinstance(outcome.answer, str | None),
        "'sample_index'": type(item.sample_index) is int and item.sample_index >= 0,
        "'prompt'": _is_conversation(item.prompt),
        "'transcript'": _is_conversation(item.transcript),
        "'status'": outcome.status in _STATUSES,
        "'fault'": outcome.fault in (None, "policy", "harness"),
        "'value'": _is_number(outcome.value),
        "'parts'": isinstance(outcome.parts, dict) and all(map(_is_number, outcome.parts.values())),
    }
    wrong = [name for name, is_right in is_usable.items() if not is_right]
    if wrong:
        raise ValueError(f"not an item: {wrong[0]} of it cannot be used")


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(message, dict) for message in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def iterate_items(path: Path) -> Iterator[ItemResult]:
    """Yield the items of a file, in its order; a torn last line is left out, a missing file holds none.

    Raises:
        StorageError: A line before the last is not an item, or the file cannot be read.
    """
    for number, (line, _) in enumerate(_iterate_lines(path), start=1):
        try:
            yield parse_item(line.decode("utf-8"))
        except ValueError as error:
            raise StorageError(
                str(error),
                expected="one evaluated item as JSON",
                cure="delete the file and run the same command again: the task is evaluated anew",
                place=f"{path}:{number}",
            ) from None


def read_items(path: Path) -> list[ItemResult]:
    """Return the items of a file (`iterate_items`)."""
    return list(iterate_items(path))


def drop_texts(item: ItemResult) -> ItemResult:
    """Return an item without its texts, which is all that figures are made of.

    Where no scorer named its answer, the hash of the text votes in its place.
    """
    outcome = item.outcome
    if outcome.answer is None and outcome.status == "scored":
        outcome = dataclasses.replace(outcome, answer=hash_text(item.text.strip()))
    return dataclasses.replace(item, text="", prompt=[], reference="", transcript=[], outcome=outcome)


def item_key(item: ItemResult) -> ItemKey:
    """Return what names an item in its file."""
    return item.item_id, item.sample_index


def write_items(path: Path, items: Iterable[ItemResult]) -> None:
    """Replace a file's items at once, durably."""
    write_lines(path, map(format_item, items))


def append_items(path: Path, items: Iterable[ItemResult]) -> None:
    """Add items to the end of a file that has no torn line."""
    append_lines(path, map(format_item, items))


def keep_items(path: Path, find_rank: Callable[[ItemResult], int | None]) -> None:
    """Bring a file's items into the order of their ranks, durably; a file that is so already is not written.

    Those without a rank are dropped, and so are a torn last line and every item whose rank stands before it.

    Raises:
        StorageError: As `iterate_items`; or the file cannot be written.
    """
    ranks, starts, lengths = array("q"), array("q"), array("q")
    for item, (line, start) in zip(iterate_items(path), _iterate_lines(path), strict=False):
        if (rank := find_rank(item)) is not None:
            ranks.append(rank)
            starts.append(start)
            lengths.append(len(line))
    # The first place of each rank, in the order of the ranks.
    _, chosen = np.unique(np.array(ranks, dtype=np.int64), return_index=True)
    begins, sizes = np.array(starts, dtype=np.int64)[chosen], np.array(lengths, dtype=np.int64)[chosen]
    # Each line begins where the one before ended, and after the last there is nothing.
    ends = np.concatenate([[0], begins + sizes + 1])
    if np.array_equal(begins, ends[:-1]) and ends[-1] == (path.stat().st_size if path.exists() else 0):
        return

    def lines() -> Iterator[str]:
        with path.open("rb") as file:
            for start, length in zip(begins.tolist(), sizes.tolist(), strict=True):
                file.seek(start)
                yield file.read(length).decode("utf-8")

    write_lines(path, lines())


def _iterate_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines without their newline, with the byte that each starts at."""
    if not path.exists():
        return
    start = 0
    with storage_errors(path), path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn, or nothing
            yield line[:-1], start
            start += len(line)
