"""Reads JSON Lines and JSON arrays one row at a time, strictly: what JSON forbids is refused by name.

A bad line of a JSON Lines file costs that line. In a JSON array nothing says where the next row
begins after a syntax error, so there the file is refused at the line of the error.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from posttrain.core.errors import DataError
from posttrain.data import rows
from posttrain.data.byte_streams import open_bytes
from posttrain.data.rows import BadRow, RawRow, RowError, find_unusable, shorten

_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK_CHARACTERS = 1 << 16
_ARRAY_CURE = "write the file again; as JSON Lines (.jsonl, one object a line) a bad row costs only itself"


class RowDecoder:
    """Decodes objects and notices what Python's parser lets pass: duplicate keys, NaN, infinity, lone surrogates."""

    def __init__(self) -> None:
        self._problem: tuple[str, str] | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._build_object, parse_constant=self._note_constant, parse_float=self._read_float
        )

    def _build_object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self._problem = ("duplicate key", f"the key {shorten(twice)!r} stands twice in one object")
        return values

    def _note_constant(self, name: str) -> None:
        self._problem = ("not JSON", f"{name}, which JSON does not have (write null)")

    def _read_float(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self._problem = ("not JSON", f"{shorten(digits)}, which is beyond the largest number, 1.8e308 (write null)")
        return value

    def decode_at(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value that begins at a position, and where it ends; `check` then says if it is usable.

        Raises:
            ValueError: Not JSON.
            RecursionError: Nested too deeply.
        """
        self._problem = None
        return self._decoder.raw_decode(text, start)

    def check(self, value: Any, text: str) -> dict[str, Any]:
        """Return a decoded value if it is an object that can be used.

        Args:
            value: What `decode_at` returned.
            text: The text that it came from, or more of it.

        Raises:
            RowError: No object, or an object with something in it that cannot be used.
        """
        if self._problem is not None:
            raise RowError(*self._problem)
        if not isinstance(value, dict):
            raise RowError("not an object", f"a JSON {_json_type(value)}: {shorten(value)}", "write one object a row")
        # Both are rare, and both show in the text: walking every row would cost as much as parsing it.
        if "\\ud" in text or "\\uD" in text or text.count("{") + text.count("[") > rows.MAX_DEPTH:
            unusable = find_unusable(value)
            if unusable:
                raise RowError(unusable, _describe_unusable(unusable))
        return value

    def decode_line(self, line: bytes) -> dict[str, Any]:
        """Return the object of one line.

        Raises:
            RowError: The line is no usable object.
        """
        if b"\x00" in line:
            raise RowError("NUL bytes", f"{line.count(0)} NUL bytes, as a crash leaves them in a half-written file")
        try:
            text = line.decode("utf-8").strip(" \t\r\n")
        except UnicodeDecodeError as error:
            raise RowError("not UTF-8", f"byte {error.start + 1} of the line: {error.reason}") from None
        try:
            value, end = self.decode_at(text, 0)
        except json.JSONDecodeError as error:
            raise RowError("not JSON", f"{error.msg} (column {error.colno}): {shorten(text)}") from None
        except ValueError as error:
            raise RowError("not JSON", str(error)) from None
        except RecursionError:
            raise RowError("nested too deeply", _describe_unusable("nested too deeply")) from None
        if end != len(text):
            raise RowError("not JSON", f"more text after the object at column {end + 1}: {shorten(text[end:])}")
        return self.check(value, text)


def _json_type(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _describe_unusable(reason: str) -> str:
    if reason == "nested too deeply":
        return f"objects or lists nested more than {rows.MAX_DEPTH} deep"
    return "half of a surrogate pair (\\ud800 to \\udfff), which no tokenizer can encode"


def iterate_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (line number from 1, line), with None for a line longer than `rows.MAX_ROW_BYTES`."""
    limit = rows.MAX_ROW_BYTES
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) <= limit:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
        yield number, None


def read_json_lines(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a JSON Lines file; blank lines are no rows, a byte-order mark is passed over.

    Args:
        path: The file, compressed or not.
        name: What row ids begin with.

    Raises:
        DataError: The file cannot be read as a whole (missing, empty, torn compression).
    """
    decoder = RowDecoder()
    with open_bytes(path) as stream:
        for number, line in iterate_lines(stream):
            row_id, place = f"{name}:{number}", f"{path}:{number}"
            if line is None:
                yield BadRow(row_id, place, "row too long", f"a line of more than {rows.MAX_ROW_BYTES:,} bytes")
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                yield RawRow(row_id, place, decoder.decode_line(line))
            except RowError as error:
                is_array = number == 1 and line.lstrip().startswith(b"[")
                cure = "a JSON array belongs into a file named '.json'" if is_array else error.cure
                yield BadRow(row_id, place, error.reason, error.detail, cure)


class _TextBuffer:
    """A window on a text stream: what was consumed is forgotten, its lines stay counted."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream = stream
        self._chunk = _CHUNK_CHARACTERS
        self.text = ""
        self.start = 0
        self.line = 1
        self.is_at_end = False

    def advance(self, end: int) -> None:
        """Consume up to a position of `text`."""
        self.line += self.text.count("\n", self.start, end)
        self.start = end

    def read_more(self) -> None:
        """Read on; a row that does not fit is met with ever larger chunks, so that parsing stays linear."""
        chunk = self._stream.read(max(self._chunk, 2 * (len(self.text) - self.start)))
        self.is_at_end = not chunk
        self.text = self.text[self.start :] + chunk
        self.start = 0

    def peek(self) -> str:
        """Return the next character that is no space, or an empty string at the end."""
        while True:
            match = _SPACE.match(self.text, self.start)
            assert match is not None, "a pattern that may be empty always matches"
            self.advance(match.end())
            if self.start < len(self.text) or self.is_at_end:
                return self.text[self.start : self.start + 1]
            self.read_more()


def read_json_values(path: Path, name: str) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a `.json` file: the objects of one array, or objects one after the other.

    Args:
        path: The file, compressed or not.
        name: What row ids begin with; rows count from 1.

    Raises:
        DataError: Not JSON (with the line), torn, or neither an array nor objects.
    """
    with open_bytes(path) as stream:
        buffer = _TextBuffer(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        try:
            yield from _iterate_values(path, name, buffer)
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8: {error.reason}", expected="UTF-8 text", cure=_ARRAY_CURE, place=f"{path}:{buffer.line}"
            ) from None


def _iterate_values(path: Path, name: str, buffer: _TextBuffer) -> Iterator[RawRow | BadRow]:
    decoder = RowDecoder()
    first = buffer.peek()
    is_array = first == "["
    if first and not is_array and first != "{":
        raise _json_error(path, buffer, f"found {shorten(buffer.text[buffer.start :], 40)}", "an array of objects")
    if is_array:
        buffer.advance(buffer.start + 1)
    number = 0
    following = buffer.peek()
    while following and not (is_array and number == 0 and following == "]"):
        number += 1
        row_id, place = f"{name}:{number}", f"{path}:{buffer.line} (row {number})"
        value, text = _decode_value(path, buffer, decoder)
        try:
            yield RawRow(row_id, place, decoder.check(value, text))
        except RowError as error:
            yield BadRow(row_id, place, error.reason, error.detail, error.cure)
        following = buffer.peek()
        if not is_array:
            continue
        if following == "]":
            break
        if following != ",":
            found = f"found {following!r}" if following else "the file ends"
            raise _json_error(path, buffer, f"{found} after row {number}", "',' or ']'")
        buffer.advance(buffer.start + 1)
        following = buffer.peek()
    if is_array:
        if following != "]":
            raise _json_error(path, buffer, f"the file ends after row {number}", "']' at the end of the array")
        buffer.advance(buffer.start + 1)
        if buffer.peek():
            raise _json_error(path, buffer, f"found {buffer.peek()!r} after the array", "the end of the file")


def _decode_value(path: Path, buffer: _TextBuffer, decoder: RowDecoder) -> tuple[Any, str]:
    """Return the next value and its text, reading on until it is whole."""
    while True:
        try:
            value, end = decoder.decode_at(buffer.text, buffer.start)
            if end < len(buffer.text) or buffer.is_at_end:  # "12" may be the beginning of "123"
                text = buffer.text[buffer.start : end]
                buffer.advance(end)
                return value, text
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(buffer.text) - 16
            if buffer.is_at_end or not is_cut:
                buffer.advance(error.pos)
                raise _json_error(path, buffer, f"not JSON: {error.msg}", "an array of objects") from None
        except ValueError as error:
            raise _json_error(path, buffer, f"not JSON: {error}", "an array of objects") from None
        except RecursionError:
            found = _describe_unusable("nested too deeply")
            raise _json_error(path, buffer, found, f"at most {rows.MAX_DEPTH} levels") from None
        if len(buffer.text) - buffer.start > rows.MAX_ROW_BYTES:
            raise _json_error(path, buffer, "a row too long", f"at most {rows.MAX_ROW_BYTES:,} bytes a row")
        buffer.read_more()


def _json_error(path: Path, buffer: _TextBuffer, found: str, expected: str) -> DataError:
    return DataError(found, expected=expected, cure=_ARRAY_CURE, place=f"{path}:{buffer.line}")
