"""Tokenized rows on disk: a folder of arrays that is read by memory map, and a manifest that vouches for them.

Rows are appended as they are made, so that writing needs no more memory than one row. A reader checks
every file against its hash in the manifest, and the manifest against its own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from posttrain.core.durable import read_json, write_text
from posttrain.core.errors import StorageError
from posttrain.core.hashing import canonical_json, hash_digests, hash_json, sha256_file
from posttrain.core.records import RenderedSample, TokenRows
from posttrain.data.ledger import Ledger

SCHEMA = 1
_MANIFEST = "manifest.json"
_DTYPES: dict[str, Any] = {
    "ids": np.int32,
    "sources": np.uint8,
    "is_trainable": np.bool_,
    "offsets": np.int64,
    "row_ids": np.uint8,
    "row_id_offsets": np.int64,
}
_COLUMN_DTYPES: dict[str, Any] = {"columns": np.uint8, "column_offsets": np.int64}


class DamagedStoreError(Exception):
    """A folder of tokenized rows that is not, byte for byte, what was written; the text says which file."""


class _ArrayFile:
    """A one-dimensional `.npy` file that grows: its header has room for any length and is written last."""

    def __init__(self, path: Path, dtype: Any) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        self.length = 0
        self._file.write(self._header())

    def _header(self) -> bytes:
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, described)
        return header.getvalue()

    def append(self, values: npt.ArrayLike) -> None:
        array = np.ascontiguousarray(values, dtype=self._dtype)
        self._file.write(array.tobytes())
        self.length += array.size

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()


class TokenWriter:
    """Appends rows to the arrays of a folder, and to arrays of columns from the first that is added on.

    A context manager.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> TokenWriter:
        self._arrays: dict[str, _ArrayFile] = {}
        self._open(_DTYPES, "offsets", "row_id_offsets")
        return self

    def _open(self, dtypes: dict[str, Any], *offsets: str) -> None:
        for name, dtype in dtypes.items():
            self._arrays[name] = _ArrayFile(self._folder / f"{name}.npy", dtype)
            self._stack.callback(self._arrays[name].close)
        for name in offsets:
            self._arrays[name].append([0])

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, row_id: str, sample: RenderedSample) -> None:
        """Append one row."""
        self._arrays["ids"].append(sample.ids_T)
        self._arrays["sources"].append(sample.sources_T)
        self._arrays["is_trainable"].append(sample.is_trainable_T)
        self._arrays["offsets"].append([self._arrays["ids"].length])
        self._arrays["row_ids"].append(np.frombuffer(row_id.encode("utf-8"), np.uint8))
        self._arrays["row_id_offsets"].append([self._arrays["row_ids"].length])

    def add_columns(self, columns: dict[str, Any]) -> None:
        """Append what stays beside the samples of one data row, as JSON."""
        if "columns" not in self._arrays:
            self._open(_COLUMN_DTYPES, "column_offsets")
        self._arrays["columns"].append(np.frombuffer(canonical_json(columns).encode("utf-8"), np.uint8))
        self._arrays["column_offsets"].append([self._arrays["columns"].length])


@dataclass(frozen=True, slots=True, eq=False)
class StoredColumns:
    """Columns read from disk one row at a time: what `TokenWriter.add_columns` was given, in order."""

    text: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = range(len(self))[index]
        found: dict[str, Any] = json.loads(self.text[self.offsets[number] : self.offsets[number + 1]].tobytes())
        return found


@dataclass(frozen=True, slots=True, eq=False)
class StoredRowIds(Sequence[str]):
    """Row ids read from disk one at a time, so that naming a million rows costs no memory."""

    text: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self.text[self.offsets[number] : self.offsets[number + 1]].tobytes().decode("utf-8")


def write_manifest(folder: Path, key: str, ledger: Ledger) -> None:
    """Write the manifest of a folder whose arrays are complete; it goes last."""
    files = {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in folder.glob("*.npy")}
    manifest = {"schema": SCHEMA, "key": key, "files": files, "ledger": ledger.to_json()}
    write_text(folder / _MANIFEST, canonical_json({**manifest, "hash": hash_json(manifest)}) + "\n")


def read_rows(folder: Path, key: str) -> tuple[TokenRows, StoredColumns | None, Ledger]:
    """Return the rows, the columns beside them (None: none were added) and the ledger, after checking every byte.

    Raises:
        DamagedStoreError: A file is missing, torn or altered, or belongs to another key.
    """
    with _damage_from_errors():
        manifest = _read_manifest(folder, key)
        for name, facts in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != facts["bytes"] or sha256_file(path) != facts["sha256"]:
                raise DamagedStoreError(f"{name} was torn or altered")
        names = [*_DTYPES, *(name for name in _COLUMN_DTYPES if f"{name}.npy" in manifest["files"])]
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray) for name in names
        }
    digests = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    rows = TokenRows(
        ids_N=arrays["ids"],
        sources_N=arrays["sources"],
        is_trainable_N=arrays["is_trainable"],
        offsets=arrays["offsets"],
        row_ids=StoredRowIds(arrays["row_ids"], arrays["row_id_offsets"]),
        content_hash=hash_digests(digests),
    )
    columns = StoredColumns(arrays["columns"], arrays["column_offsets"]) if "columns" in arrays else None
    return rows, columns, Ledger.from_json(manifest["ledger"])


def _read_manifest(folder: Path, key: str) -> dict[str, Any]:
    """Return the manifest if it is, to the byte, one that `write_manifest` wrote for this key."""
    manifest = read_json(folder / _MANIFEST)
    text = (folder / _MANIFEST).read_bytes()
    is_whole = isinstance(manifest, dict) and text == (canonical_json(manifest) + "\n").encode()
    if not is_whole or manifest.pop("hash", "") != hash_json(manifest) or manifest["key"] != key:
        raise DamagedStoreError(f"{_MANIFEST} was torn or altered")
    return manifest


@contextmanager
def _damage_from_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, StorageError) as error:
        raise DamagedStoreError(str(error).splitlines()[0]) from None
