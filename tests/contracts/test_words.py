"""Names say what a thing is, light modules stay light, and errors are never swallowed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.contracts.sources import PACKAGE, REPOSITORY, name_of, python_files, read_lines, read_tree

EMPTY_WORDS = {"util", "utils", "helper", "helpers", "manager", "managers", "legacy"}
EMPTY_FILE_WORDS = EMPTY_WORDS | {"misc", "common", "stuff", "old", "new", "fast"}
FILES = python_files("src/posttrain", "benchmarks", "tests")
HEAVY = ("torch", "transformers", "peft", "datasets", "scipy", "matplotlib", "pyarrow")


def words_of(name: str) -> set[str]:
    """Return the lower-case words of a snake_case or CamelCase name."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_file_class_and_function_names_hold_no_empty_words(path: Path) -> None:
    named = [path.stem, *(part for part in path.relative_to(REPOSITORY).parts[:-1])]
    defined = [n.name for n in ast.walk(read_tree(path)) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    is_test = path.name.startswith("test_")  # a test's name is a sentence and may speak of anything
    found = {name for name in named if words_of(name) & EMPTY_FILE_WORDS}
    found |= {name for name in defined if not is_test and words_of(name) & EMPTY_WORDS}
    assert found == set()


def states_reason(line: str) -> bool:
    """Return whether a line ends in a comment of three words or more, `noqa` not counted."""
    _, _, comment = line.partition("#")
    comment = re.sub(r"noqa(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?", "", comment)
    return len(re.findall(r"\w+", comment)) >= 3


def find_broad_handlers(tree: ast.Module, lines: Sequence[str]) -> list[str]:
    """Return handlers that catch everything, neither raise again nor say on their line which code they guard."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        is_broad = any(k is None or (isinstance(k, ast.Name) and k.id in ("Exception", "BaseException")) for k in kinds)
        raises_again = isinstance(node.body[-1], ast.Raise)
        if is_broad and not raises_again and not states_reason(lines[node.lineno - 1]):
            found.append(f"line {node.lineno}: {lines[node.lineno - 1].strip()}")
    return found


@pytest.mark.parametrize("path", python_files("src/posttrain", "benchmarks"), ids=name_of)
def test_nothing_catches_every_exception_but_around_code_that_is_named(path: Path) -> None:
    assert find_broad_handlers(read_tree(path), read_lines(path)) == []


def test_broad_handlers_are_found_in_every_form() -> None:
    def check(handler: str, body: str = "pass") -> int:
        source = f"try:\n    f()\n{handler}\n    {body}"
        return len(find_broad_handlers(ast.parse(source), source.splitlines()))

    assert check("except:") == check("except Exception:") == check("except (ValueError, BaseException) as e:") == 1
    assert check("except Exception:  # noqa: BLE001  # a user's reward function may raise anything") == 0
    assert check("except Exception:  # noqa: BLE001 - a user's reward function may raise anything") == 0
    assert check("except Exception:  # noqa: BLE001") == 1
    assert check("except BaseException:", "raise") == check("except ValueError:") == 0


def light_modules() -> list[str]:
    """Return the modules that must be imported without the heavy libraries."""
    names = ["posttrain", "posttrain.cli.main", "posttrain.chat.templates"]
    for room in ("core", "sandbox"):
        names += [f"posttrain.{room}.{path.stem}" for path in sorted((PACKAGE / room).glob("[!_]*.py"))]
    return names


def test_light_modules_are_imported_without_torch_or_other_heavy_libraries() -> None:
    program = "\n".join(
        [
            "import importlib, sys",
            f"for name in {light_modules()!r}:",
            "    importlib.import_module(name)",
            f"    heavy = [h for h in {HEAVY!r} if h in sys.modules]",
            "    assert not heavy, f'{name} imports {heavy}'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_help_of_the_command_line_is_shown_without_torch() -> None:
    program = (
        "import sys\nsys.argv = ['posttrain', '--help']\nfrom posttrain.cli.main import main\n"
        f"try:\n    main()\nexcept SystemExit:\n    pass\nprint([h for h in {HEAVY!r} if h in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "run" in done.stdout
