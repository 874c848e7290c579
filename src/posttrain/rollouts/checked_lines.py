"""Lines that say whether they are whole: a CRC-32 in eight hex digits, a space, and a JSON object.

A line that a crash has torn, or in which a bit has flipped, ends what can be read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.core.durable import storage_errors


def format_line(values: Mapping[str, Any]) -> str:
    """Return an object as a line, without its newline."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file up to the first line that is torn; none where there is no file.

    Raises:
        StorageError: The file cannot be read.
    """
    if not path.is_file():
        return
    with storage_errors(path):
        content = path.read_bytes()
    for line in content.split(b"\n")[:-1]:
        checksum, _, text = line.partition(b" ")
        if checksum != f"{zlib.crc32(text):08x}".encode():
            return
        yield json.loads(text)
