"""Every attack fails in every tier, made by root and by an ordinary user, and nothing is left behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
from typing import Any

import pytest

from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.exhaustion import EXHAUSTION, RECORD
from tests.sandbox.users import ORDINARY_USER, run_module

ALL = [*ATTACKS, *EXHAUSTION, *RECORD]
X86_ONLY = {"32-bit calls", "x32 calls", "threads by raw clone"}
Results = dict[str, dict[str, Any]]
_found: dict[tuple[str, int | None], Results] = {}


def attack_as(tier: str, user: int | None) -> Results:
    """Return what became of all attacks on a tier, by name; they are made once."""
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if (tier, user) not in _found:
        lines = map(json.loads, run_module("tests.sandbox.attack_run", tier, user=user).splitlines())
        _found[tier, user] = {line["name"]: line for line in lines}
    return _found[tier, user]


@pytest.fixture(params=["landlock", "bubblewrap"], scope="module")
def tier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["this user", "ordinary user"], scope="module")
def user(request: pytest.FixtureRequest) -> int | None:
    if request.param == "this user":
        return None
    if os.geteuid() != 0:
        pytest.skip("this user is an ordinary one already")
    return ORDINARY_USER


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_an_attack_fails_and_is_never_the_fault_of_the_sandbox(tier: str, user: int | None, attack: Attack) -> None:
    if attack.name in X86_ONLY and platform.machine() != "x86_64":
        pytest.skip("an attack by x86_64 machine code")
    result = attack_as(tier, user)[attack.name]
    assert "open" not in result["stdout"], result
    assert result["status"] in attack.statuses, result


def test_attacks_leave_no_process_file_or_connection_behind(tier: str, user: int | None) -> None:
    left = attack_as(tier, user)["aftermath"]
    assert left == {
        "name": "aftermath", "callers": 0, "is_whole": True, "folder": [], "files": [], "processes": 0
    }  # fmt: skip


def test_the_attacks_get_through_where_there_is_no_sandbox() -> None:
    """They are real: a plain process of an ordinary user does what they try."""
    wanted = {attack.name for attack in ATTACKS if attack.is_open_without_sandbox}
    results = attack_as("nothing", ORDINARY_USER if os.geteuid() == 0 else None)
    assert wanted - {name for name, result in results.items() if "open" in result["stdout"]} == set()
