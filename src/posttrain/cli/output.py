"""What a verb prints: lines, tables, JSON and errors, with control characters stripped from everything."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from posttrain.cli.console import strip_controls
from posttrain.core.errors import PosttrainError


def prepare_streams() -> None:
    """Let the standard streams write any character: what their encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence_stdout() -> None:
    """Point standard output at nothing, once its reader is gone, so that no later flush fails."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):  # a stream that is no file needs no care
        return


def print_lines(*texts: str, file: TextIO | None = None) -> None:
    """Print texts, line breaks kept, everything else that a terminal would obey stripped."""
    stream = file or sys.stdout
    for text in texts:
        stream.write(strip_controls(text, keep_lines=True) + "\n")


def print_piece(text: str) -> None:
    """Print a piece of a text that goes on, at once."""
    sys.stdout.write(strip_controls(text, keep_lines=True))
    sys.stdout.flush()


def print_line_json(value: Any) -> None:
    """Print one JSON value on a line of its own, at once, for a program that reads while it is written."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print one JSON value for a program, ASCII only, so that no terminal obeys a text in it."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_error(error: PosttrainError, *, is_json: bool) -> None:
    """Print what was found, expected and the cure to standard error; for a program, JSON to standard output."""
    if is_json:
        print_json({"error": error.to_json()})
        return
    text = strip_controls(error.describe(), keep_lines=True)
    if not sys.stderr.isatty():
        sys.stderr.write(text + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    first, _, rest = text.partition("\n")
    shown = Text(first + "\n", style="bold red").append(rest + "\n" if rest else "", style="default")
    Console(stderr=True).print(shown, end="", soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: ruled where a person looks at a terminal, else aligned lines that are never wrapped or cut."""
    cells = [[strip_controls(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, show_edge=False, pad_edge=False)
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (list(columns), *cells):
        print_lines("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
