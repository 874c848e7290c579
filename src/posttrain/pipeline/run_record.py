"""`run.json`: what ran and what came out, written anew at every change, whole or not at all."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import StorageError
from posttrain.core.records import Artifact
from posttrain.core.run_folder import RunFolder
from posttrain.evaluation.monitors.reading import Reading
from posttrain.training.checkpoints import describe_machine

SCHEMA = 1
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "datasets", "numpy")


@dataclass(slots=True)
class RunRecord:
    """The content of a `run.json` in the making; its schema is `run_schema.json`."""

    folder: RunFolder
    name: str
    recipe_hash: str
    plan_hash: str
    seed: int
    status: str = "running"
    stages: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    sandbox: str | None = None
    preflight: list[dict[str, Any]] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    monitors: list[dict[str, Any]] = field(default_factory=list)

    def add_stage(self, name: str, round_number: int, kind: str) -> dict[str, Any]:
        """Add a stage that is yet to run and return its entry, to be filled in.

        What the record before this one says of the stage stands until the stage is reached: it is still so
        if the run is killed before that.
        """
        known = read_stage_entry(self.folder, name, round_number) or {}
        entry: dict[str, Any] = {
            "name": name,
            "round": round_number,
            "type": kind,
            "status": "pending",
            "key": known.get("key"),
            "inputs": {},
            "outputs": {},
            "seconds": known.get("seconds"),
            "tokens": known.get("tokens"),
            "ledger": known.get("ledger"),
            "gate": None,
        }
        self.stages.append(entry)
        return entry

    def add_artifact(self, artifact: Artifact, parents: list[str], stage: str) -> None:
        """Add an artifact with its lineage; two stages that made the same content are listed each."""
        if any((known["hash"], known["stage"]) == (artifact.hash, stage) for known in self.artifacts):
            return
        folder = os.path.relpath(artifact.folder, self.folder.root)
        where = artifact.folder if folder.startswith("..") else folder
        self.artifacts.append(
            {"hash": artifact.hash, "kind": artifact.kind, "folder": where, "parents": parents, "stage": stage}
        )

    def set_metrics(self, stage: str, task: str, metrics: Iterable[dict[str, Any]]) -> None:
        """Put a task's metrics in the place of those that a stage had of it before."""
        places = [n for n, known in enumerate(self.metrics) if (known["stage"], known["task"]) == (stage, task)]
        place = places[0] if places else len(self.metrics)
        kept = [known for n, known in enumerate(self.metrics) if n not in places]
        self.metrics = [*kept[:place], *({"stage": stage, **figures} for figures in metrics), *kept[place:]]

    def list_labels(self, policy_hash: str) -> list[str]:
        """Return the stages under whose names a policy's metrics stand."""
        return list(dict.fromkeys(known["stage"] for known in self.metrics if known.get("policy") == policy_hash))

    def count_items(self, stage: str, task: str, policy_hash: str) -> int:
        """Return the most items that a policy's metrics of a task stand on under a stage's name, 0 without any."""
        found = [
            known["n"]
            for known in self.metrics
            if (known["stage"], known["task"], known.get("policy")) == (stage, task, policy_hash)
        ]
        return max(found, default=0)

    def rename_metrics(self, stage: str, name: str) -> None:
        """Let the metrics of a stage stand under another name."""
        self.metrics = [
            known | {"stage": name} if known["stage"] == stage else known
            for known in self.metrics
            if known["stage"] != name
        ]

    def drop_metrics(self, stage: str) -> None:
        """Take the metrics of a stage out."""
        self.metrics = [known for known in self.metrics if known["stage"] != stage]

    def set_readings(self, stage: str, policy_hash: str, readings: Iterable[Reading]) -> None:
        """Put the readings of a stage's policy in the place of those that the stage had before."""
        kept = [known for known in self.monitors if known["stage"] != stage]
        own = [{"stage": stage, "policy": policy_hash, **reading.to_json()} for reading in readings]
        self.monitors = [*kept, *own]

    def write(self) -> None:
        """Write the record.

        Raises:
            StorageError: The disk is full or unwritable; the record before is untouched.
        """
        write_json(
            self.folder.run_json,
            {
                "schema": SCHEMA,
                "name": self.name,
                "recipe_hash": self.recipe_hash,
                "plan_hash": self.plan_hash,
                "seed": self.seed,
                "status": self.status,
                "versions": dict(list_versions()),
                "machine": {**describe_machine(), "cpus": os.cpu_count(), "system": platform.platform()}
                | ({} if self.sandbox is None else {"sandbox": self.sandbox}),
                "stages": self.stages,
                "metrics": self.metrics,
                "artifacts": self.artifacts,
                "preflight": self.preflight,
                "overrides": self.overrides,
                "monitors": self.monitors,
                "report": self.folder.report.name if self.folder.report.is_file() else None,
            },
        )


@cache
def list_versions() -> Mapping[str, str | None]:
    """Return the versions of this project and of the libraries that decide results."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in ("posttrain", *_LIBRARIES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def list_gates(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what the gates of a finished run decided: stage, round, decision, reason, and the policy passed on."""
    if not folder.run_json.is_file():
        return []
    return [
        {
            "stage": entry["name"],
            "round": entry["round"],
            **{key: entry["gate"][key] for key in ("decision", "reason", "promoted")},
        }
        for entry in read_json(folder.run_json)["stages"]
        if entry["gate"] is not None
    ]


def list_alarms(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the alarms of a run's monitors: stage, monitor, and why."""
    if not folder.run_json.is_file():
        return []
    return [
        {key: reading[key] for key in ("stage", "monitor", "why")}
        for reading in read_json(folder.run_json)["monitors"]
        if reading["status"] == "alarm"
    ]


def read_stage_entry(folder: RunFolder, name: str, round_number: int) -> dict[str, Any] | None:
    """Return what the record before this one says of a stage, or None."""
    if not folder.run_json.is_file():
        return None
    try:
        stages = read_json(folder.run_json)["stages"]
        found = [entry for entry in stages if (entry["name"], entry["round"]) == (name, round_number)]
    except (StorageError, KeyError, TypeError):
        return None
    return dict(found[0]) if found else None


def read_findings(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what the record before this one says that preflight found; nothing where there is none."""
    if not folder.run_json.is_file():
        return []
    try:
        found = read_json(folder.run_json).get("preflight", [])
    except (StorageError, AttributeError):
        return []
    return [finding for finding in found if isinstance(finding, dict)] if isinstance(found, list) else []
