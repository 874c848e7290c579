"""What comparisons of speed with a peer share: the peer's Python, models and rows on disk, results on disk.

Imports nothing large, as `benchmarks.alternate`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def find_trl_python(wanted: str | None) -> str | None:
    """Return the Python that TRL runs in, or None, which is said, where there is none."""
    found = wanted or (sys.executable if importlib.util.find_spec("trl") else None)
    if found is None:
        print("TRL is not installed here: no comparison (pip install -e '.[trl]', or --peer-python)", file=sys.stderr)
    return found


def prepare_models(folder: Path, shapes: Sequence[str]) -> dict[str, Any]:
    """Write models and rows into a folder without work of earlier runs; return where rows come from, and parameters."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    # In a process of its own: a child's peak memory would start at that of a parent which holds torch.
    command = [sys.executable, "-m", "benchmarks.models", "--folder", str(folder), "--shapes", *shapes]
    facts: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )
    return facts


def finish_comparison(folder: Path, name: str, results: dict[str, Any], machine: dict[str, Any]) -> None:
    """Print the machine, write every run's record to `<folder>/<name>.json`, and remove what the runs left behind."""
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()))
    path = folder / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"every run: {path}", file=sys.stderr)
    shutil.rmtree(folder / "work", ignore_errors=True)
