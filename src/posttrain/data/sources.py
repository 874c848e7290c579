"""Where rows come from: files, folders that `datasets` saved, the Hub, and the lab.

`open_rows` reads any of them as a stream of rows with a place; `fingerprint` names by content what it
would read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.core.config import Config
from posttrain.core.errors import DataError
from posttrain.core.hashing import canonical_json, hash_file, hash_folder, hash_json, hash_text
from posttrain.core.known_files import find_once
from posttrain.core.protocols import RowSource
from posttrain.data import rows
from posttrain.data.byte_streams import COMPRESSIONS, check_regular_file, open_bytes
from posttrain.data.columnar_rows import (
    is_datasets_folder,
    iterate_dataset,
    load_hub_dataset,
    locate_split,
    read_arrow,
    read_datasets_folder,
    read_parquet,
)
from posttrain.data.csv_rows import read_csv, read_tsv
from posttrain.data.json_rows import read_json_lines, read_json_values
from posttrain.data.kept_rows import KeptRows, RowKeeper
from posttrain.data.preference_forms import split_rows
from posttrain.data.rows import BadRow, RawRow

Format = Literal[
    "auto", "trl", "alpaca", "sharegpt", "verl", "open_instruct", "sgd",
    "hh", "pandalm", "finegrained_qa", "llmbar", "hhh", "prmbench", "prm800k", "autoj", "labelled_messages",
]  # fmt: skip

_TEXT_READERS: dict[str, Callable[[Path, str], Iterator[RawRow | BadRow]]] = {
    ".jsonl": read_json_lines, ".ndjson": read_json_lines, ".json": read_json_values,
    ".csv": read_csv, ".tsv": read_tsv,
}  # fmt: skip
_COLUMN_READERS = {".parquet": read_parquet, ".arrow": read_arrow}
SUFFIXES = (*_TEXT_READERS, ".txt", *_COLUMN_READERS)
_KEPT = RowKeeper()
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")


RawReader = Callable[[RawRow], Iterable[RawRow | BadRow]]
"""Maps a row as it is published to rows as we read them: none, one, or several."""


class DataSource(Config):
    """One source of rows in a recipe.

    `source` is a path (relative to the recipe's folder, or absolute), a Hub id (`hub:owner/name`,
    `hub:owner/name:subset`, or plain `owner/name` where no such path exists), or `lab:<set>`. `columns`
    maps our names to theirs (`{prompt: question, completion: answer}`). `skip` and `rows` choose a range
    of the rows as they stand in the source. `proportion` is this source's share when several are mixed.
    `max_bad_fraction` is the share of rows that may be unreadable or meaningless before the start is
    refused; they are dropped and counted either way.
    """

    source: str = Field(min_length=1)
    split: str = Field("train", min_length=1)
    format: Format = "auto"
    columns: dict[str, str] | None = None
    skip: int = Field(0, ge=0)
    rows: int | None = Field(None, ge=1)
    proportion: float | None = Field(None, gt=0.0)
    max_bad_fraction: float = Field(0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "\x00" in self.source or not self.source.strip():
            raise ValueError("'source' must be a path, a Hub id or lab:<set>")
        if self.columns is not None and not self.columns:
            raise ValueError("'columns' is empty; leave it out, or map our names to yours: {prompt: question}")
        return self


def locate(source: DataSource, root: Path) -> Path | str:
    """Return the path that a source names, or `lab:<set>` or `hub:<id>`.

    Raises:
        DataError: It names a path that does not exist.
    """
    text = source.source
    if text.startswith(("lab:", "hub:")):
        return text
    path = root / text
    if not os.path.lexists(path) and _HUB_ID.fullmatch(text) and _strip_compression(Path(text)).suffix not in SUFFIXES:
        return f"hub:{text}"
    if not os.path.isdir(path):  # unlike Path.is_dir, never raises
        check_regular_file(path)
    return path


def _strip_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in COMPRESSIONS else path


def open_rows(
    source: DataSource, *, root: Path, row_source: RowSource | None = None, reader: RawReader | None = None
) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a source, from `skip` on and at most `rows` of them, bad ones in their places.

    Args:
        source: What to read.
        root: The folder that relative paths start from.
        row_source: Opens `lab:` sets.
        reader: Reads rows of a published form; what it gives is what `skip` and `rows` count.

    Raises:
        DataError: The source cannot be read as a whole, or holds no row in the range.
    """
    stop = None if source.rows is None else source.skip + source.rows
    is_empty = True
    chosen: Iterable[RawRow | BadRow] | None = None
    if reader is None:
        chosen = _KEPT.find(_ask_lab(source, row_source))
    if chosen is None:
        found = _open_all(source, root, row_source)
        chosen = itertools.islice(_read_published(found, reader or _find_reader(source)), source.skip, stop)
    for row in chosen:
        is_empty = False
        yield row
    if is_empty:
        raise DataError(
            f"no rows after the first {source.skip:,}" if source.skip else "no rows",
            expected="at least one row",
            cure="lower 'skip'" if source.skip else "write the rows again",
            place=str(locate(source, root)),
        )


def _find_reader(source: DataSource) -> RawReader:
    """Return what makes several rows of one where the source's form has several in one."""
    return lambda row: split_rows(row, source.format)


def _read_published(rows: Iterable[RawRow | BadRow], reader: RawReader) -> Iterator[RawRow | BadRow]:
    for row in rows:
        if isinstance(row, BadRow):
            yield row
        else:
            yield from reader(row)


def _open_all(source: DataSource, root: Path, row_source: RowSource | None) -> Iterator[RawRow | BadRow]:
    where = locate(source, root)
    if isinstance(where, Path):
        return _open_path(source, where)
    if where.startswith("hub:"):
        name = where.removeprefix("hub:")
        return iterate_dataset(load_hub_dataset(name, source.split), where, name)
    return _open_lab(source, row_source)


def _open_path(source: DataSource, path: Path) -> Iterator[RawRow | BadRow]:
    if path.is_dir():
        return read_datasets_folder(_check_folder(path), source.split, path.name)
    if source.split != "train":
        cure = "leave 'split' out, and name the file of the split in 'source'"
        raise DataError(f"split '{source.split}' of a file, which has no splits", cure=cure, place=str(path))
    suffix = _strip_compression(path).suffix
    if suffix in _TEXT_READERS:
        return _TEXT_READERS[suffix](path, path.name)
    if suffix == ".txt":
        return _read_document(path)
    if path.suffix in _COLUMN_READERS:
        return _COLUMN_READERS[path.suffix](path, path.name)
    raise DataError(
        f"a file of the kind '{path.suffix or path.name}'",
        expected=", ".join(SUFFIXES) + "; the first six also as .gz or .xz",
        cure="convert it, for example to JSON Lines: one object a line",
        place=str(path),
    )


def _check_folder(path: Path) -> Path:
    if not is_datasets_folder(path):
        raise DataError(
            "a folder that holds no data set",
            expected="a file, or a folder written by datasets' save_to_disk",
            cure="name the file inside it; several files are several entries under 'data'",
            place=str(path),
        )
    return path


def _read_document(path: Path) -> Iterator[RawRow | BadRow]:
    """Yield a text file as one row with the column `text`."""
    row_id, place = f"{path.name}:1", str(path)
    with open_bytes(path) as stream:
        content = stream.read(rows.MAX_ROW_BYTES + 1)
    if len(content) > rows.MAX_ROW_BYTES:
        cure = 'split it into documents, one {"text": ...} a line of a .jsonl file'
        yield BadRow(row_id, place, "row too long", f"a text of more than {rows.MAX_ROW_BYTES:,} bytes", cure)
        return
    if b"\x00" in content:
        yield BadRow(row_id, place, "NUL bytes", f"{content.count(0)} NUL bytes: no text file")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        cure = "save the file as UTF-8"
        yield BadRow(row_id, f"{path}:{line}", "not UTF-8", f"byte {error.start + 1}: {error.reason}", cure)
        return
    if text.strip():
        yield RawRow(row_id, place, {"text": text})


def _open_lab(source: DataSource, row_source: RowSource | None) -> Iterator[RawRow]:
    if row_source is None:
        raise DataError("a lab set where no lab is at hand", expected="a file or a Hub id", place=source.source)
    for number, values in enumerate(row_source(source.source.removeprefix("lab:"), source.split), start=1):
        yield RawRow(f"{source.source}:{number}", f"{source.source}/{source.split} row {number}", values)


def fingerprint(source: DataSource, *, root: Path, row_source: RowSource | None = None) -> str:
    """Return the hash of what `open_rows` would read and how it would be understood.

    Equal content has an equal fingerprint wherever it lies; the file's own name counts, because row ids
    hold it. `proportion` and `max_bad_fraction` do not count: they choose no row and change none.

    Raises:
        DataError: The source cannot be read.
    """
    where = locate(source, root)
    if isinstance(where, Path):
        name, content = where.name, _hash_path(source, where)
    elif where.startswith("hub:"):
        name, content = where, str(load_hub_dataset(where.removeprefix("hub:"), source.split)._fingerprint)
    else:
        # Lab rows are made by a program, the same ones all through a process: hashing them needs no promise.
        name, content = where, find_once(_ask_lab(source, row_source), [], lambda: _hash_lab(source, row_source))
    how = source.model_dump(include={"split", "format", "columns", "skip", "rows"})
    return hash_json({"content": content, "name": name, **how})


def _hash_path(source: DataSource, path: Path) -> str:
    if not path.is_dir():
        return find_once(("file", str(path)), [path], lambda: hash_file(path))
    part = locate_split(_check_folder(path), source.split)
    files = sorted(file for file in part.rglob("*") if file.is_file())
    return find_once(("folder", str(part)), files, lambda: hash_folder(part))


def _ask_lab(source: DataSource, row_source: RowSource | None) -> Hashable:
    """Return what names a range of rows of the lab in this process."""
    return ("lab", row_source, source.source, source.split, source.skip, source.rows)


def _hash_lab(source: DataSource, row_source: RowSource | None) -> str:
    content = ""
    stop = None if source.rows is None else source.skip + source.rows
    kept = KeptRows()
    for row in itertools.islice(_open_lab(source, row_source), source.skip, stop):
        content = hash_text(content, canonical_json(row.values))
        kept.add(row)
    _KEPT.keep(_ask_lab(source, row_source), kept)
    return content
