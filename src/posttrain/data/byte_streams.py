"""Opens data files as streams of bytes: compression, and clear errors for what is not a data file."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from posttrain.core.errors import DataError

COMPRESSIONS = (".gz", ".xz")
_MAGIC = (
    (b"\x1f\x8b", "gzip data", "add '.gz' to the file's name"),
    (b"\xfd7zXZ\x00", "xz data", "add '.xz' to the file's name"),
    (b"PAR1", "Parquet data", "name the file '.parquet'"),
    (b"ARROW1", "Arrow data", "name the file '.arrow'"),
    (b"PK\x03\x04", "a zip archive", "unpack it and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "zstandard data", "decompress it (zstd -d) or compress it with gzip or xz"),
    (b"\xff\xfe", "UTF-16 text", "save the file as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save the file as UTF-8"),
)


def check_regular_file(path: Path) -> None:
    """Check that a path leads to a file with content that may be read.

    Raises:
        DataError: Missing, a folder, a device, unreadable, a loop of links, or empty.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise DataError("no such file", expected="a data file", cure=_suggest_name(path), place=str(path)) from None
    except (OSError, ValueError) as error:
        raise _describe_os_error(path, error) from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError("a folder", expected="a data file", cure="name the file inside it", place=str(path))
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file (a device or a pipe)", expected="a data file", place=str(path))
    if status.st_size == 0:
        raise DataError("the file is empty", expected="at least one row", cure="write it again", place=str(path))
    if not os.access(path, os.R_OK):
        raise DataError("the file may not be read", cure=f"chmod +r {path.name}", place=str(path))


def _suggest_name(path: Path) -> str:
    from posttrain.core.config import suggest

    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either: check the path"
    with os.scandir(folder) as entries:
        names = [entry.name for entry, _ in zip(entries, range(1000), strict=False)]
    return suggest(path.name, names) if names else f"the folder {folder} is empty"


def _describe_os_error(path: Path, error: OSError | ValueError) -> DataError:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"cannot be read: {text}", expected="a readable data file", place=str(path))


@contextmanager
def open_bytes(path: Path, *, expect_text: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed where its name ends in `.gz` or `.xz`.

    Args:
        path: The file.
        expect_text: Refuse content that is known to be no text (another compression, Parquet, UTF-16).

    Raises:
        DataError: See `check_regular_file`; or the compressed data is torn (raised while reading).
    """
    check_regular_file(path)
    try:
        with _open_decompressed(path) as stream:
            if expect_text:
                _check_magic(path, stream)
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"the compressed data is torn or damaged: {error}",
            expected="a whole compressed file",
            cure="copy or compress it again; rows after the damage cannot be read, so none are used",
            place=str(path),
        ) from None
    except OSError as error:
        raise _describe_os_error(path, error) from None


def _open_decompressed(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]  # GzipFile has read, readline and seek
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")


def _check_magic(path: Path, stream: IO[bytes]) -> None:
    head = stream.read(8)
    for magic, what, cure in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"the file holds {what}", expected="UTF-8 text", cure=cure, place=str(path))
    stream.seek(0)
