"""Reads the package's own source files for the contract tests: which files there are, and their syntax trees."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "posttrain"


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below folders of the repository, sorted."""
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


@cache
def read_tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def read_lines(path: Path) -> tuple[str, ...]:
    """Return a file's lines."""
    return tuple(path.read_text(encoding="utf-8").splitlines())


def name_of(path: Path) -> str:
    """Return a file's name below the repository, for messages."""
    return path.relative_to(REPOSITORY).as_posix()
