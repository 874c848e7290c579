"""Chooses the tier of the sandbox by probing it, and refuses to go on where none holds."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posttrain.core.errors import SandboxError
from posttrain.sandbox.fleet import Fleet
from posttrain.sandbox.landlock import find_version
from posttrain.sandbox.probes import find_cure, list_probes
from posttrain.sandbox.programs import Program, ProgramLimits

SAFE_TIERS = ("bubblewrap", "landlock")
"""The strongest first."""
UNSAFE_TIER = "unsafe"


class SandboxUnavailableError(SandboxError):
    """No tier of the sandbox passes its self-check on this machine."""

    code = "E-SANDBOX-UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe of one tier found; `start` is the name where the tier's server cannot be started at all."""

    tier: str
    name: str
    passed: bool
    found: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What the probes found when a pool chose its tier, those of tiers that failed included.

    Made by `choose_tier`; recorded beside whatever was scored. `is_safe` is False for programs that run without a
    sandbox, by the user's explicit wish. `landlock` is the version of the kernel's interface, 0 for none.
    """

    tier: str
    is_safe: bool
    seconds: float
    python: str
    kernel: str
    landlock: int
    probes: tuple[ProbeResult, ...]

    @property
    def failures(self) -> tuple[ProbeResult, ...]:
        """The probes that did not pass, of any tier that was tried."""
        return tuple(probe for probe in self.probes if not probe.passed)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-like values."""
        return asdict(self) | {"probes": [asdict(probe) for probe in self.probes]}


def choose_tier(wanted: str, *, allow_unsafe: bool) -> tuple[Fleet, SelfCheck]:
    """Probe tiers until one passes, and return its servers (one, warm) with the record.

    Args:
        wanted: `auto`, or the one tier to try.
        allow_unsafe: Where none passes, return servers without a sandbox.

    Raises:
        SandboxUnavailableError: No tier passes, and running without one is not allowed, or does not work either.
    """
    start = time.monotonic()
    found: list[ProbeResult] = []

    def record(tier: str) -> SelfCheck:
        seconds = time.monotonic() - start
        python = f"{platform.python_implementation()} {platform.python_version()}"
        return SelfCheck(tier, tier != UNSAFE_TIER, seconds, python, platform.release(), find_version(), tuple(found))

    for tier in SAFE_TIERS if wanted == "auto" else (wanted,):
        fleet = Fleet(tier, 1)
        results = probe_tier(fleet)
        found += results
        if all(result.passed for result in results):
            return fleet, record(tier)
        fleet.close()
    if allow_unsafe:
        fleet = Fleet(UNSAFE_TIER, 1)
        (result,) = fleet.run([Program("print('fine')")], [ProgramLimits()])
        found.append(ProbeResult(UNSAFE_TIER, "works: running at all", result.stdout == "fine\n", result.why))
        if found[-1].passed:
            return fleet, record(UNSAFE_TIER)
        fleet.close()
    raise _describe_refusal([result for result in found if not result.passed])


def probe_tier(fleet: Fleet) -> list[ProbeResult]:
    """Return what the probes of a tier find; one failure alone if its server cannot be started."""
    (first,) = fleet.run([Program("print('fine')")], [ProgramLimits()])
    if first.stdout != "fine\n":
        cure = find_cure(fleet.tier, first.why)
        return [ProbeResult(fleet.tier, "start", passed=False, found=first.why or first.status, cure=cure)]
    with tempfile.NamedTemporaryFile(prefix="posttrain-probe-") as secret:
        probes = list_probes(secret.name)
        results = fleet.run([probe.program for probe in probes], [probe.limits for probe in probes])
    return [
        ProbeResult(fleet.tier, probe.name, True)
        if probe.passes(result)
        else ProbeResult(
            fleet.tier, probe.name, False, f"{result.status}: {result.why or result.stdout!r}"[:300], probe.cure
        )
        for probe, result in zip(probes, results, strict=True)
    ]


def _describe_refusal(failures: Sequence[ProbeResult]) -> SandboxUnavailableError:
    lines = [f"{failure.tier}: {failure.name} ({failure.found})" for failure in failures]
    cures = list(dict.fromkeys(failure.cure for failure in failures if failure.cure))
    return SandboxUnavailableError(
        "no tier of the sandbox holds on this machine:\n    " + "\n    ".join(lines),
        expected="every probe of one tier to pass, since programs that a model wrote are run",
        cure="one of:\n    "
        + "\n    ".join([*cures, "allow_unsafe=True (--allow-unsafe-execution), which marks the report"]),
    )
