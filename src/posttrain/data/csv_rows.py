"""Reads CSV and TSV files one row at a time, strictly by RFC 4180: the first line names the columns, cells are texts.

A cell in double quotes may hold separators, line breaks and, doubled, quotes. A first column without a name is a row
index, as pandas writes it, and is left out. What the standard does not allow costs its row: a quote inside a bare cell,
text after a closing quote, more or fewer cells than the header has. A quote that is never closed costs every line after
it, each counted as a bad row. Python's `csv` reads on over such rows with other cells than were meant, and its limit on
a cell's length is one for the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from posttrain.core.errors import DataError
from posttrain.data import rows
from posttrain.data.byte_streams import open_bytes
from posttrain.data.json_rows import iterate_lines
from posttrain.data.rows import BadRow, RawRow, RowError, shorten

_HEADER_CURE = "write a first line that names every column once"


class _Record:
    """One row that is being read, line by line: its cells so far, and the first thing wrong with it."""

    def __init__(self, separator: str, line: int) -> None:
        self.line = line
        self.cells: list[str] = []
        self.error: RowError | None = None
        self._separator = separator
        self._pieces: list[str] = []
        self._is_quoted = False
        self._size = 0

    def refuse(self, error: RowError) -> None:
        """Note what is wrong with the row; of several things the first counts."""
        self.error = self.error or error

    def take(self, line: bytes) -> bool:
        """Take a line and return whether the row ends with it."""
        self._size += len(line)
        if self._size > rows.MAX_ROW_BYTES:
            self.refuse(RowError("row too long", f"a row of more than {rows.MAX_ROW_BYTES:,} bytes"))
            self._pieces.clear()
        if b"\x00" in line:
            self.refuse(
                RowError("NUL bytes", f"{line.count(0)} NUL bytes, as a crash leaves them in a half-written file")
            )
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.refuse(
                RowError("not UTF-8", f"byte {error.start + 1} of the line: {error.reason}", "save the file as UTF-8")
            )
            text = line.decode("utf-8", "replace")
        body = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
        return self._scan(body, text[len(body) :])

    def _scan(self, body: str, line_break: str) -> bool:
        start = 0
        while True:
            if self._is_quoted:
                end = body.find('"', start)
                if end < 0:
                    self._pieces += (body[start:], line_break)
                    return False
                if body[end + 1 : end + 2] == '"':
                    self._pieces.append(body[start : end + 1])
                    start = end + 2
                    continue
                self._pieces.append(body[start:end])
                self._is_quoted = False
                end += 1
                if body[end : end + 1] not in ("", self._separator):
                    found = f"{shorten(body[end:], 40)!r} after the closing quote of cell {len(self.cells) + 1}"
                    self.refuse(RowError("wrong quotes", found, "double the quotes inside a quoted cell"))
                    return True
            elif body[start : start + 1] == '"':
                self._is_quoted = True
                start += 1
                continue
            else:
                end = body.find(self._separator, start)
                end = len(body) if end < 0 else end
                self._pieces.append(self._check_bare(body[start:end]))
            self.cells.append("".join(self._pieces))
            self._pieces.clear()
            if end == len(body):
                return True
            start = end + 1

    def _check_bare(self, cell: str) -> str:
        if '"' in cell:
            found = f"a quote inside the bare cell {shorten(cell, 40)!r}"
            self.refuse(RowError("wrong quotes", found, "put the cell in quotes and double those inside it"))
        elif "\r" in cell:
            self.refuse(
                RowError("wrong line ends", "a carriage return alone", "end lines with LF or CRLF, or quote the cell")
            )
        return cell


def read_csv(path: Path, name: str, *, separator: str = ",") -> Iterator[RawRow | BadRow]:
    """Yield the rows of a CSV file as objects of texts; blank lines are no rows, a byte-order mark is passed over.

    Args:
        path: The file, compressed or not.
        name: What row ids begin with; rows count from 1, without the header.
        separator: What stands between cells.

    Raises:
        DataError: The file cannot be read as a whole (missing, empty, torn compression), or its header names no
            column, one twice, or one without a name after the first.
    """
    with open_bytes(path) as stream:
        header: list[str] | None = None
        number = 0
        for record in _iterate_records(iterate_lines(stream), separator):
            if header is None:
                header = _check_header(record, path, separator)
                continue
            number += 1
            row_id, place = f"{name}:{number}", f"{path}:{record.line} (row {number})"
            if record.error is None and len(record.cells) != len(header):
                found = f"{len(record.cells)} cells where the header names {len(header)} columns"
                record.refuse(RowError("ragged row", found, "put cells that hold a separator in quotes"))
            if record.error is not None:
                yield BadRow(row_id, place, record.error.reason, record.error.detail, record.error.cure)
                continue
            values = dict(zip(header, record.cells, strict=True))
            values.pop("", None)
            yield RawRow(row_id, place, values)


def read_tsv(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a file of cells with tabs between them, quoted as in CSV (`read_csv`)."""
    return read_csv(path, name, separator="\t")


def _iterate_records(lines: Iterator[tuple[int, bytes | None]], separator: str) -> Iterator[_Record]:
    record: _Record | None = None
    number = 0
    for number, line in lines:
        if line is not None and number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if record is None:
            if line is not None and not line.strip(b" \r\n"):
                continue
            record = _Record(separator, number)
        if line is None:  # where its quotes close was not read: the next line begins a row
            record.refuse(RowError("row too long", f"a line of more than {rows.MAX_ROW_BYTES:,} bytes"))
        if line is None or record.take(line):
            yield record
            record = None
    if record is not None:
        cure = f"close the quote that line {record.line} opens: every line after it was read as part of this cell"
        record.refuse(RowError("wrong quotes", "a quoted cell that does not end", cure))
        yield record
        for swallowed in range(record.line + 1, number + 1):  # each may be a row that is lost, and counts as one
            lost = _Record(separator, swallowed)
            lost.refuse(RowError("wrong quotes", f"the quoted cell of line {record.line} does not end", cure))
            yield lost


def _check_header(record: _Record, path: Path, separator: str) -> list[str]:
    """Return the names of the columns; the first alone may be empty.

    Raises:
        DataError: The line cannot be read, or names no column, one twice, or one without a name after the first.
    """
    place = f"{path}:{record.line}"
    if record.error is not None:
        raise DataError(str(record.error), expected="a header", cure=record.error.cure or _HEADER_CURE, place=place)
    names = [cell.strip() for cell in record.cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if "" in names[1:] or twice is not None or names == [""]:
        found = f"the column {shorten(twice)!r} stands twice" if twice else "a column without a name"
        raise DataError(found, expected="columns with different names", cure=_HEADER_CURE, place=place)
    other = next((mark for mark in ";\t," if mark != separator and mark in names[0]), None)
    if len(names) == 1 and other is not None:
        meant = {";": "semicolons", "\t": "tabs", ",": "commas"}[other]
        cure = (
            f"write it with {'tabs' if separator != ',' else 'commas'}, or name it '.tsv' or '.csv' after what it has"
        )
        raise DataError(f"one column, whose name holds {meant}", expected="columns", cure=cure, place=place)
    return names
