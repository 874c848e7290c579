"""What is remembered of gates: decisions beside the policies they were made on, and every look at the rows.

Looking again and again at one set of rows until something passes is how a gate is talked round. Looks are therefore
counted over all configurations of a run folder, and the count stands beside the decision.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from posttrain.core.durable import read_json, write_json, write_lines
from posttrain.core.errors import StorageError
from posttrain.core.hashing import canonical_json, hash_json
from posttrain.core.records import Artifact
from posttrain.core.run_folder import RunFolder
from posttrain.gates.results import Decision

SCHEMA = 1


def describe_attempt(
    repair: str | None, policy: Artifact | None, search: Mapping[str, Any] | None, decisions: Sequence[Decision]
) -> dict[str, Any]:
    """Return one attempt of a gate for `run.json`: the stage's own policy (`repair` None), or what a repair found."""
    return {
        "repair": repair,
        "policy": None if policy is None else policy.hash,
        "search": None if search is None else dict(search),
        "decisions": [decision.to_json() for decision in decisions],
    }


class GateLedger:
    """Looks at the rows of gates, one JSON line each, and the decisions by policy.

    Args:
        folder: The run's folder.
        labels: All rounds of the run: what gates of other rounds decide is no second look of this one.
    """

    def __init__(self, folder: RunFolder, labels: Collection[str]) -> None:
        self.folder = folder
        self._labels = frozenset(labels)
        self._mine: list[dict[str, Any]] = []

    def add(self, label: str, task_hashes: Mapping[str, str], decided: Sequence[Any]) -> None:
        """Record a decision on the rows of a gate; the same decision made again is the same look.

        Args:
            label: The stage and round.
            task_hashes: The gate's tasks, by content.
            decided: What names the decision: the policy, the rules, the attempt and the look.
        """
        look = {"gate": label, "rows": sorted(set(task_hashes.values())), "look": hash_json(list(decided))}
        self._mine.append(look)
        known = self._read()
        if look not in known:
            write_lines(self.folder.looks, map(canonical_json, [*known, look]))

    def count(self, label: str) -> tuple[int, int]:
        """Return the looks of a gate in this run, and those of other configurations at some of the same rows.

        A gate of another name counts too, unless it is another round's of this run.
        """
        mine = [look for look in self._mine if look["gate"] == label]
        rows = {name for look in mine for name in look["rows"]}
        others = [
            look
            for look in self._read()
            if look not in mine
            and (look["gate"] == label or look["gate"] not in self._labels)
            and not rows.isdisjoint(look["rows"])
        ]
        return len({look["look"] for look in mine}), len(others)

    def write(self, label: str, policy_hash: str, record: Mapping[str, Any]) -> None:
        """Write a gate's record beside the policy that it decided on; other stages' records of it stay."""
        path = self.folder.gate(policy_hash)
        known: dict[str, Any] = {}
        if path.is_file():
            try:
                known = dict(read_json(path)["decisions"])
            except (StorageError, KeyError, TypeError, ValueError):
                known = {}  # torn or foreign: what this run decided is written anew
        write_json(path, {"schema": SCHEMA, "policy": policy_hash, "decisions": {**known, label: dict(record)}})

    def _read(self) -> list[dict[str, Any]]:
        """Return the looks so far.

        Raises:
            StorageError: The file holds something else.
        """
        path = self.folder.looks
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            looks = [dict(json.loads(line)) for line in lines]
            return [{key: look[key] for key in ("gate", "rows", "look")} for look in looks]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StorageError(
                f"the looks of gates cannot be read: {error}",
                expected="JSON lines of gate, rows and look",
                cure="delete the file: looks are then counted from here on",
                place=str(path),
            ) from None
