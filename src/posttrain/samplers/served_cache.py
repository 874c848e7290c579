"""Answers of endpoints on the disk, by a hash of what decides them: what was paid for once is not paid for again.

One file an answer, written under another name, synced and renamed, so that a kill leaves a whole file or
none. Each holds the hash of its own content: a file that was torn or changed all the same is counted and
treated as absent. Processes share a folder: who asks for an answer holds a lock on it, which the kernel
releases however the process ends, and the others wait for the file.

<folder>/
  claims           no content; a request's key is locked at one byte of it
  <2 digits>/<key>.json
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from posttrain.core.durable import TEMPORARY_PREFIX, fsync_folder, read_json, storage_errors, write_text
from posttrain.core.errors import StorageError
from posttrain.core.hashing import canonical_json, hash_text

_OLD_SECONDS = 24 * 3600.0
_OFFSET_DIGITS = 15  # 60 bits: the largest offset has 63
_FLOCK = struct.Struct("@hhqqi4x")


class AnswerCache:
    """A folder of answers; used from several threads and processes at a time.

    Args:
        folder: Made where it is absent.

    Raises:
        StorageError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._torn: set[str] = set()
        self._folder = folder
        self._claimed: set[str] = set()
        self._lock = threading.Lock()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(folder / "claims", os.O_RDWR | os.O_CREAT, 0o644)
        self._remove_leftovers()

    @property
    def num_torn(self) -> int:
        """Answers that were found torn or changed so far."""
        return len(self._torn)

    def read(self, key: str) -> Any:
        """Return the answer that is stored under a key; None where there is none that can be trusted."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            entry = read_json(path)
            if entry["key"] == key and entry["hash"] == hash_text(canonical_json(entry["answer"])):
                return entry["answer"]
        except (StorageError, KeyError, TypeError, ValueError, RecursionError):
            pass  # counted below
        self._torn.add(key)
        return None

    def write(self, key: str, answer: Any) -> None:
        """Store an answer durably, in place of whatever the key holds.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        text = canonical_json(answer)
        path = self._path(key)
        with storage_errors(path):
            if not path.parent.exists():
                path.parent.mkdir(exist_ok=True)
                fsync_folder(self._folder)
        # In ASCII: an answer may hold halves of surrogate pairs, which UTF-8 cannot.
        entry = json.dumps({"key": key, "hash": hash_text(text), "answer": answer}, allow_nan=False)
        write_text(path, entry + "\n")

    def claim(self, key: str) -> bool:
        """Return whether the answer is now this caller's to ask for: nobody else does so, here or elsewhere.

        Raises:
            StorageError: The file system has no locks, or the cache is closed.
        """
        with self._lock:
            if self._descriptor is None:
                raise StorageError("the cache of answers is closed", cure="open it again", place=str(self._folder))
            if key in self._claimed:
                return False
            with storage_errors(self._folder):
                if not _lock_byte(self._descriptor, _offset(key), fcntl.F_WRLCK):
                    return False
            self._claimed.add(key)
            return True

    def release(self, key: str) -> None:
        """Let others ask for an answer that was claimed here."""
        with self._lock:
            self._claimed.discard(key)
            if self._descriptor is not None:
                _lock_byte(self._descriptor, _offset(key), fcntl.F_UNLCK)

    def close(self) -> None:
        """Release every claim; again does nothing."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _remove_leftovers(self) -> None:
        """Remove what killed writes left behind: temporary files so old that no process still writes them."""
        for path in self._folder.glob(f"*/{TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _OLD_SECONDS:
                    path.unlink()


def _offset(key: str) -> int:
    return int(key[:_OFFSET_DIGITS], 16)


def _lock_byte(descriptor: int, offset: int, kind: int) -> bool:
    """Lock or unlock one byte for this open file, which another process or another open of it then cannot lock."""
    request = _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody else holds it
        return False
    return True
