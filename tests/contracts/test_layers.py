"""A file imports only from floors below its own, or from its own folder.

The floors are declared here once. Imports inside functions and under `TYPE_CHECKING` count like any
other, and so do `import_module("posttrain...")` calls with a literal name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.sources import PACKAGE, name_of, python_files, read_tree

FLOORS = (
    ("core",),
    ("sandbox",),
    ("chat", "objectives", "statistics", "kernels", "safety"),
    ("data", "models", "training", "samplers", "rollouts", "scorers", "lab"),
    ("stages", "evaluation", "gates", "reports", "web"),
    ("pipeline",),
    ("cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FRONT_DOOR = "posttrain"  # files directly in the package see every room; a room takes only the version from them


def imported_names(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for every import of this package; `from a import b` gives `a.b`.

    Args:
        tree: The file's syntax tree.
        package: The dotted package that the file lies in, for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def find_violations(tree: ast.Module, package: str) -> list[str]:
    """Return what a file of a package (`posttrain.chat`, say) imports against the floors."""
    parts = package.split(".")
    room = parts[1] if len(parts) > 1 else FRONT_DOOR
    found = []
    for line, name in imported_names(tree, package):
        target = name.split(".")
        if target[0] != "posttrain" or room == FRONT_DOOR:
            continue
        other = target[1] if len(target) > 1 else FRONT_DOOR
        if other == "__version__" or other == room:
            continue
        if other not in FLOOR_OF:
            found.append(f"line {line}: {name} is no room of the house (from the front door, only __version__)")
        elif FLOOR_OF[other] >= FLOOR_OF[room]:
            found.append(f"line {line}: {room}/ (floor {FLOOR_OF[room]}) imports {name} (floor {FLOOR_OF[other]})")
    return found


def package_of(path: Path) -> str:
    return ".".join(("posttrain", *path.relative_to(PACKAGE).parent.parts))


@pytest.mark.parametrize("path", python_files("src/posttrain"), ids=name_of)
def test_a_file_imports_only_from_floors_below_its_own_or_from_its_own_folder(path: Path) -> None:
    assert find_violations(read_tree(path), package_of(path)) == []


def test_every_folder_of_the_package_has_a_floor() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms - set(FLOOR_OF) == set()


@pytest.mark.parametrize(
    "source",
    [
        "from posttrain.stages import sft",
        "from posttrain import models",
        "import posttrain.training.loop",
        "def late():\n    from posttrain.models.loading import load_model",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from posttrain.samplers import local",
        "from ..models import loading",
        "from .. import models",
        "import importlib\nimportlib.import_module('posttrain.cli.main')",
        "import posttrain",
    ],
)
def test_upward_and_sideways_imports_are_found_in_every_form(source: str) -> None:
    assert len(find_violations(ast.parse(source), "posttrain.data")) == 1


@pytest.mark.parametrize(
    "source",
    ["from posttrain.core.errors import DataError", "from posttrain.chat import rendering", "from . import ledger",
     "from posttrain.data.ledger import Ledger", "import numpy", "from posttrain import __version__",
     "from ..core import hashing"],
)  # fmt: skip
def test_downward_imports_and_those_of_the_own_folder_are_allowed(source: str) -> None:
    assert find_violations(ast.parse(source), "posttrain.data") == []
