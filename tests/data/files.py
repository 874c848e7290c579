"""Writes the data files that tests read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Write JSON Lines, compressed where the name ends in `.gz`; text is written as it is."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def chat(question: str, answer: str, **columns: Any) -> dict[str, Any]:
    """Return a row of one question and its answer."""
    return {"messages": [say("user", question), say("assistant", answer)], **columns}


def say(role: str, content: Any, **others: Any) -> dict[str, Any]:
    """Return one message."""
    return {"role": role, "content": content, **others}
