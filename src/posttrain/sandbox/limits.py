"""What a sandboxed job may use, and the errors that stand in the place of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from posttrain.core.errors import SandboxError

FailureKind = Literal["timeout", "memory", "output", "crash", "raised"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use before it is killed; every job has the whole of each for itself.

    Made by whoever builds a `Pool`, read by the pool and its workers.

    Args:
        cpu_seconds: CPU time of one job. This is the limit that decides: load on the machine does not change it.
        wall_seconds: Wall-clock time of one job, for what sleeps or blocks; several times `cpu_seconds`.
        memory_bytes: Address space that a worker may add to what a bare interpreter has mapped.
        output_bytes: Size of a job's result as JSON text.

    Raises:
        ValueError: A limit is not positive.
    """

    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    output_bytes: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the limits as JSON-like values, for the worker."""
        return {name: getattr(self, name) for name in self.__slots__}


class JobError(SandboxError):
    """One job that failed: killed at a limit, crashed, or raised an exception of its own.

    Args:
        kind: `timeout`, `memory`, `output`, `crash`, or `raised` (an ordinary exception of the job).
        message: What happened; for `raised` the exception's own text.
        exception: The class name of the exception, for `raised`.
    """

    code = "E-SANDBOX-JOB"

    def __init__(self, kind: FailureKind, message: str, *, exception: str = "") -> None:
        self.kind = kind
        self.message = message
        self.exception = exception
        super().__init__(f"{exception}: {message}" if exception else message)

    @property
    def was_killed(self) -> bool:
        """Whether the job lost its worker, rather than end by itself."""
        return self.kind != "raised"
