"""The command line as a whole: help, exit codes, errors without tracebacks, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli.exit_codes import EXIT_MEANINGS
from posttrain.cli.stopping import InterruptGate, StopFlag
from posttrain.core import errors
from posttrain.core.errors import PosttrainError
from tests.cli.commands import run_here, run_process
from tests.pipeline.recipes import GOOD, replaced, write_recipe
from tests.pipeline.test_bad_recipes import BAD

VERBS = [
    ["run"],
    ["plan"],
    ["data"],
    ["data", "show"],
    ["data", "check"],
    ["data", "contamination"],
    ["lab"],
    ["lab", "show"],
    ["lab", "card"],
    ["lab", "build"],
    ["lab", "export"],
    ["sample"],
    ["chat"],
    ["report"],
    ["verify"],
    ["merge"],
    ["export"],
]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module in the place of one that a verb imports."""

    def put(name: str, **contents: Any) -> None:
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    return put


def test_the_bare_command_prints_the_help_and_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    bare, asked = run_here(capsys), run_here(capsys, "--help")
    assert bare == asked
    assert bare.code == 0 and bare.err == ""
    assert all(re.search(rf"^  {verb[0]} +\S", bare.out, re.MULTILINE) for verb in VERBS)
    assert not re.search(r"^  .*\.\.\.$", bare.out, re.MULTILINE)  # no summary is cut


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_a_help_and_it_shows_an_example(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    found = run_here(capsys, *verb, "--help")
    assert found.code == 0
    if verb not in (["data"], ["lab"]):
        assert f"Example:\n\n    posttrain {' '.join(verb)} " in found.out


def test_the_examples_of_the_help_are_understood_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        example = run_here(capsys, *verb, "--help").out.partition("Example:")[2]
        for line in example.splitlines():
            if line.strip().startswith("posttrain "):
                found = run_here(capsys, *line.split()[1:], "--json", "--help")
                assert found.code == 0, line


def test_exit_codes_are_the_same_in_the_errors_the_help_and_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    declared = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert set(EXIT_MEANINGS) == declared
    help_text, document = run_here(capsys).out, DOCUMENT.read_text(encoding="utf-8")
    for code, meaning in EXIT_MEANINGS.items():
        assert re.search(rf"^ +{code}  {re.escape(meaning)}$", help_text, re.MULTILINE)
        assert f"| {code} | {meaning} |" in document
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PosttrainError)]
    assert all(kind.code in document for kind in kinds if kind is not PosttrainError)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["rnu"], "Did you mean 'run'"),
        (["run"], "RECIPE"),
        (["plan", "a", "b"], "unexpected extra argument"),
        (["plan", "a", "--jsn"], "--jsn"),
        (["plan", "a", "--set"], "--set"),
        (["data", "shwo"], "shwo"),
        (["data", "show", "a", "--rows", "many"], "--rows"),
        (["data", "show", "a", "--rows", "0"], "--rows"),
        (["--vresion"], "--vresion"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_with_a_cure(
    capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    found = run_here(capsys, *arguments)
    assert (found.code, found.out) == (2, "")
    assert word in found.err and "--help shows what it takes" in found.err


@pytest.mark.parametrize("text", [case[1] for case in BAD], ids=[case[0] for case in BAD])
def test_every_bad_recipe_is_exit_code_2_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    found = run_here(capsys, "run", write_recipe(tmp_path, text))
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"E-RECIPE at {tmp_path}") and "Traceback" not in found.err
    assert not (tmp_path / "runs").exists()


def test_with_json_an_error_is_one_json_object_on_standard_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = run_here(capsys, "plan", write_recipe(tmp_path, replaced("seed: 17", "seed: x")), "--json")
    error = json.loads(found.out)["error"]
    assert (error["code"], error["exit_code"], found.code, found.err) == ("E-RECIPE", 2, 2, "")
    assert error["place"].endswith("demo.yaml:3:1 (seed)")
    assert json.loads(run_here(capsys, "rnu", "--json").out)["error"]["exit_code"] == 2


def test_control_characters_of_a_recipe_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for text in (
        replaced("name: sft", 'name: "\\x1b[2J\\x1b]0;owned\\x07\\u202e\\x9b31m"'),
        GOOD + '    "\\x1b[31m\\r": 1\n',
    ):
        found = run_here(capsys, "plan", write_recipe(tmp_path, text))
        assert found.code == 2
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", found.err)


def break_plan(install: Callable[..., None], error: BaseException) -> None:
    def build_plan(recipe: Any) -> Any:
        raise error

    install("posttrain.pipeline.plan", build_plan=build_plan)


def test_an_unexpected_exception_is_one_line_and_a_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    break_plan(install, KeyError("tokenz\x1b[31m"))
    found = run_here(capsys, "plan", write_recipe(tmp_path))
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("E-BUG: this is a bug of posttrain, not of your files: KeyError: ")
    assert "Traceback" not in found.err and "\x1b" not in found.err
    path = Path(found.err.rsplit("which is in ", 1)[1].strip())
    assert path.parent == tmp_path and "build_plan" in path.read_text()


def test_the_traceback_of_a_run_is_in_its_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    def run_recipe(recipe: Any, **_: Any) -> Path:
        raise ZeroDivisionError("no batch")

    install("posttrain.pipeline.run", run_recipe=run_recipe)
    (tmp_path / "out").mkdir()
    found = run_here(capsys, "run", write_recipe(tmp_path), "--folder", tmp_path / "out", "--json")
    assert found.code == 1 and json.loads(found.out)["error"]["code"] == "E-BUG"
    assert "ZeroDivisionError: no batch" in (tmp_path / "out" / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((kind("found"), kind.exit_code) for kind in PosttrainError.__subclasses__()),
        (KeyboardInterrupt(), errors.EXIT_INTERRUPTED),
        (BrokenPipeError(), errors.EXIT_BROKEN_PIPE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_kind_of_failure_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None], error: BaseException, code: int
) -> None:
    break_plan(install, error)
    found = run_here(capsys, "plan", write_recipe(tmp_path))
    assert found.code == code and "Traceback" not in found.err


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "posttrain.cli.main", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == errors.EXIT_BROKEN_PIPE and done.stderr == ""


def test_a_terminal_that_knows_only_ascii_gets_escapes() -> None:
    found = run_process("plan", "/nowhere/größe.yaml", PYTHONIOENCODING="ascii")
    assert found.code == 2 and "gr\\xf6\\xdfe.yaml" in found.err


def test_the_first_signal_asks_for_a_stop_and_the_second_interrupt_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopFlag() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        os.kill(os.getpid(), signal.SIGTERM)  # a second SIGTERM changes nothing: the save goes on
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_lets_a_run_save_and_exits_with_143(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    def run_recipe(recipe: Any, *, should_stop: Callable[[], bool], **_: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        (tmp_path / "saved").write_text("yes")
        raise errors.TerminatedError("stopped at step 3, saved", cure="start the same command again")

    install("posttrain.pipeline.run", run_recipe=run_recipe)
    found = run_here(capsys, "run", write_recipe(tmp_path))
    assert found.code == errors.EXIT_TERMINATED and (tmp_path / "saved").exists()
    assert "stopped at step 3, saved" in found.err


def test_the_help_is_shown_without_any_heavy_library() -> None:
    program = (
        "import sys\nfrom posttrain.cli.main import run_command\ncode = run_command(['run', '--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'rich', 'ruamel.yaml'} & set(sys.modules)\n"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_gate_lets_one_interrupt_through_where_it_is_open_and_none_elsewhere() -> None:
    before = signal.getsignal(signal.SIGINT)
    with InterruptGate() as gate:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), gate.open():
                os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
