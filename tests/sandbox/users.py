"""Runs the sandbox as another user than the one who runs the tests: an ordinary one, where the tests run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ORDINARY_USER = 23_457
"""Nobody's number: nothing belongs to it but what a test gives to it."""
_INTERPRETERS = (
    "/usr/bin/python3",
    "/usr/local/bin/python3",
    *(f"/usr/bin/python3.{minor}" for minor in range(11, 16)),
)
_NEEDED = (
    "src/posttrain/__init__.py",
    "src/posttrain/core",
    "src/posttrain/sandbox",
    "tests/__init__.py",
    "tests/sandbox",
)


def become(user: int) -> list[str]:
    """Return the start of a command line that runs the rest as a user without groups; skips where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def find_interpreter(start: list[str]) -> str:
    """Return a Python of version 3.11 or later that a user may run; skips where there is none."""
    # `setpriv` may start a program that its user could not: the library must be in reach too.
    check = "import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.executable, os.X_OK))"
    for path in (os.path.realpath(os.sys.executable), *_INTERPRETERS):  # type: ignore[attr-defined]
        if os.path.exists(path) and subprocess.run([*start, path, "-c", check], capture_output=True).returncode == 0:
            return path
    pytest.skip("no Python from 3.11 on that an ordinary user may run")


@contextmanager
def copy_for_everybody() -> Iterator[Path]:
    """Make a copy of the sandbox and its tests that every user can read: the repository may lie in a closed home."""
    folder = Path(tempfile.mkdtemp(prefix="posttrain-copy-", dir="/tmp"))
    try:
        for name in _NEEDED:
            source, target = REPOSITORY / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def run_module(module: str, *arguments: str, user: int | None, timeout: float = 300.0) -> str:
    """Run a module of the tests as this user (None) or another, and return what it prints.

    Raises:
        AssertionError: It failed.
    """
    start = [] if user is None else become(user)
    interpreter = os.sys.executable if user is None else find_interpreter(start)  # type: ignore[attr-defined]
    with copy_for_everybody() as folder:
        done = subprocess.run(
            [*start, interpreter, "-m", module, *arguments],
            env={"PATH": os.defpath, "PYTHONPATH": f"{folder}/src:{folder}", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
