"""Reads a run folder for a report: whatever is there, and a note for whatever is missing or torn.

Nothing in these files is trusted. They may belong to a run in progress, hold half a line, have been
edited by hand, or carry text that a model or a data row chose. So every value passes through
`text_of`, `number_of`, `list_of` or `mapping_of`, no path is built from a value found in a file, and
a link that leads out of the run folder is not followed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.errors import StorageError
from posttrain.core.run_folder import RunFolder, StageFolder

MAX_LINE_BYTES = 4 << 20
"""A longer JSON line is skipped with a note: one completion is never this long."""

MAX_TEXT_BYTES = 256 << 10
"""Of a recipe, this much is shown; a recipe that was accepted is never longer."""


LARGEST = 1e300
"""Beyond it, the difference of two values has no width a float can hold."""


@dataclass(frozen=True, slots=True)
class StageFiles:
    """What one stage left behind.

    Made by `load_run`, read by the report. `entry` is the stage's part of run.json (empty while the
    stage has not been written there), `points` the lines of metrics.jsonl, `rows` those of rows.json,
    `items` the evaluated items by task.

    Example: folder `01-sft` with 30 logged steps has `index=0`, `name="sft"` and 30 points.
    """

    index: int
    name: str
    entry: dict[str, Any]
    points: list[dict[str, Any]] = field(default_factory=list)
    ledger: dict[str, Any] | None = None
    rows: list[Any] = field(default_factory=list)
    items: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run folder as read: run.json, the stages, the items of the base, the recipe, and what is missing.

    Example: a run that was started a second ago has `stages=[]` and a note that no stage has begun.
    """

    root: Path
    run: dict[str, Any]
    stages: list[StageFiles]
    base_items: dict[str, list[dict[str, Any]]]
    recipe: str
    resolved: dict[str, Any]
    notes: list[str]


def load_run(root: Path) -> RunFiles:
    """Return everything readable in a run folder.

    Args:
        root: The run folder, the one that holds run.json.

    Raises:
        StorageError: run.json is missing, torn, or not an object; every other gap becomes a note.
    """
    reader = _Reader(root)
    run = reader.read_run()
    entries = [mapping_of(entry) for entry in list_of(run.get("stages"))]
    folders = reader.find_stage_folders()
    stages = [
        reader.read_stage(index, folders.get(index), entries[index] if index < len(entries) else {})
        for index in sorted({*range(len(entries)), *folders})
    ]
    if not stages:
        reader.notes.append("No stage has begun.")
    base_items = reader.read_items(root / "base")
    return RunFiles(root, run, stages, base_items, reader.read_recipe(), reader.read_resolved(), reader.notes)


def text_of(value: Any) -> str:
    """Return a scalar as text; an absent value is empty, a structure is its JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def number_of(value: Any) -> float | None:
    """Return a finite float, or None for everything else (text, booleans, NaN, infinity, giants)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None


def list_of(value: Any) -> list[Any]:
    """Return a list as it is, and an empty one for everything else."""
    return value if isinstance(value, list) else []


def mapping_of(value: Any) -> dict[str, Any]:
    """Return a mapping as it is, and an empty one for everything else."""
    return value if isinstance(value, dict) else {}


class _Reader:
    """Reads the files of one run folder and collects a note for each that is missing, torn or strange."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = RunFolder(root)
        self.notes: list[str] = []

    def read_run(self) -> dict[str, Any]:
        path = self.files.run_json
        if not path.is_file():
            raise StorageError(
                "there is no run.json here",
                expected="the folder of a run that was started with `posttrain run`",
                cure="name the run's own folder (runs/<name>), or start the run first",
                place=str(self.root),
            )
        try:
            run = json.loads(path.read_bytes().decode("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StorageError(
                f"run.json cannot be read: {error}",
                expected="the JSON file that `posttrain run` writes",
                cure="start the same run again: it resumes and writes run.json anew",
                place=str(path),
            ) from error
        if not isinstance(run, dict):
            raise StorageError(
                f"run.json holds a {type(run).__name__}",
                expected="a JSON object",
                cure="start the same run again: it resumes and writes run.json anew",
                place=str(path),
            )
        return run

    def find_stage_folders(self) -> dict[int, Path]:
        """Return the folders `stages/NN-name` by stage index (counted from 0)."""
        found: dict[int, Path] = {}
        parent = self.files.stage(0, "any").root.parent
        for path in sorted(parent.iterdir()) if parent.is_dir() else []:
            match = re.match(r"(\d{2,4})-", path.name)
            if match and int(match[1]) > 0 and path.is_dir() and self._is_inside(path):
                found.setdefault(int(match[1]) - 1, path)
        return found

    def read_stage(self, index: int, folder: Path | None, entry: dict[str, Any]) -> StageFiles:
        name = text_of(entry.get("name")) or (folder.name.partition("-")[2] if folder else f"stage {index + 1}")
        if folder is None:
            if text_of(entry.get("status")) not in ("", "pending", "waiting", "planned"):
                self.notes.append(f"Stage {index + 1} ({name}) has written nothing yet.")
            return StageFiles(index, name, entry, ledger=_mapping_or_none(entry.get("ledger")))
        files = StageFolder(folder)
        ledger = self._read_json(files.ledger)
        rows = self._read_json(files.preview)
        return StageFiles(
            index,
            name,
            entry,
            points=self._read_lines(files.metrics),
            ledger=_mapping_or_none(ledger) or _mapping_or_none(entry.get("ledger")),
            rows=list_of(rows),
            items=self.read_items(folder),
        )

    def read_items(self, folder: Path) -> dict[str, list[dict[str, Any]]]:
        """Return the evaluated items below a stage's (or the base's) folder, by task."""
        parent = StageFolder(folder).items("any").parent
        paths = sorted(parent.glob("*.jsonl")) if parent.is_dir() else []
        return {path.stem: self._read_lines(path) for path in paths}

    def read_recipe(self) -> str:
        path = self.files.recipe
        if not path.is_file() or not self._is_inside(path):
            self.notes.append("recipe.yaml is missing.")
            return ""
        with path.open("rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")

    def read_resolved(self) -> dict[str, Any]:
        """Return the recipe as understood, empty where there is none: nothing but the model's name is read from it."""
        return mapping_of(self._read_json(self.files.resolved)) if self.files.resolved.is_file() else {}

    def _read_json(self, path: Path) -> Any:
        if not path.is_file() or not self._is_inside(path):
            self.notes.append(f"{self._name(path)} is not there yet.")
            return None
        try:
            return json.loads(path.read_bytes().decode("utf-8"))
        except (OSError, ValueError, RecursionError):
            self.notes.append(f"{self._name(path)} is torn or not JSON; it is left out.")
            return None

    def _read_lines(self, path: Path) -> list[dict[str, Any]]:
        if not path.is_file() or not self._is_inside(path):
            self.notes.append(f"{self._name(path)} is not there yet.")
            return []
        values, num_bad, is_torn = [], 0, False
        for line, is_whole in _iterate_lines(path):
            value = _parse_object(line)
            if value is not None:
                values.append(value)
            elif is_whole:
                num_bad += 1
            else:
                is_torn = True
        if num_bad:
            self.notes.append(f"{self._name(path)}: {num_bad} unreadable line{'s' * (num_bad > 1)} left out.")
        if is_torn:
            self.notes.append(f"{self._name(path)}: the last line is half written and left out.")
        return values

    def _is_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a loop of links
            return False

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _iterate_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a file, and whether each was ended by a newline; an over-long line comes as b""."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            is_whole = line.endswith(b"\n")
            if not is_whole and len(line) == MAX_LINE_BYTES:
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield b"", True
            elif line.strip():
                yield line, is_whole


def _parse_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _mapping_or_none(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and value else None
