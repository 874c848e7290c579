"""Public coding problems with reference solutions, and mutants of these: what a judge of programs is tried on.

A mutant is the reference with its function replaced by one that is wrong in a known way. The verdict of the
published tests on a mutant is found without the judge: program and tests run as one script, as their authors
meant them, which is sound for programs that do not try to deceive.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.records import Message
from posttrain.sandbox.programs import Program
from posttrain.sandbox.running import ProgramPool

MUTANTS = {
    "none": "return None",
    "off_by_one": "return _shift(_original(*args, **kwargs))",
    "constant": "return _first",
    "echo": "return args[0] if args else None",
    "first_only": "return _first if repr((args, kwargs)) == _seen else None",
}
"""By name, what the function does: nothing; one too many, or the last item dropped; what the first call of the tests
should give, for every call; its own argument; right for the first call's arguments alone."""
_MUTANT = """

_original = {entry}


def _shift(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, (str, list, tuple)):
        return value[:-1] if value else value + type(value)("x")
    if isinstance(value, dict):
        return dict(list(value.items())[:-1]) if value else {{"x": 1}}
    if isinstance(value, (set, frozenset)):
        return type(value)(list(value)[:-1]) if value else type(value)("x")
    return 0


def {entry}(*args, **kwargs):
    {body}
"""

_PROBE = """

_original = {entry}


def {entry}(*args, **kwargs):
    import os

    seen = repr((args, kwargs))
    print("", seen, repr(_original(*args, **kwargs)), sep="\\0", end="", flush=True)
    os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """A problem with its reference: `columns` for the scorer, `script` the published tests as a script.

    `program` is the whole reference program and `completion` what a policy would write.
    """

    name: str
    entry: str
    columns: dict[str, Any]
    program: str
    completion: str
    script: str
    messages: list[Message] = field(default_factory=list)


def read_humaneval(folder: Path) -> Iterator[CodeProblem]:
    """Yield HumanEval's problems (Chen et al., 2021, arXiv:2107.03374) from `code/humaneval.jsonl.gz`."""
    with gzip.open(folder / "code" / "humaneval.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            entry = row["entry_point"]
            yield CodeProblem(
                name=row["task_id"],
                entry=entry,
                columns={"entry_point": entry, "test": row["test"]},
                program=row["prompt"] + row["canonical_solution"],
                completion=row["canonical_solution"],
                script=f"{row['test']}\n\ncheck({entry})\n",
                messages=[{"role": "user", "content": row["prompt"]}],
            )


def read_mbpp(folder: Path) -> Iterator[CodeProblem]:
    """Yield the test split of sanitized MBPP (Austin et al., 2021, arXiv:2108.07732)."""
    path = folder / "code" / "mbpp_sanitized_test.jsonl"
    for number, row in enumerate(map(json.loads, path.read_text(encoding="utf-8").splitlines())):
        tests = "\n".join(row["test_list"])
        yield CodeProblem(
            name=f"mbpp/{number}",
            entry=_find_entry(row["code_header"]),
            columns={"test_list": row["test_list"], "test_imports": row["test_imports"]},
            program=row["code"],
            completion=f"Here it is.\n\n```python\n{row['code']}\n```\n",
            script="\n".join([*row["test_imports"], tests]),
            messages=[{"role": "user", "content": row["prompt"]}],
        )


def build_mutant(problem: CodeProblem, kind: str, first: tuple[str, str]) -> str:
    """Return the program of a mutant.

    Args:
        problem: Whose reference it is.
        kind: One of `MUTANTS`.
        first: Texts of what the tests' first call gives as arguments, and of the value that it should have.
    """
    seen, value = first
    mutant = _MUTANT.format(entry=problem.entry, body=MUTANTS[kind])
    return f"{problem.program}\n{mutant}\n\n_seen = {seen!r}\n_first = {value}\n"


def find_first_calls(problems: Sequence[CodeProblem], pool: ProgramPool) -> list[tuple[str, str]]:
    """Return texts of the arguments and the value of the first call that each problem's tests make."""
    programs = [
        Program(f"{problem.program}\n{_PROBE.format(entry=problem.entry)}\n\n{problem.script}") for problem in problems
    ]
    found = []
    for problem, result in zip(problems, pool.run(programs), strict=True):
        if result.status != "ok" or result.stdout.count("\0") != 2:
            raise RuntimeError(f"the first call of {problem.name}: {result}")
        _, seen, value = result.stdout.split("\0")
        found.append((seen, value))
    return found


def build_script(problem: CodeProblem, program: str) -> str:
    """Return a program and the published tests as one script, which ends without an exception where they pass."""
    return f"{program}\n\n{problem.script}"


def _find_entry(header: str) -> str:
    return re.findall(r"def (\w+)", header)[-1]
