"""A runner without any isolation, for tests of what the judge does with results: it runs the tests' own programs.

Never given a program that a model wrote. One process a program, killed after a few seconds.
"""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval

from posttrain.sandbox.programs import Program, ProgramResult
from posttrain.scorers.code_comparison import is_plain

_CHILD = """
import sys
source, entry, args, kwargs = eval(sys.stdin.buffer.read().decode("utf-8", "surrogatepass"))
try:
    namespace = {"__name__": "program"}
    exec(compile(source, "<program>", "exec"), namespace)
    value = namespace[entry](*args, **kwargs)
except Exception as error:
    text = f"{type(error).__name__}: {error}"
    sys.stderr.write("raised" + ascii(text)); sys.stderr.flush()
    sys.exit(3)
sys.stderr.write("value" + ascii(value)); sys.stderr.flush()
"""


class UnsafeRunner:
    """Fulfils `ProgramRunner` with plain subprocesses, and counts what it ran."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self.programs: list[Program] = []
        self.rounds: list[int] = []

    def run(self, programs: list[Program]) -> list[ProgramResult]:
        """Run each program, one after the other."""
        self.programs += programs
        self.rounds.append(len(programs))
        return [self._run_one(program) for program in programs]

    def _run_one(self, program: Program) -> ProgramResult:
        if program.entry is None:
            command, given = [sys.executable, "-c", program.source], program.stdin
        else:
            command = [sys.executable, "-c", _CHILD]
            given = repr((program.source, program.entry, program.args, program.kwargs))
        try:
            done = subprocess.run(
                command, input=given.encode("utf-8", "surrogatepass"), capture_output=True, timeout=self.seconds
            )
        except subprocess.TimeoutExpired:
            return ProgramResult("timeout", why="killed")
        except ValueError as error:
            return ProgramResult("raised", why=str(error))
        errors = done.stderr.decode("utf-8", "replace")
        if program.entry is None:
            status = "ok" if done.returncode == 0 else "raised"
            return ProgramResult(status, stdout=done.stdout.decode("utf-8", "replace"), why=errors[-200:])
        if errors.startswith("raised"):
            return ProgramResult("raised", why=literal_eval(errors.removeprefix("raised")))
        if not errors.startswith("value"):
            return ProgramResult("crash", why=errors[-200:])
        try:
            value = literal_eval(errors.removeprefix("value"))
        except (ValueError, SyntaxError):
            return ProgramResult("bad_record")
        return ProgramResult("ok", value=value) if is_plain(value) else ProgramResult("bad_record")
