"""Rows of published benchmarks, read by the benchmark that a task names; a malformed one is a bad row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import DataError, RecipeError
from posttrain.data.byte_streams import COMPRESSIONS
from posttrain.data.rows import BadRow, RawRow, shorten
from posttrain.data.sources import DataSource, RawReader, open_rows
from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.registry import find_benchmark
from posttrain.pipeline.roots import Roots


def read_published(name: str | None, source: DataSource, roots: Roots) -> tuple[DataSource, RawReader | None]:
    """Return a source as it is read, and what maps its published rows to ours; None where a task names no benchmark.

    A row is called after the benchmark and its number in the file, whatever the file is called and however it is
    compressed: `winogrande:17`. Where it gives several they are numbered: `bbh:1#1`, `bbh:1#2`.

    Args:
        name: The benchmark, with or without its version; None: the rows are of our form.
        source: The rows; a path in it is absolute.
        roots: Where files beside it may lie.

    Raises:
        RecipeError: There is no such benchmark.
    """
    if name is None:
        return source, None
    benchmark = find_benchmark(name)
    file = _describe_file(source, roots)
    if source.format == "auto":  # a benchmark gives rows of our form
        source = source.model_copy(update={"format": "trl"})
    return source, lambda row: _read_row(benchmark, file, row)


def _read_row(benchmark: Benchmark, file: PublishedFile, row: RawRow) -> Iterator[RawRow | BadRow]:
    try:
        found = list(benchmark.read_row(row.values, file))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"no '{error.args[0]}'" if isinstance(error, KeyError) and error.args else str(error)
        columns = shorten(", ".join(map(str, row.values)))
        yield BadRow(
            row.row_id,
            row.place,
            f"not a row of {benchmark.name}",
            f"not a row of {benchmark.name}: {shorten(what, 200)}; the row has: {columns}",
            f"name the file as it was published, or leave out 'benchmark: {benchmark.name}'",
        )
        return
    for number, values in enumerate(found, start=1):
        row_id = f"{benchmark.name}:{row.row_id.rpartition(':')[2]}"
        yield RawRow(row_id if len(found) == 1 else f"{row_id}#{number}", row.place, values)


def _describe_file(source: DataSource, roots: Roots) -> PublishedFile:
    path = Path(source.source)
    if not path.is_absolute():
        return PublishedFile(source.source.rpartition("/")[2], _refuse_beside(source.source))
    stem = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    known: dict[str, list[Mapping[str, Any]]] = {}

    def read_beside(name: str) -> Sequence[Mapping[str, Any]]:
        if name not in known:
            known[name] = _read_beside(path.parent, name, roots)
        return known[name]

    return PublishedFile(stem.stem, read_beside)


def _refuse_beside(source: str) -> Callable[[str], Sequence[Mapping[str, Any]]]:
    def refuse(name: str) -> Sequence[Mapping[str, Any]]:
        raise DataError(
            f"the benchmark reads '{name}' beside its rows, and {source} is no file",
            expected="the files of the benchmark in one folder",
            cure="get them, and name the file of the rows as 'source'",
            place=source,
        )

    return refuse


def _read_beside(folder: Path, name: str, roots: Roots) -> list[Mapping[str, Any]]:
    """Return the rows of a file by its path from a folder.

    Raises:
        DataError: There is none, it leads out of the roots, or a row of it cannot be read.
    """
    try:
        path = roots.resolve(str(folder / name), place=f"{folder}/{name}")
    except RecipeError as error:
        raise DataError(error.found, expected=error.expected, cure=error.cure, place=error.place) from None
    found = next((one for one in list_spellings(path) if one.is_file()), path)
    rows: list[Mapping[str, Any]] = []
    for row in open_rows(DataSource(source=str(found)), root=folder):
        if isinstance(row, BadRow):
            raise DataError(
                f"{row.reason}: {row.detail}",
                expected="a file of the benchmark as it was published",
                cure="get it anew",
                place=row.place,
            )
        rows.append(row.values)
    return rows


def list_spellings(path: Path) -> list[Path]:
    """Return a path, and what it is called when it is compressed."""
    return [path, *(path.with_name(path.name + suffix) for suffix in COMPRESSIONS)]
