"""Suites of behaviours as files: descriptions, the lab's rows by rule, tasks for `posttrain eval`, what came of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from posttrain.core.config import parse_config, suggest
from posttrain.core.durable import storage_errors, write_json, write_lines, write_text
from posttrain.core.errors import RecipeError
from posttrain.evaluation.behaviours.description import Behaviour
from posttrain.evaluation.behaviours.rows import (
    BehaviourRow,
    build_choice_rows,
    build_label_rows,
    read_published,
    to_published,
)
from posttrain.evaluation.behaviours.selecting import Account
from posttrain.lab.behaviours import NAME as LAB_NAME
from posttrain.lab.behaviours import generate_truth_questions
from posttrain.lab.world import WORLD_SEED, build_world
from posttrain.pipeline.yaml_reader import read_file, read_yaml

_SUFFIXES = (".yaml", ".yml")
_LAB_SPLIT = "held_out"


@dataclass(frozen=True, slots=True)
class BehaviourReport:
    """What came of the writing. Made by `write_behaviours`, printed by the command line."""

    out: str
    name: str
    form: str
    wanted: int
    labels: dict[str, int]
    prompts: int
    account: dict[str, Any]
    lines: list[str]
    threshold: float | None
    separation: float | None
    mean_confidence: float | None
    notes: list[str]

    @property
    def num_rows(self) -> int:
        """Rows in the file."""
        return sum(self.labels.values())

    @property
    def is_complete(self) -> bool:
        """Whether as many rows as were wanted were found."""
        return self.num_rows == self.wanted

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        names = [name for name in self.__slots__ if name != "lines"]
        return {**{name: getattr(self, name) for name in names}, "rows": self.num_rows, "complete": self.is_complete}

    def describe(self) -> list[str]:
        """Return it as plain lines."""
        labels = ", ".join(f"{count:,} {label}" for label, count in self.labels.items())
        lines = [f"{self.out}: {self.num_rows:,} of {self.wanted:,} rows ({labels})", *self.lines]
        if self.mean_confidence is not None:
            told = "" if self.separation is None else f", labels told apart {self.separation:.2f} (a coin: 0.50)"
            lines.append(f"filter: mean confidence in the label {self.mean_confidence:.2f}{told}")
        return [*lines, *(f"note: {note}" for note in self.notes)]


def count_labels(form: str, rows: list[BehaviourRow]) -> dict[str, int]:
    """Return how many rows have which matching answer."""
    found = Counter(row.label for row in rows)
    return {label: found[label] for label in (("Yes", "No") if form == "yes_no" else ("(A)", "(B)"))}


def list_behaviours() -> list[str]:
    """Return the names of the descriptions that come with the package."""
    return sorted(Path(item.name).stem for item in _shipped().iterdir() if item.name.endswith(_SUFFIXES))


def read_behaviour(name: str) -> Behaviour:
    """Return a behaviour: one that comes with the package, by name, or that of a YAML file.

    Raises:
        RecipeError: There is no such description, or it cannot be used.
    """
    known = list_behaviours()
    path = Path(str(_shipped() / f"{name}.yaml")) if name in known else Path(name)
    if name not in known and not name.endswith(_SUFFIXES):
        raise RecipeError(
            f"no behaviour is called '{name}'",
            expected=f"a YAML file, or one of {', '.join([*known, 'lab'])}",
            cure=suggest(name, [*known, "lab"]),
            place="DESCRIPTION",
        )
    values, _ = read_yaml(read_file(path), str(path))
    behaviour: Behaviour = parse_config(Behaviour, values, place=str(path))
    return behaviour


def _shipped() -> Any:
    return files("posttrain.evaluation.behaviours")


def save_rows(path: Path, rows: list[BehaviourRow]) -> None:
    """Write rows in the published form."""
    write_lines(path, [json.dumps(to_published(row), ensure_ascii=False) for row in rows])


def write_lab_behaviours(num_rows: int, out: Path) -> BehaviourReport:
    """Write questions about the lab's held-out facts, whose truth is known, and return what was written."""
    questions = generate_truth_questions(build_world(), _LAB_SPLIT, num_rows, WORLD_SEED)
    rows = [BehaviourRow(one.question, one.options, one.matching, one.statement) for one in questions]
    save_rows(out, rows)
    account = Account(drafts=len(rows), kept=len(rows))
    notes = [] if len(rows) == num_rows else [f"the lab has no more than {len(rows):,} held-out questions"]
    return BehaviourReport(
        out=str(out),
        name=LAB_NAME,
        form="mixed",
        wanted=num_rows,
        labels=dict(Counter(row.label for row in rows)),
        prompts=0,
        account=account.to_json(),
        lines=account.describe(),
        threshold=None,
        separation=None,
        mean_confidence=None,
        notes=notes,
    )


def save_suite(path: Path, report: BehaviourReport) -> None:
    """Write a suite that asks a report's rows, with the rows as tasks read them beside it.

    One task asks every question in both orders of its options, by letters; one asks statements by the likelihood of
    Yes and No.

    Raises:
        DataError: The rows cannot be read.
        StorageError: The rows are gone, or a file cannot be written.
    """
    with storage_errors(Path(report.out)):
        lines = Path(report.out).read_text(encoding="utf-8").splitlines()
    rows = [read_published(json.loads(line), f"{report.out}:{number}") for number, line in enumerate(lines, start=1)]
    tasks = {report.name: build_choice_rows(rows, report.name)}
    settings = {report.name: "options: letters, normalisation: sum"}
    labelled = build_label_rows(rows)
    if labelled:
        tasks[f"{report.name}_labels"] = labelled
        settings[f"{report.name}_labels"] = "normalisation: sum"
    lines = ["schema: 1", f"name: {report.name}", "evaluate:"]
    for name, asked in tasks.items():
        file = path.with_name(f"{path.stem}.{name}.jsonl")
        write_lines(file, [json.dumps(row, ensure_ascii=False) for row in asked])
        source = json.dumps(file.name)
        lines.append(f"  - {{name: {name}, type: choice, data: {{source: {source}}}, {settings[name]}}}")
    write_text(path, "\n".join(lines) + "\n")


def save_report(path: Path, report: BehaviourReport) -> None:
    """Write a report as JSON."""
    write_json(path, report.to_json())
