"""Data files that are broken in one way each, with what must be said of them."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.files import chat, say

GOOD = json.dumps(chat("2+2?", "4"))
CALL = {"name": "add", "arguments": {}}


@dataclass(frozen=True)
class BadFile:
    """A broken file: `line` is where it breaks (None: the file as a whole), `reason` what is said of it.

    With `rows` set, the file is readable but for one row, and has so many rows.
    """

    name: str
    write: Callable[[Path], object]
    reason: str
    line: int | None = None
    rows: int | None = None


def lines(*texts: str | bytes) -> Callable[[Path], object]:
    parts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return lambda path: path.write_bytes(b"".join(part + b"\n" for part in parts))


def row(values: Any, reason: str, name: str) -> tuple[str, BadFile]:
    """A JSON Lines file whose second of three rows is bad."""
    text = values if isinstance(values, str | bytes) else json.dumps(values)
    return name, BadFile("rows.jsonl", lines(GOOD, text, GOOD), reason, line=2, rows=3)


def whole(name: str, content: bytes | Callable[[Path], object], reason: str, line: int | None = None) -> BadFile:
    return BadFile(name, content if callable(content) else lambda path: path.write_bytes(content), reason, line=line)


def csv(text: str | bytes, reason: str, name: str, line: int = 3) -> tuple[str, BadFile]:
    """A CSV file whose second of three rows is bad."""
    return name, BadFile("rows.csv", lines("prompt,completion", "2+2?,4", text, "3+3?,6"), reason, line=line, rows=3)


def write_parquet(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


def tear_parquet(path: Path) -> None:
    write_parquet(path, {"prompt": ["a"] * 1000, "completion": [str(number) for number in range(1000)]})
    path.write_bytes(path.read_bytes()[:-200])


def damage_parquet(path: Path) -> None:
    """Overwrite the data pages and leave the footer whole."""
    write_parquet(path, {"prompt": ["a"] * 5000, "completion": [f"{number:09d}" for number in range(5000)]})
    content = bytearray(path.read_bytes())
    content[100:4000] = bytes(255 - byte for byte in content[100:4000])
    path.write_bytes(content)


def write_bad_text_in_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": text, "completion": ["1", "2", "3"]}), path)


def write_arrow(path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"prompt": ["a"] * 1000, "completion": ["b"] * 1000})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    path.write_bytes(path.read_bytes()[:-3000])


def write_foreign_dataset(path: Path) -> None:
    """A saved data set whose description names a file outside its folder."""
    import datasets

    datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]).save_to_disk(str(path))
    state = json.loads((path / "state.json").read_text())
    state["_data_files"] = [{"filename": "../../outside.arrow"}]
    (path / "state.json").write_text(json.dumps(state))


MANY = "\n".join([GOOD] * 500)
DEEP = '{"messages": ' + "[" * 5000 + "]" * 5000 + "}"
CASES: dict[str, BadFile] = dict(
    [
        row('{"messages": [{"role": "user", "cont', "not JSON", "truncated JSON"),
        row('{"messages": 1} {"messages": 2}', "not JSON", "two objects on a line"),
        row("messages: []", "not JSON", "YAML"),
        row("7", "not an object", "a JSON scalar"),
        row("null", "not an object", "JSON null"),
        row('[["a", "b"]]', "not an object", "an array of arrays in a line"),
        row(GOOD.encode()[:20] + b"\x00" * 40, "NUL bytes", "NUL bytes"),
        row(b'{"text": "\xff\xfe"}', "not UTF-8", "invalid UTF-8"),
        row('{"text": "caf\u00e9"}'.encode("latin-1"), "not UTF-8", "Latin-1"),
        row('{"text": "\\ud83d"}', "lone surrogate", "lone surrogate"),
        row('{"text": "a", "\\uDC00": 1}', "lone surrogate", "lone surrogate in a key"),
        row('{"text": "a", "text": "b"}', "duplicate key", "duplicated keys"),
        row('{"messages": [{"role": "user", "role": "assistant"}]}', "duplicate key", "duplicated inner keys"),
        row('{"text": NaN}', "not JSON", "NaN"),
        row('{"text": "a", "score": -Infinity}', "not JSON", "infinity"),
        row('{"text": "a", "score": [-1e999]}', "not JSON", "a number beyond the largest"),
        row('{"text": ' + "9" * 5000 + "}", "not JSON", "a number of 5,000 digits"),
        row('{"text": "tab\tinside"}', "not JSON", "a raw control character"),
        row(DEEP, "nested too deeply", "deeply nested"),
        row('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply", "nested 100 deep"),
        row({"prompt": 7, "completion": "4"}, "wrong type", "an int as prompt"),
        row({"messages": "2+2?"}, "wrong type", "messages as a string"),
        row({"messages": {"role": "user"}}, "wrong type", "messages as an object"),
        row({"messages": [say("user", {"a": 1}), say("assistant", "4")]}, "wrong type", "content as an object"),
        row({"prompt": "2+2?", "completion": ["4"]}, "wrong type", "completion as a list of text"),
        row({"messages": []}, "empty messages", "empty messages"),
        row({"messages": [say("user", None), say("assistant", "4")]}, "no content", "null content"),
        row({"messages": [say("narrator", "2+2?"), say("assistant", "4")]}, "unknown role", "unknown role"),
        row({"messages": [say("system", "Be brief.")]}, "no user message", "only a system message"),
        row({"messages": [say("user", "2+2?")]}, "ends without an answer", "ends with user"),
        row({"messages": [say("system", "a"), say("system", "b"), say("user", "c"), say("assistant", "d")]},
            "misplaced system message", "two system messages"),
        row({"messages": [say("user", "a"), say("tool", "b"), say("assistant", "c")]}, "tool reply without a call",
            "a tool reply without a call"),
        row({"messages": [say("user", "a"), say("assistant", None, tool_calls=[CALL])]} | {"tools": "[{"}, "wrong type",
            "tools that are no JSON"),
        row({"question": "2+2?", "answer": "4"}, "unknown columns", "unknown columns"),
        row({"prompt": None, "completion": None}, "unknown columns", "null columns"),
        row({"completion": "4"}, "missing column", "a missing key"),
        row({"chosen": "4"}, "missing column", "chosen without rejected"),
        row({"prompt": "2+2?"}, "nothing to imitate", "a prompt alone"),
        row({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "nothing to imitate", "a preference"),
        row(chat("2+2?", "REFUSED BY THE TEMPLATE"), "template", "refused by the template"),
        row('{"text": "' + "a" * 200_000 + '"}', "row too long", "a huge line"),
    ]
)  # fmt: skip
CASES |= dict(
    [
        csv("2+2?", "ragged row", "a CSV row with a cell missing"),
        csv("2+2?,4,", "ragged row", "a CSV row with a cell more"),
        csv("1,000,4", "ragged row", "a bare separator in a CSV cell"),
        csv('a 5" disk,4', "wrong quotes", "a quote in a bare CSV cell"),
        csv('"a "b" c",4', "wrong quotes", "quotes that are not doubled in a CSV cell"),
        csv('"a" ,4', "wrong quotes", "a space after a closing quote in CSV"),
        csv("a\rb,4", "wrong line ends", "a carriage return alone in a CSV cell"),
        csv(b"a\x00,4", "NUL bytes", "NUL bytes in a CSV row"),
        csv(b'"a\n\x00",4', "NUL bytes", "NUL bytes in the second line of a CSV row"),
        csv("caf\u00e9,4".encode("latin-1"), "not UTF-8", "Latin-1 in a CSV row"),
        csv("a" * 200_000 + ",4", "row too long", "a huge CSV row"),
        csv('"' + "a\n" * 100_000 + '",4', "row too long", "a CSV cell of many lines"),
    ]
)
CASES |= {
    "a CSV quote that is never closed": BadFile(
        "rows.csv", lines("prompt,completion", "2+2?,4", '"2+2?,4', "3+3?,6"), "wrong quotes", line=3, rows=3
    ),
    "a CSV header alone": whole("rows.csv", b"prompt,completion\n", "no rows"),
    "a CSV column that stands twice": whole("rows.csv", b"prompt,prompt\na,b\n", "'prompt' stands twice", line=1),
    "a CSV column without a name": whole("rows.csv", b"prompt,\na,b\n", "without a name", line=1),
    "a CSV file without a header": whole("rows.csv", b'a "b" c,4\na,4\n', "wrong quotes", line=1),
    "NUL bytes in a CSV header": whole("rows.csv", b"prompt\x00,completion\na,b\n", "NUL bytes", line=1),
    "a CSV header that never ends": whole("rows.csv", b'"prompt,completion\na,b\n', "does not end", line=1),
    "a CSV file with semicolons": whole("rows.csv", b"prompt;completion\na;b\n", "semicolons", line=1),
    "a TSV file with commas": whole("rows.tsv", b"prompt,completion\na,b\n", "commas", line=1),
    "a CSV file in UTF-16": whole("rows.csv", "prompt,completion\na,b\n".encode("utf-16"), "UTF-16"),
    "an empty CSV file": whole("rows.csv", b"", "empty"),
    "blank CSV lines": whole("rows.csv", b"\n\r\n\n", "no rows"),
    "a binary CSV file": whole("rows.csv", bytes(range(128, 256)), "not UTF-8", line=1),
    "a torn CSV file": whole(
        "rows.csv.gz", gzip.compress(b"prompt,completion\n" + os.urandom(5000).hex().encode() + b",4\n")[:-20], "torn"
    ),
}  # fmt: skip
CASES |= {
    "a JSON array in JSON Lines": BadFile("rows.jsonl", lines("[", GOOD + ",", GOOD, "]"), "not JSON", 1, rows=4),
    "an empty file": whole("rows.jsonl", b"", "empty"),
    "blank lines only": whole("rows.jsonl", b"\n \n\t\n", "no rows"),
    "an empty array": whole("rows.json", b"[]", "no rows"),
    "a folder": whole("rows.jsonl", lambda path: path.mkdir(), "a folder"),
    "a missing file": whole("rows.jsonl", lambda path: None, "no such file"),
    "a link to nothing": whole("rows.jsonl", lambda path: path.symlink_to("nowhere"), "no such file"),
    "a link to itself": whole("rows.jsonl", lambda path: path.symlink_to(path.name), "symbolic links"),
    "a pipe": whole("rows.jsonl", os.mkfifo, "not a regular file"),
    "UTF-16": whole("rows.jsonl", GOOD.encode("utf-16"), "UTF-16"),
    "gzip without its suffix": whole("rows.jsonl", gzip.compress(GOOD.encode()), "gzip"),
    "a zip archive": whole("rows.json", b"PK\x03\x04" + bytes(50), "zip"),
    "a binary file": whole("rows.json", bytes(range(128, 256)), "not UTF-8", line=1),
    "an unknown kind of file": whole("rows.xlsx", b"prompt,completion\n", "'.xlsx'"),
    "torn gzip": whole("rows.jsonl.gz", gzip.compress(MANY.encode())[:-20], "torn"),
    "no gzip": whole("rows.jsonl.gz", GOOD.encode(), "torn"),
    "flipped bits in gzip": whole(
        "rows.jsonl.gz", gzip.compress(os.urandom(5000).hex().encode())[:-9] + b"\x00" * 9, "torn"
    ),
    "torn xz": whole("rows.jsonl.xz", lzma.compress(MANY.encode())[:-20], "torn"),
    "no xz": whole("rows.json.xz", GOOD.encode(), "torn"),
    "a torn array": whole("rows.json", f"[{GOOD},\n{GOOD}".encode(), "the file ends after row 2", line=2),
    "an array torn inside a row": whole("rows.json", f'[{GOOD},\n{{"text": "abc'.encode(), "Unterminated", line=2),
    "an array without a comma": whole("rows.json", f"[{GOOD}\n{GOOD}]".encode(), "found '{' after row 1", line=2),
    "an array with a stray word": whole("rows.json", f"[{GOOD},\n\noops]".encode(), "not JSON", line=3),
    "text after an array": whole("rows.json", f"[{GOOD}]\n[]".encode(), "after the array", line=2),
    "a scalar file": whole("rows.json", b"17", "found 17", line=1),
    "a deep array": whole("rows.json", b'[{"a": ' + b"[" * 100_000, "nested", line=1),
    "invalid UTF-8 in an array": whole("rows.json", b'[{"text": "\xff"}]', "not UTF-8", line=1),
    "an array of arrays": BadFile("rows.json", lines(f'[{GOOD},\n["a", "b"],\n{GOOD}]'), "not an object", 2, rows=3),
    "duplicated keys in an array": BadFile(
        "rows.json", lines(f'[{GOOD},\n{{"text": "a", "text": "b"}},\n{GOOD}]'), "duplicate key", 2, rows=3
    ),
    "NUL bytes in text": BadFile("rows.txt", lambda path: path.write_bytes(b"a\x00b"), "NUL bytes", rows=1),
    "Latin-1 text": BadFile("rows.txt", lambda path: path.write_bytes(b"a\n\xe9"), "not UTF-8", line=2, rows=1),
    "blank text": whole("rows.txt", b" \n\n", "no rows"),
    "torn Parquet": whole("rows.parquet", tear_parquet, "no whole Parquet file"),
    "damaged Parquet": whole("rows.parquet", damage_parquet, "no whole Parquet file"),
    "no Parquet": whole("rows.parquet", os.urandom(5000), "no whole Parquet file"),
    "Parquet with wrong columns": BadFile(
        "rows.parquet", lambda path: write_parquet(path, {"a": [1, 2]}), "unknown columns", rows=2
    ),
    "Parquet with wrong types": BadFile(
        "rows.parquet", lambda path: write_parquet(path, {"prompt": [1, 2], "completion": ["a", "b"]}), "wrong type",
        rows=2,
    ),
    "Parquet with invalid UTF-8": BadFile("rows.parquet", write_bad_text_in_parquet, "damaged row", rows=3),
    "Parquet without rows": whole("rows.parquet", lambda path: write_parquet(path, {"text": []}), "no rows"),
    "torn Arrow": whole("rows.arrow", write_arrow, "no whole Arrow file"),
    "no Arrow": whole("rows.arrow", os.urandom(5000), "no whole Arrow file"),
    "a folder of nothing": whole("rows", lambda path: path.mkdir(), "no data set"),
    "a data set that names files outside": whole("rows", write_foreign_dataset, "outside.arrow"),
    "a data set with a torn description": whole(
        "rows", lambda path: (path.mkdir(), (path / "state.json").write_text('{"_data')), "not readable"
    ),
}  # fmt: skip
