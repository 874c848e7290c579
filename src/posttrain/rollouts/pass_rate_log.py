"""The log of verdicts by step, from which a run that was killed has the pass rates that it had.

One file, appended once a step, before the step's first update: lines as in `checked_lines`, of the step's number and
`[row, successes, tries]` for each group that was drawn. Pass rates at a step are what the lines before it add up to, so
that a run which goes back to a checkpoint chooses the same problems again. A line has some ten bytes a group; all of
them are kept until the stage is finished, because every one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.core.durable import append_line, fsync_file, storage_errors, write_lines
from posttrain.core.errors import StorageError
from posttrain.rollouts.checked_lines import format_line, read_lines
from posttrain.rollouts.curriculum import PassRates, Verdicts

_NAME = "pass_rates.log"


class PassRateLog:
    """Writes down verdicts and adds them up.

    Args:
        folder: Where the log lies.
        num_problems: Problems of the stage.
        decay: Of what was seen of a problem, at its next visit.
    """

    def __init__(self, folder: Path, num_problems: int, decay: float) -> None:
        self.path = folder / _NAME
        self._num_problems = num_problems
        self._decay = decay
        self._rates = PassRates(num_problems, decay)
        self._next: int | None = None  # the step whose line comes next; None: nothing was read
        self._kept: list[str] | None = None  # lines to write anew before the next one; None: the file ends with them

    def read_before(self, step: int) -> PassRates:
        """Return the pass rates that the steps before one have shown.

        Raises:
            StorageError: The lines of some of these steps are missing or mean nothing, or the file cannot be read.
        """
        if self._next != step:
            lines = [line for line in read_lines(self.path) if line.get("step", -1) < step]
            if [line.get("step") for line in lines] != list(range(step)):
                raise self._describe(f"verdicts of {len(lines)} of {step} steps")
            self._rates = PassRates(self._num_problems, self._decay)
            for line in lines:
                self._rates.see(self._parse(line))
            self._next, self._kept = step, [format_line(line) for line in lines]
        return self._rates

    def add(self, step: int, verdicts: Sequence[Verdicts]) -> None:
        """Write down what a step has shown, and make it survive the machine; what stood there from it on is replaced.

        Raises:
            StorageError: As in `read_before`, or the file cannot be written.
        """
        self.read_before(step)
        line = format_line({"step": step, "seen": [[one.row, one.successes, one.tries] for one in verdicts]})
        if self._kept is None:
            append_line(self.path, line)
            with storage_errors(self.path):
                fsync_file(self.path)
        else:
            write_lines(self.path, [*self._kept, line])
        self._rates.see(verdicts)
        self._next, self._kept = step + 1, None

    def clear(self) -> None:
        """Remove the log."""
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)

    def _parse(self, line: dict[str, object]) -> list[Verdicts]:
        seen = line.get("seen")
        try:
            verdicts = [Verdicts(*map(int, one)) for one in seen]  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise self._describe(f"a line of it cannot be used: {error!r}") from error
        if any(not 0 <= one.row < self._num_problems or not 0 <= one.successes <= one.tries for one in verdicts):
            raise self._describe(f"verdicts of step {line.get('step')} that are none of {self._num_problems} problems")
        return verdicts

    def _describe(self, found: str) -> StorageError:
        return StorageError(
            found,
            expected="the log that was written at every step, which says which problems come next",
            cure="restore the file, or delete the stage's folder, so that it is run from its start",
            place=str(self.path),
        )
