"""What the terminal shows of something long: a bar, plain lines, or nothing.

A bar with tokens/s, time left and the figures that matter where a person looks at a terminal; a plain
line every few seconds where the output goes to a file; nothing where a program reads it. Everything
shown is stripped of control characters, because titles and figures may quote a recipe or a model.
"""

from __future__ import annotations

import atexit
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from posttrain.core.progress import SilentProgress
from posttrain.core.protocols import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -~]?)")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e0fff]"
)
_UNITS = {"tokens_per_second": "tokens/s", "time/tokens_per_second": "tokens/s"}
FIRST_LINE_SECONDS = 2.0
"""Something shorter needs no progress; its one line is the last."""


def strip_controls(text: str, *, keep_lines: bool = False) -> str:
    """Return text that can neither move the cursor nor colour, hide or reorder what stands around it.

    Args:
        text: Anything, a model's output for instance.
        keep_lines: Keep line breaks and tabs; otherwise each run of them becomes one space.
    """
    stripped = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
    return stripped if keep_lines else re.sub(r"[\n\t]+", " ", stripped).strip()


def build_progress(json: bool) -> Progress:
    """Return what suits standard output: nothing for `--json`, a bar on a terminal, plain lines elsewhere."""
    if json:
        return SilentProgress()
    return RichProgress() if sys.stdout.isatty() else PlainProgress()


@dataclass(slots=True)
class _Task:
    title: str
    total: int
    unit: str
    started: float
    done: int = 0
    measured_from: tuple[float, int] | None = None
    last_shown: float | None = None
    figures: dict[str, float | str] = field(default_factory=dict)


class PlainProgress:
    """Prints a line at most every few seconds, and one when a task ends; for logs and pipes.

    Args:
        file: Where to print; standard output by default.
        every_seconds: The least time between two lines of one task.
        clock: Seconds that never run backwards; tests pass their own.
    """

    def __init__(
        self, file: TextIO | None = None, every_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._every_seconds = every_seconds
        self._clock = clock
        self._tasks: list[_Task] = []

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        """Begin a task; one that begins inside another is shown until it ends."""
        self._tasks.append(_Task(strip_controls(title), total, strip_controls(unit), self._clock()))

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        """Count on, and print a line if the last one is old enough."""
        if not self._tasks:
            return
        task, now = self._tasks[-1], self._clock()
        task.done += amount
        # A resumed task begins with a jump: its speed is measured from after the first call.
        task.measured_from = task.measured_from or (now, task.done)
        task.figures.update(figures)
        is_due = (
            now - task.started >= FIRST_LINE_SECONDS
            if task.last_shown is None
            else now - task.last_shown >= self._every_seconds
        )
        if is_due:
            task.last_shown = now
            self._print(_describe_task(task, now))

    def finish(self) -> None:
        """End the innermost task with a line that says how long it took."""
        if self._tasks:
            task = self._tasks.pop()
            parts = [f"{task.title}: {_count_units(task)} in {format_duration(self._clock() - task.started)}"]
            self._print(", ".join([*parts, *format_figures(task.figures)]))

    def note(self, text: str) -> None:
        """Print one line."""
        self._print(strip_controls(text))

    def _print(self, line: str) -> None:
        print(line, file=self._file or sys.stdout, flush=True)


class RichProgress:
    """Shows a bar with units done, tokens/s, time left and figures; notes scroll above it.

    The cursor comes back however the process ends in Python: `close` runs at exit too.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._tasks: list[TaskID] = []
        self._figures: list[dict[str, float | str]] = []

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        """Begin a task; one that begins inside another gets a bar below it."""
        bars = self._bars or self._open()
        name, unit_name = strip_controls(title), strip_controls(unit)
        self._tasks.append(bars.add_task(name, total=total or None, unit=_plural(unit_name, total), figures=""))
        self._figures.append({})

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        """Move the innermost bar on and show its newest figures."""
        if self._bars and self._tasks:
            self._figures[-1].update(figures)
            shown = "  ".join(format_figures(self._figures[-1]))
            self._bars.update(self._tasks[-1], advance=amount, figures=shown)

    def finish(self) -> None:
        """End the innermost task; its bar stays as its last line."""
        if self._bars and self._tasks:
            self._bars.stop_task(self._tasks.pop())
            self._figures.pop()
            if not self._tasks:
                self.close()

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        from rich.console import Console
        from rich.text import Text

        console = self._bars.console if self._bars else (self._console or Console())
        console.print(Text(strip_controls(text)), soft_wrap=True)

    def close(self) -> None:
        """Stop drawing and give the cursor back; a second call does nothing."""
        if self._bars:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()
            self._figures.clear()
            atexit.unregister(self.close)

    def _open(self) -> Bars:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.completed:.0f}/{task.total} {task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            speed_estimate_period=30,
        )
        self._bars.start()
        atexit.register(self.close)
        return self._bars


def format_figures(figures: Mapping[str, float | str]) -> list[str]:
    """Return figures as short texts: `loss 2.31`, `6.1k tokens/s`."""
    return [_format_one(strip_controls(name), value) for name, value in figures.items()]


def _format_one(name: str, value: float | str) -> str:
    text = strip_controls(value) if isinstance(value, str) else _shorten(value)
    unit = _UNITS.get(name)
    return f"{text} {unit}" if unit else f"{name} {text}"


def _shorten(value: float) -> str:
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M" if size < 1e9 else f"{value:.3g}"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 1e3:
        return f"{value / 1e3:.2f}k"
    return f"{value:.4g}"


def format_duration(seconds: float) -> str:
    """Return a duration as a terminal shows it: 9.5 s, 2:05 min, 1:02:05 h."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def _describe_task(task: _Task, now: float) -> str:
    parts = [f"{task.title}: {_count_units(task)}"]
    since, before = task.measured_from or (now, task.done)
    if task.total > task.done > before:
        parts.append(f"{format_duration((now - since) * (task.total - task.done) / (task.done - before))} left")
    return ", ".join([*parts, *format_figures(task.figures)])


def _count_units(task: _Task) -> str:
    share = f" ({100 * task.done // task.total} %)" if task.total else ""
    whole = f"{task.done}/{task.total}" if task.total else str(task.done)
    return f"{whole} {_plural(task.unit, task.total or task.done)}{share}"


def _plural(unit: str, count: int) -> str:
    return unit if count == 1 or unit.endswith("s") else unit + "s"
