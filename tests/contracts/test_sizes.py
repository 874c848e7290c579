"""Files, functions and signatures stay small enough to be read at once.

Where a longer one is clearer, a comment says why, and the reason is the licence to exceed:

    # long file: <reason>        in the first ten lines of the file
    # long: <reason>             on the `def` line, or on the line above it (above its decorators)
    # many parameters: <reason>  in the same places
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.contracts.sources import name_of, python_files, read_lines, read_tree

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_STAGE_RUN_LINES = 120
MAX_PARAMETERS = 7

Function = ast.FunctionDef | ast.AsyncFunctionDef


def has_reason(text: str, mark: str) -> bool:
    """Return whether a line holds `# <mark>: <at least two words>`."""
    return re.search(rf"#\s*{mark}:[ \t]*\S+[ \t]+\S+", text) is not None


def find_large_functions(tree: ast.Module, lines: Sequence[str], *, is_stage: bool) -> list[str]:
    """Return the functions of a file that are too long or take too many parameters, without a stated reason."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        stated = "\n".join([lines[first - 2] if first > 1 else "", lines[node.lineno - 1]])
        allowed = MAX_STAGE_RUN_LINES if is_stage and node.name == "run" else MAX_FUNCTION_LINES
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > allowed and not has_reason(stated, "long"):
            found.append(f"line {node.lineno}: {node.name} has {length} lines (at most {allowed})")
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls", "ctx")])
        if count > MAX_PARAMETERS and not has_reason(stated, "many parameters"):
            found.append(f"line {node.lineno}: {node.name} takes {count} parameters (at most {MAX_PARAMETERS})")
    return found


FILES = python_files("src/posttrain", "benchmarks", "tests")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    lines = read_lines(path)
    assert len(lines) <= MAX_FILE_LINES or has_reason("\n".join(lines[:10]), "long file")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    is_stage = path.parent.name == "stages"
    assert find_large_functions(read_tree(path), read_lines(path), is_stage=is_stage) == []


def check_source(source: str, *, is_stage: bool = False) -> list[str]:
    return find_large_functions(ast.parse(source), source.splitlines(), is_stage=is_stage)


def test_a_function_of_61_lines_is_found_unless_a_reason_is_stated() -> None:
    body = "\n".join(f"    x{i} = {i}" for i in range(60))
    assert len(check_source(f"def f():\n{body}")) == 1
    assert check_source(f"# long: one table is clearer in one place\ndef f():\n{body}") == []
    assert len(check_source(f"# long: yes\ndef f():\n{body}")) == 1


def test_the_run_of_a_stage_may_have_120_lines_and_no_more() -> None:
    body = "\n".join(f"    x{i} = {i}" for i in range(119))
    assert check_source(f"def run():\n{body}", is_stage=True) == []
    assert len(check_source(f"def run():\n{body}\n    y = 1", is_stage=True)) == 1
    assert len(check_source(f"def run():\n{body}")) == 1


def test_an_eighth_parameter_is_found_and_self_is_not_counted() -> None:
    assert len(check_source("def f(a, b, c, d, *, e, g, h, i): ...")) == 1
    assert check_source("class C:\n    def f(self, a, b, c, d, *, e, g, h): ...") == []
