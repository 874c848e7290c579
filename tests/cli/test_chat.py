"""`posttrain chat` with lines in place of a person, and on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import Finished, run_here
from tests.pipeline.tiny_runs import make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("chat") / "base")


class Chatter:
    """Says lines to a chat and returns what came back."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
        self.capsys, self.monkeypatch, self.base = capsys, monkeypatch, base

    def __call__(self, *lines: str, options: tuple[str, ...] = ()) -> Finished:
        self.monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        return run_here(self.capsys, "chat", self.base, "--max-new-tokens", "12", *options)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, base: Path) -> Chatter:
    return Chatter(capsys, monkeypatch, base)


def test_every_line_is_a_turn_and_the_end_of_the_lines_is_the_end(say: Chatter) -> None:
    found = say("hello", "", "  again ", options=("--json",))
    assert found.code == 0
    turns = [json.loads(line) for line in found.out.splitlines()]
    assert [turn["said"] for turn in turns] == ["hello", "again"]
    assert all(turn["finish_reason"] in ("stop", "length") and turn["turns_left_out"] == 0 for turn in turns)
    plain = say("hello", "again")
    assert plain.code == 0 and plain.out.count("\n") >= 2
    assert say("hello", "again").out == plain.out
    assert "policy" in plain.err and "256 tokens of context" in plain.err


def test_commands_change_the_conversation(say: Chatter, tmp_path: Path) -> None:
    path = tmp_path / "saved.jsonl"
    found = say(
        "one", "two", "/undo", "/system be brief", "//three", f"/save {path}", "/settings temperature=0.5", "/reset",
        "/undo", "/help", "/quit", "never said", options=("--json",),
    )  # fmt: skip
    assert found.code == 0
    answers = [json.loads(line) for line in found.out.splitlines()]
    assert [answer["said"] for answer in answers if "said" in answer] == ["one", "two", "/three"]
    told = {answer["command"]: answer["answer"] for answer in answers if "command" in answer}
    assert told["/system be brief"] == ["instructions are set"]
    assert "temperature: 0.5" in told["/settings temperature=0.5"]
    assert told["/undo"] == ["there is no turn to forget"]
    assert len(told["/help"]) == 7
    messages = json.loads(path.read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[index]["content"] for index in (0, 1, 3)] == ["be brief", "one", "/three"]


def test_the_context_is_kept_and_the_reader_is_told(say: Chatter) -> None:
    found = say(*["x" * 60] * 4)
    assert found.code == 0 and "(the context is full: the oldest turn was left out)" in found.err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("/save", 2, "/save FILE"),
        ("/sytem x", 2, "did you mean '/system'"),
        ("/settings top_p=2", 2, "top_p is 2"),
        ("/save /nowhere/at/all.jsonl", 3, "nothing was said"),
        ("x" * 300, 3, "too many"),
    ],
)
def test_where_nobody_types_the_first_error_ends_the_command(say: Chatter, line: str, code: int, words: str) -> None:
    found = say(line, "hello")
    assert found.code == code and words in found.err and found.out == ""


def test_contradictions_are_refused_before_a_model_is_loaded(say: Chatter) -> None:
    found = say("hello", options=("--greedy", "--top-k", "3"))
    assert found.code == 2 and "top_k with temperature 0" in found.err


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, base: Path) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "posttrain.cli.main", "chat", str(base), "--ignore-eos"]
        self.process = subprocess.Popen(
            [*command, "--max-new-tokens", "200"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, words: str, *, interrupt: bool = False) -> None:
        """Read until some words are there, from where the last call ended; meanwhile press Ctrl-C if asked to."""
        deadline = time.monotonic() + 120
        while words not in self.text:
            assert time.monotonic() < deadline, self.text
            if interrupt:
                self.process.send_signal(signal.SIGINT)
            if select.select([self.master], [], [], 0.5)[0]:
                self.text += os.read(self.master, 1 << 14).decode("utf-8", "replace")
        self.text = self.text.partition(words)[2]

    def type(self, text: str) -> None:
        """Type some keys."""
        os.write(self.master, text.encode())


def test_on_a_terminal_an_answer_can_be_stopped_errors_are_forgiven_and_ctrl_d_leaves(base: Path) -> None:
    terminal = Terminal(base)
    try:
        terminal.wait_for("> ")
        terminal.type("/nope\n")
        terminal.wait_for("no command /nope")
        terminal.wait_for("> ")
        terminal.type("hello\n")
        terminal.wait_for("hello\r\n")
        while not terminal.text:  # the first piece of the answer
            terminal.text += os.read(terminal.master, 1 << 14).decode("utf-8", "replace")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("(stopped)")
        terminal.wait_for("> ")
        terminal.type("/undo\n")
        terminal.wait_for("forgotten: hello")
        terminal.wait_for("> ")
        terminal.wait_for("(Ctrl-D or /quit leaves)", interrupt=True)
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
