"""A program that a model wrote, and what became of it: the records of the sandbox for hostile code.

A program is Python source that is run once in a throw-away process. Inputs go in as plain data, plain data comes
out, and nothing that decides whether the output is right is ever inside: that is the judge's, outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ProgramStatus = Literal["ok", "raised", "timeout", "memory", "crash", "output", "bad_record", "sandbox_error"]
"""`ok`: it ran to its end; a script that exits with status 0 did. `raised`: an exception of its own, a syntax error
too. `timeout`, `memory`, `output`: a limit. `crash`: its process ended otherwise, any exit before a function returned
included. `bad_record`: its value is no plain data. `sandbox_error`: the harness's own failure, after retries on fresh
servers; every other one is the program's."""

PROGRAM_FAULTS: tuple[ProgramStatus, ...] = ("raised", "timeout", "memory", "crash", "output", "bad_record")


@dataclass(frozen=True, slots=True)
class Program:
    """Source to run once in a process of its own.

    With an `entry`, the source is run as a module and then the function of that name is called with `args` and
    `kwargs`, plain data: its value is the result. Without one, the source is run as `__main__` with `stdin` on
    its standard input, and its standard output is the result.

    Made by scorers, read by `sandbox/`. Example: `Program("def f(x):\\n    return x + 1", entry="f", args=(2,))`
    gives `ProgramResult("ok", value=3)`.
    """

    source: str
    entry: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """What became of a program.

    `value` is what the entry returned, rebuilt from plain data of exact built-in types (int, float, str, bytes,
    bool, None, complex, list, tuple, dict, set, frozenset; bounded depth and size; an `OrderedDict`, `defaultdict` or
    `Counter` comes as the dict it holds). `stdout` is what was written,
    cut at its limit. `why` is for a person. `cpu_seconds` were used.
    """

    status: ProgramStatus
    value: Any = None
    stdout: str = ""
    why: str = ""
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """What one program may use before it is killed; CPU time decides, wall-clock time is a backstop.

    Args:
        cpu_seconds: CPU time.
        wall_seconds: Wall-clock time, for what sleeps or blocks.
        memory_bytes: Address space beyond that of the bare interpreter.
        output_bytes: Standard output, and the record of the value.
    """

    cpu_seconds: float = 2.0
    wall_seconds: float = 10.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
