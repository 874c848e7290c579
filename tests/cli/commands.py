"""Runs the command line inside a test, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from posttrain.cli.main import run_command


class Finished(NamedTuple):
    """What a command left behind: its exit code and what it printed."""

    code: int
    out: str
    err: str


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Finished:
    """Run a command in this process; whatever escapes `run_command` but an exit fails the test."""
    capsys.readouterr()
    try:
        code = run_command([str(argument) for argument in arguments])
    except SystemExit as exit_:
        assert isinstance(exit_.code, int)
        code = exit_.code
    return Finished(code, *capsys.readouterr())


def run_process(*arguments: str | Path, **environment: str) -> Finished:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "posttrain.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)
