"""Progress suits what stands at the other end: a bar, plain lines, or nothing; never a control character."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from posttrain.cli.console import (
    PlainProgress,
    RichProgress,
    SilentProgress,
    build_progress,
    format_duration,
    format_figures,
    strip_controls,
)
from posttrain.core.protocols import Progress


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def open_bar(width: int = 140) -> tuple[RichProgress, io.StringIO]:
    file = io.StringIO()
    return RichProgress(Console(file=file, force_terminal=True, width=width, color_system=None)), file


def test_plain_lines_come_at_most_every_few_seconds() -> None:
    """1,000 steps of 0.125 s: a first line after 2 s, then 24 of one each 5 s, and the last."""
    file, clock = io.StringIO(), Clock()
    progress = PlainProgress(file, every_seconds=5.0, clock=clock)
    progress.start("sft", 1000)
    for step in range(1000):
        clock.now += 0.125
        progress.advance(1, loss=3.0 - step / 500, tokens_per_second=6123.4)
    progress.finish()
    lines = file.getvalue().splitlines()
    assert len(lines) == 1 + 24 + 1
    assert lines[1] == "sft: 56/1000 steps (5 %), 1:58 min left, loss 2.89, 6.12k tokens/s"
    assert lines[-1] == "sft: 1000/1000 steps (100 %) in 2:05 min, loss 1.002, 6.12k tokens/s"


def test_something_short_prints_its_last_line_only() -> None:
    file, clock = io.StringIO(), Clock()
    progress = PlainProgress(file, clock=clock)
    progress.start("evaluate", 20, unit="item")
    for _ in range(20):
        clock.now += 0.05
        progress.advance(exact_match=0.5)
    progress.finish()
    assert file.getvalue() == "evaluate: 20/20 items (100 %) in 1.0 s, exact_match 0.5\n"


def test_time_left_of_a_resumed_task_counts_only_what_was_done_since() -> None:
    """900 of 1,000 steps were done before; 10 more take 10 s, so 90 s are left."""
    file, clock = io.StringIO(), Clock()
    progress = PlainProgress(file, every_seconds=0.0, clock=clock)
    progress.start("sft", 1000)
    progress.advance(900)
    clock.now += 10
    progress.advance(10)
    assert "1:30 min left" in file.getvalue().splitlines()[-1]


def test_a_task_inside_another_ends_without_ending_it() -> None:
    file, clock = io.StringIO(), Clock()
    progress = PlainProgress(file, clock=clock)
    progress.start("outer", 2)
    progress.start("inner", 1)
    progress.advance()
    progress.finish()
    progress.advance()
    progress.finish()
    progress.finish()
    progress.advance()
    assert file.getvalue().splitlines() == ["inner: 1/1 step (100 %) in 0.0 s", "outer: 1/2 steps (50 %) in 0.0 s"]


def test_the_bar_shows_tokens_per_second_time_left_and_loss() -> None:
    progress, file = open_bar()
    progress.start("sft", 300)
    progress.advance(120, loss=2.3125, tokens_per_second=6123.4)
    progress.note("resumed after step 90")
    progress.finish()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    last = text.splitlines()[-1].strip() or text.splitlines()[-2]
    for expected in ("sft", "40%", "120/300 steps", "left", "loss 2.312", "6.12k tokens/s"):
        assert expected in last
    assert "resumed after step 90" in text


def test_the_cursor_comes_back_after_a_bar_and_after_a_crash() -> None:
    progress, file = open_bar()
    progress.start("sft", 3)
    assert file.getvalue().count("\x1b[?25l") == 1
    progress.close()
    progress.close()
    assert file.getvalue().count("\x1b[?25h") == 1
    program = (
        "from rich.console import Console\nfrom posttrain.cli.console import RichProgress\n"
        "p = RichProgress(Console(force_terminal=True))\np.start('sft', 3)\nraise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stdout.rindex("\x1b[?25h") > done.stdout.rindex("\x1b[?25l")


def test_the_bar_never_wraps_on_a_narrow_terminal() -> None:
    progress, file = open_bar(width=40)
    progress.start("a rather long title of a stage", 300)
    progress.advance(1, loss=1.0, tokens_per_second=5e3)
    progress.finish()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= 40


HOSTILE = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\rd\x08\u202ee\x00\u200b[bold]f"


@pytest.mark.parametrize("kind", ["plain", "rich"])
def test_titles_units_figures_and_notes_lose_their_control_characters(kind: str) -> None:
    progress: Progress
    if kind == "plain":
        file = io.StringIO()
        progress = PlainProgress(file, every_seconds=0.0)
    else:
        progress, file = open_bar()
    progress.start(HOSTILE, 2, unit=HOSTILE)
    progress.advance(1, **{HOSTILE: HOSTILE})
    progress.note(HOSTILE + "\nsft: 100 % done")
    progress.finish()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Zhl]|\x1b\[[0-9;]*m", "", file.getvalue()) if kind == "rich" else file.getvalue()
    assert "ab31mcde[bold]f sft: 100 % done" in text
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\u200b]", text)
    assert "\x1b[2J" not in file.getvalue()
    assert "\x1b]0" not in file.getvalue()


def test_strip_controls_removes_whole_sequences_and_may_keep_lines() -> None:
    assert strip_controls("\x1b[31mred\x1b[0m \x1bPq\x1b\\x\x1b") == "red x"
    assert strip_controls("a\r\nb\tc\r") == "a b c"
    assert strip_controls("a\r\n\tb\x1b[1m", keep_lines=True) == "a\n\tb"
    assert strip_controls("naïve — 東京 🙂") == "naïve — 東京 🙂"


def test_the_progress_fits_what_stands_at_the_other_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(build_progress(json=True), SilentProgress)
    assert isinstance(build_progress(json=False), PlainProgress)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(build_progress(json=False), RichProgress)
    assert isinstance(build_progress(json=True), SilentProgress)
    silent = build_progress(json=True)
    silent.start("sft", 3)
    silent.advance(1, loss=1.0)
    silent.note("x")
    silent.finish()
    assert capsys.readouterr() == ("", "")


def test_durations_and_figures_read_well() -> None:
    assert [format_duration(s) for s in (-1, 9.54, 125, 3725)] == ["0.0 s", "9.5 s", "2:05 min", "1:02:05 h"]
    assert format_figures({"loss": 2.31456, "tokens": 1.5e6, "time/tokens_per_second": 12_345.0, "best": "yes"}) == [
        "loss 2.315",
        "tokens 1.5M",
        "12.3k tokens/s",
        "best yes",
    ]
