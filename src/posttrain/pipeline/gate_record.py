"""What is remembered of gates: decisions beside the policies they were made on, and every look at the rows.

Looking again and again at one set of rows until something passes is how a gate is talked round. Looks are therefore
counted over all configurations of a run folder, and the count stands beside the decision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.core.durable import read_json, write_json, write_lines
from posttrain.core.errors import StorageError
from posttrain.core.hashing import canonical_json, hash_json
from posttrain.core.run_folder import RunFolder
from posttrain.gates.results import Decision

SCHEMA = 1


def describe_attempt(
    repair: str | None, policy_hash: str, search: Mapping[str, Any] | None, decisions: Sequence[Decision]
) -> dict[str, Any]:
    """Return one attempt of a gate for `run.json`: the stage's own policy (`repair` None), or a repair."""
    shown = None if search is None else {key: value for key, value in search.items() if key != "found"}
    return {
        "repair": repair,
        "policy": policy_hash,
        "search": shown,
        "decisions": [decision.to_json() for decision in decisions],
    }


class GateLedger:
    """Looks at the rows of gates, one JSON line each, and the decisions by policy.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._mine: dict[str, list[dict[str, Any]]] = {}

    def add(self, label: str, task_hashes: Mapping[str, str], decided: Sequence[Any]) -> None:
        """Record a decision on the rows of a gate; the same decision made again is the same look.

        Args:
            label: The stage and round.
            task_hashes: The gate's tasks, by content.
            decided: What names the decision: the policy, the rules, the attempt and the look.
        """
        look = {"gate": label, "rows": hash_json(dict(task_hashes)), "look": hash_json(list(decided))}
        self._mine.setdefault(label, []).append(look)
        known = self._read()
        if look not in known:
            write_lines(self.folder.looks, map(canonical_json, [*known, look]))

    def count(self, label: str) -> tuple[int, int]:
        """Return the looks of a gate in this run, and those of other configurations at the same rows."""
        mine = self._mine.get(label, [])
        rows = {look["rows"] for look in mine}
        others = [look for look in self._read() if look["gate"] == label and look["rows"] in rows and look not in mine]
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
