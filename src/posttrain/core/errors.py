"""Errors a user can act on: what was found, what was expected, and the cure.

Every failure that a user's input or environment can cause is a `PosttrainError`. The command line
prints it without a traceback and exits with its `exit_code`; anything else that escapes is a bug of
this project and is shown as one.
"""

from __future__ import annotations

from typing import Any

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_MODEL = 4
EXIT_TRAINING = 5
EXIT_SANDBOX = 6
EXIT_SAMPLER = 7
EXIT_REFUSED = 8
EXIT_STORAGE = 74
EXIT_LOCKED = 75
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143


class PosttrainError(Exception):
    """A failure with a place, a finding, an expectation and a cure.

    Args:
        found: What was found, in one sentence.
        expected: What should have been there; empty if `found` says it all.
        cure: What the user can do about it.
        place: Where: a recipe key, a file and line, a tensor name.

    The class attribute `code` is a stable name a program may match on, and `exit_code` is what the
    command line exits with.
    """

    code = "E-POSTTRAIN"
    exit_code = EXIT_INTERNAL

    def __init__(self, found: str, *, expected: str = "", cure: str = "", place: str = "") -> None:
        self.found = found
        self.expected = expected
        self.cure = cure
        self.place = place
        super().__init__(self.describe())

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes with the parts, and not with the text that is made of them."""
        return _rebuild, (type(self), self.args, self.__dict__)

    def describe(self) -> str:
        """Return the error as plain lines: code and place, found, expected, cure."""
        lines = [f"{self.code}{' at ' + self.place if self.place else ''}: {self.found}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.cure:
            lines.append(f"  cure: {self.cure}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, str | int]:
        """Return the fields a program may read (`--json`)."""
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            "place": self.place,
            "found": self.found,
            "expected": self.expected,
            "cure": self.cure,
        }


def _rebuild(kind: type[PosttrainError], arguments: tuple[Any, ...], parts: dict[str, Any]) -> PosttrainError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(parts)
    return error


class RecipeError(PosttrainError):
    """A recipe, an override or a command-line argument that cannot be used."""

    code = "E-RECIPE"
    exit_code = EXIT_USAGE


class DataError(PosttrainError):
    """Rows, files or data sets that cannot be read or used."""

    code = "E-DATA"
    exit_code = EXIT_DATA


class TemplateError(DataError):
    """A chat template that cannot be rendered, or renders something that cannot be trained on."""

    code = "E-TEMPLATE"


class ModelError(PosttrainError):
    """A model folder, adapter or artifact that cannot be loaded or trusted."""

    code = "E-MODEL"
    exit_code = EXIT_MODEL


class TrainingError(PosttrainError):
    """A step that cannot be taken: a loss or gradient that is not finite, a denominator of zero."""

    code = "E-TRAINING"
    exit_code = EXIT_TRAINING


class SandboxError(PosttrainError):
    """A sandboxed job that was killed at its limits, or a sandbox that cannot start."""

    code = "E-SANDBOX"
    exit_code = EXIT_SANDBOX


class SamplerError(PosttrainError):
    """An engine or endpoint that cannot sample: out of memory, gone, or refusing what it is asked."""

    code = "E-SAMPLER"
    exit_code = EXIT_SAMPLER


class RefusedError(PosttrainError):
    """A run that must not start, or must not go on, because a check before it failed."""

    code = "E-REFUSED"
    exit_code = EXIT_REFUSED


class StorageError(PosttrainError):
    """A disk that is full or unwritable, or a file that is torn."""

    code = "E-STORAGE"
    exit_code = EXIT_STORAGE


class LockedError(PosttrainError):
    """A run folder that another process is using."""

    code = "E-LOCKED"
    exit_code = EXIT_LOCKED


class TerminatedError(PosttrainError):
    """A run that was asked to stop (SIGTERM, SIGINT) and did so after saving."""

    code = "E-TERMINATED"
    exit_code = EXIT_TERMINATED
