"""The lab as files: its knowledge base, and its sets as JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.core.durable import write_folder, write_json, write_text
from posttrain.core.errors import RefusedError
from posttrain.core.protocols import Progress
from posttrain.lab.source import ROW_SETS, lab_rows
from posttrain.lab.world import build_world

KNOWLEDGE_BASE = "knowledge_base.json"
_LEFT_OUT = ("documents", "pages")
"""The corpus, which `posttrain lab build` generates as it goes, is too long for a file."""


def check_is_new(out: Path) -> None:
    """Raise RefusedError if the folder that is to be written exists."""
    if out.exists():
        raise RefusedError(
            "the folder exists already",
            expected="a folder to be made",
            cure="name another, or remove it",
            place=str(out),
        )


def export_lab(out: Path, progress: Progress) -> dict[str, int]:
    """Write the world's facts and every set but the corpus; return the rows of each file.

    Raises:
        RefusedError: The folder exists.
        StorageError: It cannot be written.
    """
    check_is_new(out)
    pairs = [(name, split) for name, each in ROW_SETS.items() if name not in _LEFT_OUT for split in each.num_rows]
    written: dict[str, int] = {}

    def fill(target: Path) -> None:
        write_json(target / KNOWLEDGE_BASE, build_world().knowledge_base)
        progress.start("write the lab", len(pairs), unit="file")
        for name, split in pairs:
            lines = [json.dumps(row, ensure_ascii=False) for row in lab_rows(name, split)]
            file = f"{name}.{split}.jsonl"
            write_text(target / file, "".join(line + "\n" for line in lines))
            written[file] = len(lines)
            progress.advance()
        progress.finish()

    write_folder(out, fill)
    return written
