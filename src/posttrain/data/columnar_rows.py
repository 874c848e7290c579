"""Reads rows of Parquet and Arrow files, of folders that `datasets` saved, and of the Hub.

Arrow data is validated before it is turned into Python values: a damaged file could otherwise point
outside its own memory. A column file cannot tell an absent key from null, so nulls inside rows are
taken as absent (a tool's schema would otherwise hold every key that any other tool has).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.data.byte_streams import check_regular_file
from posttrain.data.rows import BadRow, RawRow, find_unusable

BATCH_ROWS = 256
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def read_parquet(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: Missing, empty, or no whole Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular_file(path)
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from _read_batch(batch, path, name, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _describe_damage(path, "Parquet", number, error) from None


def read_arrow(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of an Arrow file, in the file format or in the stream format that `datasets` writes.

    Raises:
        DataError: Missing, empty, or no whole Arrow file.
    """
    import pyarrow as pa

    number = 0
    try:
        for batch in _iterate_arrow_batches(path):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                yield from _read_batch(part, path, name, number)
                number += part.num_rows
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _describe_damage(path, "Arrow", number, error) from None


def _iterate_arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    check_regular_file(path)
    with path.open("rb") as file:
        is_file_format = file.read(6) == b"ARROW1"
    with pa.memory_map(str(path)) as source:
        if is_file_format:
            reader = pa.ipc.open_file(source)
            _check_names(path, reader.schema.names)
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            stream = pa.ipc.open_stream(source)
            _check_names(path, stream.schema.names)
            yield from stream
            # A stream has no table of contents: cut between two batches, it reads like a shorter one.
            source.seek(max(0, source.tell() - len(_END_OF_STREAM)))
            if source.read() != _END_OF_STREAM:
                raise pa.ArrowInvalid("the stream does not end with its end mark")


def _check_names(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"the column '{twice[0]}' stands twice",
            expected="columns with different names",
            cure="rename one of them and write the file again",
            place=str(path),
        )


def _describe_damage(path: Path, kind: str, number: int, error: Exception) -> DataError:
    where = f"after row {number:,}" if number else "from the start"
    said = (str(error) or repr(error)).splitlines()[0]
    return DataError(
        f"no whole {kind} file, unreadable {where}: {said}",
        expected=f"a file written by pyarrow, pandas, polars or datasets as {kind}",
        cure="copy or write the file again; rows after the damage cannot be read, so none are used",
        place=str(path),
    )


def _read_batch(batch: Any, path: Path, name: str, before: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a batch; if it cannot be converted as a whole, row by row."""
    try:
        batch.validate(full=True)
        values = batch.to_pylist()
    except (ValueError, OverflowError):  # pyarrow's ArrowInvalid and UnicodeDecodeError are ValueErrors
        yield from _read_rows_singly(batch, path, name, before)
        return
    for index, row in enumerate(values):
        yield _make_row(row, f"{name}:{before + index + 1}", f"{path} row {before + index + 1}")


def _read_rows_singly(batch: Any, path: Path, name: str, before: int) -> Iterator[RawRow | BadRow]:
    for index in range(batch.num_rows):
        row_id, place = f"{name}:{before + index + 1}", f"{path} row {before + index + 1}"
        single = batch.slice(index, 1)
        try:
            single.validate(full=True)
            row = single.to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield BadRow(row_id, place, "damaged row", str(error).splitlines()[0])
            continue
        yield _make_row(row, row_id, place)


def _make_row(row: dict[str, Any], row_id: str, place: str) -> RawRow | BadRow:
    unusable = find_unusable(row)
    if unusable:
        return BadRow(row_id, place, unusable, f"a value is {unusable}")
    return RawRow(row_id, place, {column: drop_absent(value) for column, value in row.items()})


def drop_absent(value: Any) -> Any:
    """Return a value without the null entries of the objects inside it."""
    if isinstance(value, dict):
        return {key: drop_absent(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [drop_absent(part) for part in value]
    return value


def is_datasets_folder(folder: Path) -> bool:
    """Return whether `datasets` saved this folder with `save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def locate_split(folder: Path, split: str) -> Path:
    """Return the folder of one split of what `save_to_disk` wrote, with its file names checked.

    Raises:
        DataError: No such split, a torn description, or one that names files outside the folder.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = _read_description(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or split not in splits:
            known = [str(name) for name in splits] if isinstance(splits, list) else []
            raise DataError(
                f"no split '{split}'", expected="a saved split", cure=suggest(split, known), place=f"{folder}"
            )
        folder = folder / split
    elif split not in ("train", _read_description(folder / "state.json").get("_split")):
        cure = "leave 'split' out, or save a DatasetDict"
        raise DataError(f"no split '{split}': the folder holds one data set", cure=cure, place=str(folder))
    _find_arrow_files(folder)
    return folder


def _find_arrow_files(folder: Path) -> list[Path]:
    """Return the files that a saved data set says it consists of, all of them inside its folder."""
    files = _read_description(folder / "state.json").get("_data_files")
    names = (
        [file.get("filename") if isinstance(file, dict) else None for file in files] if isinstance(files, list) else []
    )
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside or not names:
        raise DataError(
            f"state.json names the file {outside[0]!r}" if outside else "state.json names no files",
            expected="Arrow files inside the folder",
            cure="save the data set again with save_to_disk",
            place=str(folder / "state.json"),
        )
    return [folder / str(name) for name in names]


def _read_description(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        cure = "save the data set again with save_to_disk"
        raise DataError(
            f"not readable: {error}", expected="JSON written by datasets", cure=cure, place=f"{path}"
        ) from None
    return values if isinstance(values, dict) else {}


def read_datasets_folder(folder: Path, split: str, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a folder that `datasets` saved with `save_to_disk`.

    Raises:
        DataError: See `locate_split`; or the data is damaged.
    """
    import pyarrow as pa

    part = locate_split(folder, split)
    try:
        for path in _find_arrow_files(part):
            for batch in _iterate_arrow_batches(path):
                batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _describe_damage(part, "Arrow", 0, error) from None
    import datasets

    try:
        dataset = datasets.load_from_disk(str(part))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, datasets.exceptions.DatasetsError) as error:
        # dataset_info.json may hold anything; what datasets raises for it depends on what it holds
        raise _describe_damage(part, "datasets", 0, error) from None
    yield from iterate_dataset(dataset, str(part), name)


def iterate_dataset(dataset: Any, place: str, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a `datasets.Dataset`."""
    number = 0
    for batch in dataset.with_format(None).iter(batch_size=BATCH_ROWS):
        columns = list(batch)
        for cells in zip(*batch.values(), strict=True):
            number += 1
            yield _make_row(dict(zip(columns, cells, strict=True)), f"{name}:{number}", f"{place} row {number}")


def load_hub_dataset(reference: str, split: str) -> Any:
    """Return a data set of the Hub, downloaded or from the local cache.

    Args:
        reference: `owner/name`, or `owner/name:subset`.
        split: The split, in the slicing notation that `datasets` has.

    Raises:
        DataError: No network and not in the cache, no such set, no such split or subset.
    """
    import datasets

    name, _, subset = reference.partition(":")
    try:
        return datasets.load_dataset(name, subset or None, split=split, streaming=False)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"the data set could not be loaded: {str(error).strip() or type(error).__name__}",
            expected="a public data set of the Hugging Face Hub, or one in the local cache",
            cure="check the name, the subset ('hub:owner/name:subset'), the split and the network; without a network, "
            "download it elsewhere, save it with save_to_disk and give the folder as 'source'",
            place=f"hub:{reference} split {split}",
        ) from error
