"""A file of completions, one JSON line each: appended as they finish, gone on with where it was stopped.

Beside `answers.jsonl` lies `answers.jsonl.settings.json`: what every line was drawn from and how. A file is
gone on with only where both are the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from posttrain.core.durable import TEMPORARY_PREFIX, fsync_folder, read_json, storage_errors, write_json
from posttrain.core.errors import LockedError, RefusedError, StorageError

CompletionKey = tuple[str, int]
"""Problem id and sample index."""


class CompletionFile:
    """An open file of completions, locked while it is open; a torn last line is cut off.

    Args:
        path: The file; its folder is made.
        identity: What decides every line: `policy_hash` and whatever else, as JSON-like values.

    Raises:
        LockedError: Another process writes it.
        RefusedError: It holds completions of another policy or other settings, or is no file of completions.
        StorageError: It cannot be written, or a line in its midst is torn.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.settings_path = Path(f"{path}.settings.json")
        self._lines: dict[CompletionKey, tuple[int, int]] = {}  # where each line begins and ends
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._length = os.fstat(self._descriptor).st_size
            if self._length:
                self._check_identity(identity)
                self._read(str(identity["policy_hash"]))
            else:
                write_json(self.settings_path, identity)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> CompletionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def __contains__(self, key: CompletionKey) -> bool:
        return key in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, key: CompletionKey, line: Mapping[str, Any]) -> None:
        """Write one completion behind the others; it is kept from then on, however the process ends."""
        content = (json.dumps(line, allow_nan=False) + "\n").encode()
        with storage_errors(self.path):
            written = 0
            while written < len(content):
                written += os.pwrite(self._descriptor, content[written:], self._length + written)
        self._lines[key] = (self._length, self._length + len(content))
        self._length += len(content)

    def arrange(self, order: Sequence[CompletionKey]) -> None:
        """Put the lines into an order, so that the file is the same however often it was stopped."""
        spans = [self._lines[key] for key in order]
        if spans == sorted(spans):
            return
        with storage_errors(self.path):
            descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self.path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    for start, end in spans:
                        file.write(os.pread(self._descriptor, end - start, start))
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
                os.replace(name, self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            fsync_folder(self.path.parent)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(
                "another process is writing this file",
                expected="one process a file",
                cure="wait for it, stop it, or name another file with --out",
                place=str(self.path),
            ) from None

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        cure = f"name another file with --out, or remove {self.path.name} to draw anew"
        if not self.settings_path.exists():
            raise RefusedError(
                "the file exists, and nothing says how what it holds was drawn",
                expected=f"no such file, or {self.settings_path.name} beside it",
                cure=cure,
                place=str(self.path),
            )
        recorded = read_json(self.settings_path)
        known = recorded if isinstance(recorded, dict) else {}
        names = [name for name in {**known, **identity} if known.get(name) != identity.get(name)]
        if names:
            raise RefusedError(
                "the file holds completions that were drawn otherwise: "
                + "; ".join(f"{name} was {_show(known.get(name))}" for name in names),
                expected="; ".join(f"{name} {_show(identity.get(name))}" for name in names),
                cure=f"repeat the arguments that it was begun with, {cure}",
                place=str(self.path),
            )

    def _read(self, policy_hash: str) -> None:
        with storage_errors(self.path), self.path.open("rb") as file:
            start = 0
            for number, content in enumerate(file, start=1):
                if not content.endswith(b"\n"):
                    break  # torn by a crash: it is drawn again
                end = start + len(content)
                self._lines[self._read_key(content, number, policy_hash)] = (start, end)
                start = end
            os.ftruncate(self._descriptor, start)
            self._length = start

    def _read_key(self, content: bytes, number: int, policy_hash: str) -> CompletionKey:
        try:
            values = json.loads(content)
            key = (str(values["problem_id"]), int(values["sample_index"]))
            found = values["policy_hash"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StorageError(
                f"not a completion: {error}",
                expected="one completion as JSON",
                cure="remove the file and run the same command again: everything is drawn anew",
                place=f"{self.path}:{number}",
            ) from None
        if found != policy_hash:
            raise RefusedError(
                f"a completion of policy {found}",
                expected=f"policy {policy_hash}",
                cure="name another file with --out",
                place=f"{self.path}:{number}",
            )
        return key


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
