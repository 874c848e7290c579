"""Writes that survive a crash: temporary name, fsync, rename, fsync of the folder.

A reader sees the previous file or the whole next one, never a part. A write that fails (disk full,
no permission) leaves the previous file in place and raises `StorageError`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from posttrain.core.errors import PosttrainError, StorageError

TEMPORARY_PREFIX = ".tmp-"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make a finished file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of a write into a `StorageError` that names the place and the cure.

    So is what safetensors and tokenizers raise for one: their errors have other classes, and a text that
    ends in `(os error 28)`.
    """
    try:
        yield
    except OSError as error:
        raise _describe_write(error.strerror or str(error), path) from error
    except Exception as error:
        number = _OS_ERROR.search(str(error))
        if number is not None and not isinstance(error, PosttrainError):
            raise _describe_write(os.strerror(int(number[1])), path) from error
        raise


def _describe_write(reason: str, path: Path) -> StorageError:
    return StorageError(
        f"could not write: {reason}",
        expected="a writable disk with free space",
        cure="free some space or point the run folder elsewhere, then start the same command again: it resumes",
        place=str(path),
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to fill, which takes the place of another at once when the context ends well."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it holds its previous or its next content, whole.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with _replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text durably (see `write_bytes`)."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, each given without its newline, as `write_bytes` does, one at a time.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with _replacing(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON durably; NaN is refused, keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return a JSON file's value.

    Raises:
        StorageError: The file is missing, torn or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StorageError(
            f"not a readable JSON file: {error}",
            expected="a JSON file written by posttrain",
            cure="if it was truncated by a crash or edited by hand, delete it and run the same command again",
            place=str(path),
        ) from error


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a whole folder appear at once: fill a temporary one, fsync everything, rename it.

    Args:
        folder: The final path; if it exists already it is left as it is (content-addressed folders).
        fill: Writes the files into the folder it is given; the last file it writes should be the manifest.

    Raises:
        StorageError: A write failed; the temporary folder is removed.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=folder.parent))
        try:
            fill(temporary)
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    fsync_file(path)
            for path in sorted((p for p in temporary.rglob("*") if p.is_dir()), reverse=True):
                fsync_folder(path)
            fsync_folder(temporary)
            os.chmod(temporary, 0o755)
            try:
                if not folder.exists():
                    os.rename(temporary, folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first with the same folder
                    raise
            shutil.rmtree(temporary, ignore_errors=True)
            fsync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed write left behind in a folder (not below it)."""
    if not folder.is_dir():
        return
    for path in folder.glob(TEMPORARY_PREFIX + "*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def append_line(path: Path, text: str) -> None:
    """Append one line to a text file and flush it; a line holds no newline of its own."""
    append_lines(path, [text])


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a text file and flush it; a line holds no newline of its own."""
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.writelines(line.rstrip("\n") + "\n" for line in lines)
