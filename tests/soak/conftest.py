"""The process that starts runs which are to be killed, one for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soak.processes import Driver


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as started:
        yield started
