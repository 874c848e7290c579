"""The tier is chosen by probes, recorded, and refused where nothing holds; never is there a silent way on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.core.errors import EXIT_SANDBOX, SandboxError
from posttrain.sandbox import self_check
from posttrain.sandbox.fleet import Fleet
from posttrain.sandbox.launching import ServerStartError
from posttrain.sandbox.probes import BUBBLEWRAP_CURE, LANDLOCK_CURE, SECCOMP_CURE, USER_CURE, list_probes
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult
from posttrain.sandbox.running import ProgramPool, SandboxUnavailableError
from posttrain.sandbox.self_check import choose_tier, probe_tier
from tests.sandbox.users import ORDINARY_USER, run_module


def run_hobbled(*lacking: str, tier: str = "auto", safety: str = "safe", is_ordinary: bool = True) -> dict[str, Any]:
    """Return what a pool makes of a machine that lacks things, used by an ordinary user or by this one."""
    user = ORDINARY_USER if is_ordinary and os.geteuid() == 0 else None
    found: dict[str, Any] = json.loads(run_module("tests.sandbox.hobbled_run", *lacking, "--", tier, safety, user=user))
    return found


def needs_bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")


def test_every_probe_passes_here_and_the_strongest_tier_is_chosen() -> None:
    with ProgramPool(1) as pool:
        assert pool.self_check.is_safe
        assert pool.tier == ("bubblewrap" if shutil.which("bwrap") else "landlock") or pool.self_check.failures


def test_the_probes_are_attacks_limits_and_features() -> None:
    names = [probe.name for probe in list_probes("/nowhere")]
    assert len(names) == len(set(names)) >= 18
    assert {name.split(":")[0] for name in names} == {"blocked", "bounded", "works"}


def test_every_probe_of_an_attack_notices_when_the_attack_gets_through() -> None:
    for probe in list_probes("/nowhere"):
        if probe.name.startswith("blocked"):
            assert not probe.passes(ProgramResult("ok", stdout="open\n")), probe.name
        assert not probe.passes(ProgramResult("sandbox_error")), probe.name
        assert probe.cure


def test_where_bubblewrap_cannot_make_namespaces_landlock_is_chosen_and_that_is_recorded() -> None:
    found = run_hobbled("namespaces")
    assert (found["tier"], found["is_safe"]) == ("landlock", True)
    assert [failure[:2] for failure in found["failures"]] == [["bubblewrap", "start"]]
    assert found["results"][0][:2] == ["ok", "42\n"]


def test_where_landlock_is_missing_bubblewrap_holds_alone() -> None:
    needs_bubblewrap()
    assert run_hobbled("landlock")["tier"] == "bubblewrap"


@pytest.mark.parametrize(
    ("lacking", "cures"),
    [(["namespaces", "landlock"], [BUBBLEWRAP_CURE, LANDLOCK_CURE]), (["seccomp"], [SECCOMP_CURE])],
)
def test_where_no_tier_holds_the_pool_refuses_with_every_cause_and_cure(lacking: list[str], cures: list[str]) -> None:
    needs_bubblewrap()
    error = run_hobbled(*lacking)["error"]
    assert (error["code"], error["exit_code"]) == ("E-SANDBOX-UNAVAILABLE", EXIT_SANDBOX)
    assert "bubblewrap: start" in error["found"] and "landlock: start" in error["found"]
    assert [cure for cure in cures if cure not in error["cure"]] == []
    assert "allow_unsafe" in error["cure"]


def test_root_that_cannot_become_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    error = run_hobbled("users", is_ordinary=False)["error"]
    assert USER_CURE in error["cure"]


def test_only_by_explicit_wish_programs_run_without_a_sandbox_and_the_record_says_so() -> None:
    found = run_hobbled("namespaces", "landlock", safety="unsafe")
    assert (found["tier"], found["is_safe"]) == ("unsafe", False)
    assert {failure[0] for failure in found["failures"]} == {"bubblewrap", "landlock"}
    assert found["results"][0][:2] == ["ok", "42\n"]


def test_the_wish_changes_nothing_where_a_tier_holds() -> None:
    with ProgramPool(1, allow_unsafe=True) as pool:
        assert pool.self_check.is_safe and pool.tier != "unsafe"


@pytest.mark.parametrize("lacking", [("threads",), ("threads", "namespaces")])
def test_what_else_a_user_runs_does_not_eat_the_threads_of_a_program(lacking: Sequence[str]) -> None:
    """The user has 200 threads; a program may still start eight, and still not thousands."""
    found = run_hobbled(*lacking, tier="landlock")
    assert found["results"][1][:2] == ["ok", "".join(f"{number}\n" for number in range(8))]
    assert found["results"][2][1].startswith("bounded") or "x86_64" in found["results"][2][2]


class _LeakyFleet(Fleet):
    """A fleet whose every program reports what an attack would that got through."""

    def run(self, programs: Sequence[Program], limits: Sequence[ProgramLimits]) -> list[ProgramResult]:
        return [
            ProgramResult("ok", stdout="fine\n" if "print('fine')" in program.source else "open\n")
            for program in programs
        ]


def test_a_tier_that_leaks_is_refused_probe_by_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "Fleet", _LeakyFleet)
    with pytest.raises(SandboxUnavailableError) as caught:
        choose_tier("auto", allow_unsafe=False)
    for probe in list_probes("/nowhere"):
        if probe.name.startswith("blocked"):
            assert f"bubblewrap: {probe.name}" in caught.value.found
            assert f"landlock: {probe.name}" in caught.value.found


def test_a_server_that_cannot_start_is_one_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tier: str) -> None:
        raise ServerStartError(f"no {tier} here")

    monkeypatch.setattr("posttrain.sandbox.fleet.ServerHandle", refuse)
    (failure,) = probe_tier(Fleet("bubblewrap", 1))
    assert (failure.name, failure.found, failure.cure) == ("start", "no bubblewrap here", BUBBLEWRAP_CURE)
    with pytest.raises(SandboxError, match="no landlock here"):
        ProgramPool(1, allow_unsafe=True).run([Program("print(1)")])
