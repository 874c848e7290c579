"""From a stage of the type `grpo` to the optimizer's update a reader opens four files and reads 700 lines at most."""

from __future__ import annotations

import ast
import re

from tests.conftest import REPOSITORY
from tests.contracts.sources import PACKAGE, read_tree

MOST_FILES, MOST_LINES = 4, 700


def read_path() -> dict[str, list[str]]:
    """Return the functions that docs/rl.md says are read, by file."""
    text = (REPOSITORY / "docs" / "rl.md").read_text(encoding="utf-8")
    (listing,) = re.findall(r"<!-- reading path -->\n(.*?)<!-- end -->", text, re.DOTALL)
    entries = re.findall(r"^\d+\. `([^`]+)`:(.*?)(?=^\d+\. |\Z)", listing, re.MULTILINE | re.DOTALL)
    return {file: re.findall(r"`(\w+)`", functions) for file, functions in entries}


def test_the_path_that_the_documents_give_is_there_and_short() -> None:
    path, num_lines = read_path(), 0
    assert next(iter(path)) == "stages/grpo.py" and list(path)[-1] == "training/step.py" and len(path) <= MOST_FILES
    for file, names in path.items():
        functions = [node for node in ast.walk(read_tree(PACKAGE / file)) if isinstance(node, ast.FunctionDef)]
        for name in names:
            found = [node for node in functions if node.name == name]
            assert found, f"docs/rl.md names {name} of {file}, which is not there"
            num_lines += sum((node.end_lineno or 0) - node.lineno + 1 for node in found)
    assert num_lines <= MOST_LINES
