"""Reads a run folder for a report: whatever is there, and a note for whatever is missing or torn.

Nothing in these files is trusted. They may belong to a run in progress, hold half a line, have been
edited by hand, or carry text that a model or a data row chose. So every value passes through
`text_of`, `number_of`, `list_of` or `mapping_of`, no path is built from a value found in a file but from
hashes and task names that are nothing else, and a link that leads out of the run folder is not followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.errors import StorageError
from posttrain.core.run_folder import REWARD_REPORT, STUDY_FIGURES, STUDY_PAGE, RunFolder, StageFolder
from posttrain.reports.item_tables import ItemTable, iterate_lines, read_item_table, say_left_out
from posttrain.reports.raw_values import list_of, mapping_of, number_of, parse_object, text_of
from posttrain.reports.visible_text import cut_text

MAX_TEXT_BYTES = 256 << 10
"""Of a recipe, this much is shown; a recipe that was accepted is never longer."""


BASE = "base"
STOPPED = "stopped"
"""The part of a drawn completion's outcome that says whether it ended by itself: the metric `stop_rate`."""
TEXT_PARTS = ("nats", "tokens", "bytes")
"""The parts of a text's outcome that ratios are made of."""
_STUDY = "best_of_n"
"""The type of stages that study the policy and train nothing."""
_HASH = re.compile(r"[0-9a-f]{32}")
_TASK = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class StageFiles:
    """What one stage left behind.

    Made by `load_run`, read by the report. `entry` is the stage's part of run.json (empty while the
    stage has not been written there), `points` the lines of metrics.jsonl, `rows` those of rows.json, `reward` what
    validation rows say of the reward model that it made, `study` the figures of a study of best-of-n, and
    `study_page` the path of its page inside the run folder.

    Example: folder `01-sft` with 30 logged steps has `index=0`, `name="sft"` and 30 points.
    """

    index: int
    name: str
    entry: dict[str, Any]
    points: list[dict[str, Any]] = field(default_factory=list)
    ledger: dict[str, Any] | None = None
    rows: list[Any] = field(default_factory=list)
    reward: dict[str, Any] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    study_page: str = ""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run folder as read: run.json, the stages, the evaluated items, the recipe, and what is missing.

    `items` holds tables by the label of what was measured (`base`, `sft`, `sft, as trained`) and by task.

    Example: a run that was started a second ago has `stages=[]` and a note that no stage has begun.
    """

    root: Path
    run: dict[str, Any]
    stages: list[StageFiles]
    items: dict[str, dict[str, ItemTable]]
    recipe: str
    resolved: dict[str, Any]
    notes: list[str]

    @property
    def name(self) -> str:
        """The run's name, its folder's where none is recorded."""
        return text_of(self.run.get("name")) or self.root.resolve().name


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
    items = reader.read_all_items(run)
    recipe, resolved = reader.read_recipe(), reader.read_resolved()
    return RunFiles(root, run, stages, items, recipe, resolved, list(dict.fromkeys(reader.notes)))


def label_stage(entry: Mapping[str, Any]) -> str:
    """Return the name under which run.json lists what was measured after a stage: `sft`, or `sft (round 2)`."""
    name, number = text_of(entry.get("name")), number_of(entry.get("round")) or 0.0
    return f"{name} (round {number:.0f})" if number > 1 else name


def remark_stage(entry: Mapping[str, Any]) -> str:
    """Return why what a stage made was not passed on: `rolled back` or `on hold` by its gate; empty if it was."""
    gate = mapping_of(entry.get("gate"))
    remarks = {"roll_back": "rolled back", "hold": "on hold"}
    return "" if gate.get("is_overridden") is True else remarks.get(text_of(gate.get("decision")), "")


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
        name = label_stage(entry) or (folder.name.partition("-")[2] if folder else f"stage {index + 1}")
        if folder is None:
            if text_of(entry.get("status")) not in ("", "pending", "waiting", "planned"):
                self.notes.append(f"Stage {index + 1} ({name}) has written nothing yet.")
            return StageFiles(index, name, entry, ledger=_mapping_or_none(entry.get("ledger")))
        if text_of(entry.get("type")) == _STUDY:
            return self._read_study(index, name, entry)
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
            reward=self._read_reward(entry),
        )

    def _read_reward(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        named = mapping_of(entry.get("outputs")).get("reward_model")
        artifact = "" if named is None else _read_name(named, _HASH)
        return mapping_of(self._read_json(self.files.artifacts / artifact / REWARD_REPORT)) if artifact else {}

    def _read_study(self, index: int, name: str, entry: dict[str, Any]) -> StageFiles:
        """Return a stage that trains nothing: its study, once it is made, and where the page lies."""
        named = mapping_of(entry.get("outputs")).get("evaluation")
        artifact = "" if named is None else _read_name(named, _HASH)
        if not artifact:
            return StageFiles(index, name, entry)
        folder = self.files.artifacts / artifact
        page = folder / STUDY_PAGE
        has_page = page.is_file() and self._is_inside(page)
        study = mapping_of(self._read_json(folder / STUDY_FIGURES))
        return StageFiles(index, name, entry, study=study, study_page=self._name(page) if has_page else "")

    def read_all_items(self, run: Mapping[str, Any]) -> dict[str, dict[str, ItemTable]]:
        """Return the tables of all evaluated items, by what was measured and by task; each file is read once."""
        policies = {BASE: _find_base(run)}
        for entry in map(mapping_of, list_of(run.get("stages"))):
            policies[label_stage(entry)] = mapping_of(entry.get("outputs")).get("policy")
        wanted: dict[str, set[str]] = {}
        for metric in map(mapping_of, list_of(run.get("metrics"))):
            wanted.setdefault(text_of(metric.get("task")), {STOPPED, *TEXT_PARTS}).update(_list_parts(metric))
        tables: dict[Path, ItemTable] = {}
        found: dict[str, dict[str, ItemTable]] = {}
        for label in dict.fromkeys(text_of(mapping_of(metric).get("stage")) for metric in list_of(run.get("metrics"))):
            for task, path in self._find_items(run, label, policies.get(label)).items():
                if path not in tables:
                    tables[path] = self._read_table(path, wanted.get(task, set()))
                found.setdefault(label, {})[task] = tables[path]
        return found

    def _find_items(self, run: Mapping[str, Any], label: str, policy: Any) -> dict[str, Path]:
        """Return by task the files of items that the metrics under a label were computed from.

        Args:
            run: The content of run.json; a metric names its task by content and, where it can, its policy.
            label: `base`, or a stage's.
            policy: The policy of metrics that name none; None if there is none yet.
        """
        found: dict[str, Path] = {}
        for metric in map(mapping_of, list_of(run.get("metrics"))):
            if text_of(metric.get("stage")) != label or metric.get("task_hash") is None:
                continue
            task, task_hash, asked = metric.get("task"), metric.get("task_hash"), metric.get("policy") or policy
            if asked is None:
                continue
            named = _read_name(task, _TASK), _read_name(task_hash, _HASH), _read_name(asked, _HASH)
            if "" in named:
                said = ", ".join(repr(cut_text(text_of(value), 60)[0]) for value in (task, task_hash, asked))
                self.notes.append(f"run.json: no items are looked for under such a task, hash and policy: {said}.")
                continue
            path = self.files.evaluations(named[2]).items(*named[:2])
            if found.setdefault(named[0], path) != path:
                self.notes.append(
                    f"run.json: {task} was measured in two ways after {label}; the items of the first stand."
                )
        return found

    def _read_table(self, path: Path, wanted: set[str]) -> ItemTable:
        name = self._name(path)
        if not path.is_file() or not self._is_inside(path):
            self.notes.append(f"{name} is not there yet.")
            return ItemTable(path)
        return read_item_table(path, sorted(wanted), lambda said: self.notes.append(f"{name}: {said}"))

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
        for _, line, is_whole in iterate_lines(path):
            value = parse_object(line)
            if value is not None:
                values.append(value)
            elif is_whole:
                num_bad += 1
            else:
                is_torn = True
        say_left_out(num_bad, is_torn, lambda said: self.notes.append(f"{self._name(path)}: {said}"))
        return values

    def _is_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a loop of links
            return False

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _read_name(value: Any, pattern: re.Pattern[str]) -> str:
    """Return a value that is a name and nothing else, so that a path may be built from it; empty otherwise."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""


def _find_base(run: Mapping[str, Any]) -> Any:
    """Return the hash of the policy that the run began with, or None."""
    artifacts = map(mapping_of, list_of(run.get("artifacts")))
    return next((artifact.get("hash") for artifact in artifacts if artifact.get("stage") == BASE), None)


def _list_parts(metric: Mapping[str, Any]) -> set[str]:
    """Return which parts of a task's items a report speaks of: its metrics, and the components of a weighted scorer."""
    components = list_of(mapping_of(mapping_of(metric.get("settings")).get("scorer")).get("components"))
    names = [metric.get("name"), *(mapping_of(component).get("name") for component in components)]
    return {name for name in names if isinstance(name, str)}


def _mapping_or_none(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and value else None
