"""Knowledge bases as files: JSON, JSON lines, CSV or SQLite, read into rows whose place is known.

All four hold the same columns. A row of facts has `entity`, `attribute`, `value`, and may have the other names of each
(`entity_aliases`, `attribute_aliases`, `value_aliases`: a list, or text with `|` between names) and what is declared
of its attribute: `type` (`any`, `text`, `number`, `date`), `unit`, `tolerance` (`5`, or `1%`), `multiple` (several
values are true at once), `complete` (the values listed are all there are), `patterns` (sentences such as
`{entity} lies in {value}`). A declaration once is enough; two that differ are refused. Other columns are left alone
unless they look like a slip of these.

* CSV (`.csv`, UTF-8, a header) and JSON lines (`.jsonl`): rows of facts.
* JSON (`.json`): a list of rows of facts, or `{"facts": [...], "attributes": [...], "aliases": [...]}`. A row of
  `attributes` is a declaration, `{"attribute": "height", "type": "number", "unit": "m"}`; one of `aliases` is
  `{"kind": "entity" | "attribute" | "value", "name": "United Kingdom", "alias": "UK"}`.
* SQLite (`.db`, `.sqlite`, `.sqlite3`): tables of those three names, `facts` required. Opened read-only; views, which
  would run the file's own queries, are refused.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from posttrain.core.errors import DataError

FACT_COLUMNS = ("entity", "attribute", "value")
ALIAS_COLUMNS = ("entity_aliases", "attribute_aliases", "value_aliases")
DECLARED_COLUMNS = ("type", "unit", "tolerance", "multiple", "complete", "patterns")
_KNOWN = {
    "facts": (FACT_COLUMNS, (*ALIAS_COLUMNS, *DECLARED_COLUMNS)),
    "attributes": (("attribute",), ("attribute_aliases", *DECLARED_COLUMNS)),
    "aliases": (("kind", "name", "alias"), ()),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table and where it stands, for messages: `facts.csv:7`."""

    place: str
    cells: dict[str, Any]


@dataclass(slots=True)
class Tables:
    """The rows of a knowledge base. Made here, read by `knowledge_base.build_knowledge_base`."""

    facts: list[Row] = field(default_factory=list)
    attributes: list[Row] = field(default_factory=list)
    aliases: list[Row] = field(default_factory=list)


def read_tables(path: Path) -> Tables:
    """Return the rows of a knowledge base's file.

    Raises:
        DataError: The file is missing, of no known kind, broken, or lacks a table or column; with file and row.
    """
    readers = {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_json_lines}
    readers |= dict.fromkeys((".db", ".sqlite", ".sqlite3"), _read_sqlite)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"the knowledge base has the ending {path.suffix!r}",
            expected=", ".join(sorted(readers)),
            cure="save it in one of these forms",
            place=str(path),
        )
    try:
        return reader(path)
    except OSError as error:
        raise DataError(
            f"the knowledge base cannot be opened: {error.strerror or error}",
            cure="correct the path, or the file's permissions",
            place=str(path),
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is no UTF-8", cure="save the file as UTF-8", place=str(path)) from error


def read_rows(rows: Iterable[Any], table: str, place: str) -> list[Row]:
    """Return rows that are given as mappings (a list in memory, a JSON file) with their places, columns checked.

    Raises:
        DataError: A row is no mapping, or lacks a column.
    """
    found = []
    for number, cells in enumerate(rows, 1):
        where = f"{place}:{number}"
        if not isinstance(cells, dict):
            raise DataError(
                f"a row of '{table}' is {type(cells).__name__}",
                expected=f"an object with {', '.join(_KNOWN[table][0])}",
                cure="write every row as an object",
                place=where,
            )
        _check_columns(cells, table, where)
        found.append(Row(where, cells))
    return found


def read_text(row: Row, column: str) -> str:
    """Return a cell as text, or raise with its row."""
    cell = row.cells.get(column)
    if isinstance(cell, bool) or not isinstance(cell, str | int | float) or not str(cell).strip():
        raise DataError(
            f"'{column}' is {cell!r}",
            expected="text or a number that is not empty",
            cure="fill the cell, or remove the row",
            place=row.place,
        )
    return str(cell).strip()


def read_names(cell: Any) -> list[str]:
    """Return the names of a cell: a list, or text with `|` between them."""
    parts = cell if isinstance(cell, list) else str(cell).split("|")
    return [str(part).strip() for part in parts if str(part).strip()]


def _check_columns(names: Iterable[str], table: str, place: str) -> None:
    required, optional = _KNOWN[table]
    names = list(names)
    for name in required:
        if name not in names:
            close = difflib.get_close_matches(name, [str(n) for n in names], 1)
            raise DataError(
                f"no column '{name}' in '{table}'",
                expected=f"the columns {', '.join(required)}",
                cure=f"rename '{close[0]}' to '{name}'" if close else f"add the column '{name}'",
                place=place,
            )
    for name in set(names) - {*required, *optional}:
        close = difflib.get_close_matches(str(name), optional, 1, cutoff=0.85)
        if close:
            raise DataError(
                f"the column '{name}' in '{table}' is unknown",
                expected=f"one of {', '.join((*required, *optional))}",
                cure=f"rename it to '{close[0]}', or to something less like it",
                place=place,
            )


def _read_csv(path: Path) -> Tables:
    content = path.read_text(encoding="utf-8-sig")
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, "facts", f"{path}:1")
        if len(set(header)) < len(header):
            raise DataError("two columns have one name", cure="rename one of them", place=f"{path}:1")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"the row has {len(cells)} cells",
                    expected=f"{len(header)}, as the header has",
                    cure='quote values that hold a comma: "Paris, France"',
                    place=f"{path}:{reader.line_num}",
                )
            if cells:
                filled = {name: cell for name, cell in zip(header, cells, strict=True) if cell or name in FACT_COLUMNS}
                rows.append(Row(f"{path}:{reader.line_num}", filled))
    except csv.Error as error:
        raise DataError(
            f"the CSV is broken: {error}", cure="close the quotes of this row", place=f"{path}:{reader.line_num}"
        ) from error
    return Tables(facts=rows)


def _load_json(text: str, path: Path, line: int | None = None) -> Any:
    place = str(path) if line is None else f"{path}:{line}"

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
            raise DataError(f"an object has the key {twice!r} twice", cure="keep one of them", place=place)
        return found

    try:
        return json.loads(text, object_pairs_hook=refuse_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if line is None and isinstance(error, json.JSONDecodeError):
            place = f"{path}:{error.lineno}"
        raise DataError(
            f"the JSON is broken: {error}", cure="correct it; a JSON checker shows the place", place=place
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _read_json(path: Path) -> Tables:
    content = _load_json(path.read_text(encoding="utf-8-sig"), path)
    if isinstance(content, list):
        content = {"facts": content}
    if not isinstance(content, dict) or "facts" not in content:
        raise DataError(
            "no list of facts",
            expected='a list of rows, or {"facts": [...], "attributes": [...], "aliases": [...]}',
            cure="write the facts as a list of objects with entity, attribute, value",
            place=str(path),
        )
    unknown = sorted(set(content) - set(_KNOWN))
    if unknown or not all(isinstance(rows, list) for rows in content.values()):
        raise DataError(
            f"the key '{unknown[0]}' is unknown" if unknown else "a table is no list",
            expected="lists under facts, attributes, aliases",
            cure="remove or rename it" if unknown else "write every table as a list of objects",
            place=str(path),
        )
    return Tables(**{name: read_rows(rows, name, f"{path}:{name}") for name, rows in content.items()})


def _read_json_lines(path: Path) -> Tables:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                cells = _load_json(line, path, number)
                rows += [Row(f"{path}:{number}", row.cells) for row in read_rows([cells], "facts", f"{path}:{number}")]
    return Tables(facts=rows)


def _read_sqlite(path: Path) -> Tables:
    path.stat()  # a missing file is an OSError with its own words
    tables = Tables()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            kinds = dict(connection.execute("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view')"))
            for name in _KNOWN:
                if kinds.get(name) == "view":
                    raise DataError(f"'{name}' is a view", cure="store it as a table", place=str(path))
                if name in kinds:
                    getattr(tables, name).extend(_read_sqlite_table(connection, name, str(path)))
                elif name == "facts":
                    raise DataError(
                        "no table 'facts'",
                        expected=f"a table 'facts' with {', '.join(FACT_COLUMNS)}",
                        cure=f"rename one of: {', '.join(sorted(kinds)) or '(the file has none)'}",
                        place=str(path),
                    )
    except sqlite3.Error as error:
        raise DataError(
            f"the SQLite file cannot be read: {error}", cure="restore it, or write it again", place=str(path)
        ) from error
    return tables


def _read_sqlite_table(connection: sqlite3.Connection, table: str, path: str) -> Iterator[Row]:
    cursor = connection.execute(f"SELECT * FROM {table}")  # the name is one of `_KNOWN`, not the file's
    names = [column[0] for column in cursor.description]
    _check_columns(names, table, f"{path}:{table}")
    for number, values in enumerate(cursor, 1):
        cells = {n: v for n, v in zip(names, values, strict=True) if v is not None or n in FACT_COLUMNS}
        yield Row(f"{path}:{table}:{number}", cells)
