"""One base model for all tests of runs, and plug-ins that are forgotten after each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.tiny_runs import Workshop, make_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model, not to be changed."""
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(autouse=True)
def forget_imports() -> Iterator[None]:
    """Let every test import its own plug-ins anew."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        if "posttrain_plugin" in name:
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    """A folder of its own with a copy of the base and rows."""
    return Workshop(tmp_path, tiny_base)
