"""Item files: one JSON line for each evaluated item, appended as items are scored.

A crash can tear the last line only; it is left out when the file is read, and its item is evaluated
again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain.core.durable import append_line, storage_errors, write_text
from posttrain.core.errors import StorageError
from posttrain.core.records import ItemResult, Outcome


def format_item(item: ItemResult) -> str:
    """Return an item as one line of JSON."""
    return json.dumps(dataclasses.asdict(item), allow_nan=False)


def parse_item(line: str) -> ItemResult:
    """Return the item of a line.

    Raises:
        ValueError: The line is not an item (a torn one, say).
    """
    try:
        values: dict[str, Any] = json.loads(line)
        outcome = Outcome(**values.pop("outcome"))
        return ItemResult(**values, outcome=outcome)
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not an item: {error}") from None


def read_items(path: Path) -> list[ItemResult]:
    """Return the items of a file, in its order; a torn last line is left out, a missing file holds none.

    Raises:
        StorageError: A line before the last is not an item, or the file cannot be read.
    """
    with storage_errors(path):
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    items = []
    # A whole line ends with a newline, so what follows the last newline is torn, or nothing.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            items.append(parse_item(line.decode("utf-8")))
        except ValueError as error:
            raise StorageError(
                str(error),
                expected="one evaluated item as JSON",
                cure="delete the file and run the same command again: the task is evaluated anew",
                place=f"{path}:{number}",
            ) from None
    return items


def write_items(path: Path, items: Iterable[ItemResult]) -> None:
    """Replace a file's items at once, durably."""
    write_text(path, "".join(format_item(item) + "\n" for item in items))


def append_items(path: Path, items: Iterable[ItemResult]) -> None:
    """Add items to the end of a file that has no torn line."""
    for item in items:
        append_line(path, format_item(item))
