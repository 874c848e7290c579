"""A journal of verdicts, so that a run that was killed and goes on sees for each program what it saw before.

An append-only file of records, each with its length and a CRC of its content: `length (4 bytes), CRC-32 (4 bytes)`,
16 bytes of key, and the result as plain data (`plain_data`). The key is the hash of all that a result depends on: the
program, its limits, the tier, and the interpreter's version. A record that a crash has torn ends the journal, and what
follows is cut off when it is opened; results that are the sandbox's own failure are not kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType

from posttrain.core.durable import storage_errors
from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_bytes
from posttrain.sandbox import plain_data
from posttrain.sandbox.fleet import pack_request
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.running import ProgramPool

MAGIC = b"posttrain verdicts 1\n"
_HEADER = struct.Struct("<II")
_KEY_BYTES = 16
_MAX_RECORD_BYTES = 1 << 30


def make_key(program: Program, limits: ProgramLimits, tier: str) -> bytes:
    """Return the 16 bytes that name all that a result depends on.

    Raises:
        PlainDataError: An argument of the program is no plain data.
    """
    surroundings = f"{astuple(limits)!r} {tier} {platform.python_implementation()} {platform.python_version()}"
    stdin = program.stdin.encode("utf-8", "surrogatepass")
    return bytes.fromhex(hash_bytes(pack_request(program), stdin, surroundings.encode()))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record's result lies in the file."""

    start: int
    size: int


class Journal:
    """Results by key, in a file that one process at a time writes.

    Threads of that process share it; a forked one may read it, and opens another to write. What was written survives
    the process; `flush` makes it survive the machine.

    Raises:
        StorageError: The file cannot be opened, is no journal, or is another process's at the moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._places: dict[bytes, _Place] = {}
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock_file()
            self._end = self._scan()
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: bytes) -> ProgramResult | None:
        """Return the result of a key, or None if there is none.

        Raises:
            StorageError: The file has been changed underneath.
        """
        place = self._places.get(key)
        if place is None:
            return None
        with storage_errors(self.path):
            content = os.pread(self._file, place.size, place.start)
        try:
            return ProgramResult(*plain_data.decode(content))
        except (plain_data.PlainDataError, TypeError) as error:
            raise self._describe(f"a verdict cannot be read: {error}") from error

    def add(self, key: bytes, result: ProgramResult) -> None:
        """Append a result, unless the key has one already.

        Raises:
            StorageError: The disk is full or the file cannot be written; the journal stays whole.
        """
        parts = (result.status, result.value, result.stdout, result.why, result.cpu_seconds)
        content = plain_data.encode(parts, _MAX_RECORD_BYTES)
        record = _HEADER.pack(_KEY_BYTES + len(content), zlib.crc32(key + content)) + key + content
        if os.getpid() != self._owner:
            raise self._describe("this journal was opened by the process that this one was forked from")
        with self._lock:
            if key in self._places:
                return
            with storage_errors(self.path):
                try:
                    _write_all(self._file, record, self._end)
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._file, self._end)
                    raise
            self._places[key] = _Place(self._end + _HEADER.size + _KEY_BYTES, len(content))
            self._end += len(record)

    def flush(self) -> None:
        """Make what was added survive the machine.

        Raises:
            StorageError: The disk refused it.
        """
        with storage_errors(self.path):
            os.fsync(self._file)

    def close(self) -> None:
        """Flush, and let another process write."""
        with self._lock:
            if self._file >= 0:
                self.flush()
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._describe("another process is writing this journal") from None

    def _scan(self) -> int:
        """Find every whole record, cut off what follows the last, and return where that is."""
        with storage_errors(self.path):
            size = os.fstat(self._file).st_size
            head = os.pread(self._file, len(MAGIC), 0)
            if head != MAGIC:
                if size and not MAGIC.startswith(head):
                    raise self._describe("the file is no journal of verdicts")
                os.ftruncate(self._file, 0)
                _write_all(self._file, MAGIC, 0)
                return len(MAGIC)
            end = len(MAGIC)
            for key, place in self._read_records(end, size):
                self._places.setdefault(key, place)
                end = place.start + place.size
            os.ftruncate(self._file, end)
            return end

    def _read_records(self, start: int, size: int) -> Iterator[tuple[bytes, _Place]]:
        while start + _HEADER.size <= size:
            length, checksum = _HEADER.unpack(os.pread(self._file, _HEADER.size, start))
            start += _HEADER.size
            if not _KEY_BYTES <= length <= min(_MAX_RECORD_BYTES, size - start):
                return
            content = os.pread(self._file, length, start)
            if len(content) != length or zlib.crc32(content) != checksum:
                return
            yield content[:_KEY_BYTES], _Place(start + _KEY_BYTES, length - _KEY_BYTES)
            start += length

    def _describe(self, found: str) -> StorageError:
        return StorageError(
            found,
            expected="a journal of verdicts that this run alone writes",
            cure="if another run uses the folder, wait for it or choose another folder; a file that is damaged may be "
            "deleted, and its programs are run again",
            place=str(self.path),
        )


def _write_all(file: int, content: bytes, place: int) -> None:
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written


class JournalledPool:
    """A pool that runs each program once in the life of a journal, and gives its first result ever after.

    Args:
        pool: Runs what the journal does not know; whoever made it closes it.
        journal: Keeps the results.
    """

    def __init__(self, pool: ProgramPool, journal: Journal) -> None:
        self.pool = pool
        self.journal = journal

    @property
    def tier(self) -> str:
        """The pool's tier."""
        return self.pool.tier

    @property
    def limits(self) -> ProgramLimits:
        """The pool's limits."""
        return self.pool.limits

    def run(self, programs: Sequence[Program], limits: ProgramLimits | None = None) -> list[ProgramResult]:
        """Run programs (see `ProgramPool.run`); equal ones of one call run once.

        Raises:
            SandboxUnavailableError: No tier passes.
            PlainDataError: An argument of a program is no plain data.
            StorageError: The journal cannot be read or written.
        """
        limits = limits or self.pool.limits
        keys = [make_key(program, limits, self.pool.tier) for program in programs]
        results = {key: result for key in keys if (result := self.journal.find(key)) is not None}
        unknown = {key: program for key, program in zip(keys, programs, strict=True) if key not in results}
        found = dict(zip(unknown, self.pool.run(list(unknown.values()), limits), strict=True))
        for key, result in found.items():
            if result.status != "sandbox_error":
                self.journal.add(key, result)
        results |= found
        return [results[key] for key in keys]
