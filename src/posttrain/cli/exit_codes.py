"""What every exit code means, for `posttrain --help` and for the documentation."""

from __future__ import annotations

from posttrain.core import errors

EXIT_MEANINGS: dict[int, str] = {
    errors.EXIT_OK: "done",
    errors.EXIT_INTERNAL: "a bug of posttrain; the message says where the traceback is",
    errors.EXIT_USAGE: "the command line or the recipe cannot be used",
    errors.EXIT_DATA: "data or a chat template cannot be read or used",
    errors.EXIT_MODEL: "a model or an artifact cannot be loaded, trusted or exported",
    errors.EXIT_TRAINING: "a step could not be taken (a loss that is not finite, say)",
    errors.EXIT_SANDBOX: "the sandbox cannot start or a job in it was killed",
    errors.EXIT_SAMPLER: "an engine or endpoint that completions are drawn from failed",
    errors.EXIT_REFUSED: "a check or a gate refused, a stage was rolled back, or evaluation items are in training data",
    errors.EXIT_STORAGE: "a disk is full or unwritable, or a file is torn",
    errors.EXIT_LOCKED: "another process works in the run folder",
    errors.EXIT_INTERRUPTED: "interrupted at once (Ctrl-C twice, or where nothing needs saving)",
    errors.EXIT_BROKEN_PIPE: "whoever read the output closed it",
    errors.EXIT_TERMINATED: "asked to stop (SIGTERM, Ctrl-C); saved, and the same command goes on from there",
}


def describe_exit_codes() -> str:
    """Return the table as plain lines, for the end of a help text."""
    return "\n".join(f"{code:>3}  {meaning}" for code, meaning in sorted(EXIT_MEANINGS.items()))
