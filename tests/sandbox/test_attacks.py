"""Every attack fails in every tier, made by root and by an ordinary user, and nothing is left behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
from typing import Any

import pytest

from tests.sandbox.attacks import ATTACKS
from tests.sandbox.exhaustion import EXHAUSTION, RECORD
from tests.sandbox.users import ORDINARY_USER, run_module

ALL = [*ATTACKS, *EXHAUSTION, *RECORD]
X86_ONLY = {"32-bit calls", "x32 calls", "threads by raw clone"}
NOTHING_LEFT = {"name": "aftermath", "callers": 0, "is_whole": True, "folder": [], "files": [], "processes": 0}


def attack_as(tier: str, user: int | None) -> dict[str, dict[str, Any]]:
    """Return what became of all attacks on a tier, by name, and of the machine (`aftermath`)."""
    lines = map(json.loads, run_module("tests.sandbox.attack_run", tier, user=user).splitlines())
    return {line["name"]: line for line in lines}


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ALL}) == len(ALL) >= 39


# Users of their own, so that tests that run beside each other do not count each other's processes.
@pytest.mark.parametrize(
    ("tier", "user"),
    [
        ("landlock", None),
        ("bubblewrap", None),
        pytest.param("landlock", ORDINARY_USER + 1, marks=pytest.mark.invariants),
        pytest.param("bubblewrap", ORDINARY_USER + 2, marks=pytest.mark.invariants),
    ],
)
def test_every_attack_fails_is_never_the_sandboxs_fault_and_leaves_nothing(tier: str, user: int | None) -> None:
    """No attack gets through, each has one of its statuses; no process, file, change or connection is left behind."""
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if user is not None and os.geteuid() != 0:
        pytest.skip("this user is an ordinary one already")
    results = attack_as(tier, user)
    made = [attack for attack in ALL if attack.name not in X86_ONLY or platform.machine() == "x86_64"]
    assert [results[one.name] for one in made if "open" in results[one.name]["stdout"]] == []
    assert [results[one.name] for one in made if results[one.name]["status"] not in one.statuses] == []
    assert results["aftermath"] == NOTHING_LEFT


def test_the_attacks_get_through_where_there_is_no_sandbox() -> None:
    """They are real: a plain process of an ordinary user does what they try."""
    wanted = {attack.name for attack in ATTACKS if attack.is_open_without_sandbox}
    results = attack_as("nothing", ORDINARY_USER if os.geteuid() == 0 else None)
    assert wanted - {name for name, result in results.items() if "open" in result["stdout"]} == set()
