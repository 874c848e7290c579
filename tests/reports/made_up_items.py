"""Item files of a made-up task, written as the runner writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.reports.item_tables import ItemTable, read_item_table
from posttrain.reports.run_files import RunFiles


# many parameters: what an item of a file may hold
def write_table(
    path: Path,
    values: Sequence[float],
    *,
    parts: Sequence[Mapping[str, float]] = (),
    samples: int = 1,
    clusters: Sequence[str] = (),
    outcomes: Mapping[int, Mapping[str, Any]] | None = None,
) -> ItemTable:
    """Write items and return their table; `samples` of each problem stand in a row, `outcomes` change some outcomes."""
    lines = []
    for index, value in enumerate(values):
        outcome = {"status": "scored", "value": value, "fault": None, "why": ""}
        outcome["parts"] = dict(parts[index]) if parts else {}
        lines.append(
            {
                "item_id": f"item-{index // samples}",
                "cluster_id": clusters[index] if clusters else "",
                "sample_index": index % samples,
                "outcome": {**outcome, **(outcomes or {}).get(index, {})},
                "text": f"answer {index}",
                "prompt": [{"role": "user", "content": f"question {index // samples}"}],
                "reference": f"reference {index // samples}",
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = sorted({name for of_item in parts for name in of_item})
    return read_item_table(path, names, lambda said: None)


def files_of(run: dict[str, Any], items: dict[str, dict[str, ItemTable]] | None = None, **resolved: Any) -> RunFiles:
    """Return a run's files as a report reads them, with nothing but run.json and items."""
    return RunFiles(Path(), run, [], items or {}, "", resolved, [])


def measure(
    stage: str, value: float | None, low: float | None = None, high: float | None = None, name: str = "exact_match"
) -> dict[str, Any]:
    """Return one metric of task `t` as run.json lists it."""
    return {"stage": stage, "task": "t", "name": name, "value": value, "low": low, "high": high, "n": 50}
