"""Content hashes: the names of policies, data sets, templates and artifacts.

All hashes are the first 32 hexadecimal digits (128 bits) of a SHA-256; equal content has an equal
name on every machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HASH_DIGITS = 32
_CHUNK_BYTES = 1 << 20


def hash_bytes(*parts: bytes) -> str:
    """Return the hash of byte strings; each part's length is hashed too, so that ("ab","c") != ("a","bc")."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:HASH_DIGITS]


def hash_text(*parts: str) -> str:
    """Return the hash of strings, encoded as UTF-8 (lone surrogates kept, so that no text is unhashable)."""
    return hash_bytes(*(part.encode("utf-8", "surrogatepass") for part in parts))


def hash_pieces(write: Callable[[], Iterable[str]]) -> str:
    """Return `hash_text` of the pieces of one text put together, which need not be in memory at once.

    Args:
        write: Yields the same pieces each time: their length is hashed before them, so it is asked twice.
    """
    digest = hashlib.sha256()
    digest.update(sum(len(piece.encode("utf-8", "surrogatepass")) for piece in write()).to_bytes(8, "little"))
    for piece in write():
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:HASH_DIGITS]


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: The value holds NaN or infinity, which have no JSON form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_json(value: Any) -> str:
    """Return the hash of a JSON-like value, independent of key order."""
    return hash_text(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Return the whole SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the short hash of a file's bytes."""
    return sha256_file(path)[:HASH_DIGITS]


def hash_digests(digests: Mapping[str, str]) -> str:
    """Return the hash of named files from their digests, independent of the order they are listed in."""
    return hash_json(sorted(digests.items()))


def hash_folder(folder: Path, *, exclude: Iterable[str] = ()) -> str:
    """Return the hash of all files below a folder: sorted relative names and their contents.

    Args:
        folder: The folder to hash; its own name does not count.
        exclude: Relative POSIX paths left out (a manifest that holds this very hash, say).
    """
    left_out = set(exclude)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return hash_digests({name: sha256_file(folder / name) for name in names if name not in left_out})


def finite_or_none(value: float) -> float | None:
    """Return a float that JSON can hold: None stands for NaN and infinity."""
    return value if math.isfinite(value) else None
