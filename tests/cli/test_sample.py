"""`posttrain sample`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import run_here
from tests.conftest import REPOSITORY
from tests.pipeline.tiny_runs import make_base

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("sample") / "base")


def test_one_completion_is_printed_alone_and_equal_arguments_print_equal_text(
    capsys: pytest.CaptureFixture[str], base: Path
) -> None:
    command = ("sample", base, "--prompt", "ant?", "--max-new-tokens", "20")
    one, again = run_here(capsys, *command), run_here(capsys, *command)
    assert one.code == 0 and one == again and len(one.out) > 5
    assert one.err == "note: the model has no chat template: the plain one is used\n"
    assert run_here(capsys, *command, "--seed", "1").out != one.out
    raw = run_here(capsys, *command, "--raw")
    assert raw.out != one.out and raw.err == ""


def test_several_completions_are_named_in_order(capsys: pytest.CaptureFixture[str], base: Path) -> None:
    found = run_here(capsys, "sample", base, "--prompt", "a", "--prompt", "b", "--n", "2", "--max-new-tokens", "3")
    names = re.findall(r"^== (prompt:\d), sample (\d): \d tokens, (?:stop|length)$", found.out, re.MULTILINE)
    assert names == [("prompt:1", "0"), ("prompt:1", "1"), ("prompt:2", "0"), ("prompt:2", "1")]


def test_control_characters_of_a_model_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], base: Path
) -> None:
    command = ("sample", base, "--prompt", "x", "--n", "20", "--max-new-tokens", "60", "--temperature", "2")
    drawn = json.loads(run_here(capsys, *command, "--json").out)["completions"]
    assert any(re.search("[\x00-\x08\x0b-\x1f]", completion["text"]) for completion in drawn)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", run_here(capsys, *command).out)


def test_json_tells_what_was_asked_and_every_completion(capsys: pytest.CaptureFixture[str], base: Path) -> None:
    found = run_here(
        capsys, "sample", base, "--prompt", "x", "--n", "3", "--max-new-tokens", "5", "--logprobs", "4", "--top-k", "9",
        "--min-p", "0.01", "--top-p", "0.99", "--repetition-penalty", "1.1", "--ignore-eos", "--stop", "zzzz", "--json",
    )  # fmt: skip
    assert found.code == 0, found.out
    values = json.loads(found.out)
    asked = {name: values[name] for name in ("top_k", "min_p", "top_p", "repetition_penalty", "ignore_eos", "seed")}
    assert asked == {
        "top_k": 9, "min_p": 0.01, "top_p": 0.99, "repetition_penalty": 1.1, "ignore_eos": True, "seed": 0
    }  # fmt: skip
    assert values["stop_strings"] == ["zzzz"] and values["temperature"] == 1.0
    assert [completion["sample_index"] for completion in values["completions"]] == [0, 1, 2]
    for completion in values["completions"]:
        assert len(completion["ids"]) == len(completion["sampler_logprobs"]) == len(completion["top_ids"]) == 5
        assert all(len(row) == 4 for row in completion["top_logprobs"])


def test_rows_of_a_file_are_answered_into_a_file_and_the_command_goes_on_with_it(
    capsys: pytest.CaptureFixture[str], base: Path, tmp_path: Path
) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "deep" / "out.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}?", "level": i}) + "\n" for i in range(4)))
    command = ("sample", base, "--prompts", rows, "--n", "2", "--max-new-tokens", "5", "--out", out)
    found = run_here(capsys, *command)
    assert found.code == 0 and f"completions: {out} (8, of which 8 were drawn now)" in found.out
    lines = out.read_text().splitlines(keepends=True)
    assert [json.loads(line)["columns"]["level"] for line in lines] == [0, 0, 1, 1, 2, 2, 3, 3]
    out.write_text("".join(lines[:3]) + lines[3][:20])
    summary = json.loads(run_here(capsys, *command, "--json").out)
    assert (summary["completions"], summary["drawn"]) == (8, 5)
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == [
        json.loads(line)["text"] for line in lines
    ]
    found = run_here(capsys, *command, "--temperature", "0.5")
    assert found.code == 8 and "temperature was 1.0" in found.err and "--out" in found.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--prompt TEXT or --prompts FILE"),
        (["--prompt", "x", "--greedy", "--temperature", "0.7"], 2, "--greedy with --temperature 0.7"),
        (["--prompt", "x", "--greedy", "--top-p", "0.9"], 2, "top_p with temperature 0"),
        (["--prompt", "x", "--greedy", "--n", "2"], 2, "one sample"),
        (["--prompt", "x", "--top-p", "1.5"], 2, "top_p is 1.5"),
        (["--prompt", "x", "--stop", ""], 2, "at least one character"),
        (["--prompt", "x", "--logprobs", "129"], 2, "0 to 128"),
        (["--prompt", "x", "--json-schema", "/nowhere.json"], 2, "/nowhere.json"),
        (["--prompt", "x", "--regex", "a", "--json-schema", "/nowhere.json"], 2, "--json-schema with --regex"),
        (["--prompt", "x", "--dtype", "int8"], 2, "--dtype"),
        (["--prompt", "x", "--device", "tpu9"], 2, "--device"),
        (["--prompt", "x", "--raw", "--system", "s"], 2, "--system with --raw"),
        (["--prompts", "/nowhere.jsonl"], 3, "/nowhere.jsonl"),
        (["--prompts", ""], 2, "--prompts"),
        (["--prompt", "x" * 300], 3, "256 tokens together"),
        (["--prompt", "x", "--cache-gb", "0.00001", "--max-new-tokens", "200"], 7, "E-SAMPLER"),
        (["--prompt", "x", "--max-new-tokens", "200", "--out", "."], 74, "directory"),
    ],
)
def test_what_cannot_be_done_has_an_exit_code_and_a_cure(
    capsys: pytest.CaptureFixture[str], base: Path, arguments: list[str], code: int, words: str
) -> None:
    found = run_here(capsys, "sample", base, *arguments)
    assert found.code == code and words in found.err and "Traceback" not in found.err
    assert "expected:" in found.err


def test_a_run_folder_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    found = run_here(capsys, "sample", tmp_path, "--prompt", "x")
    assert found.code == 4 and "folder of a run" in found.err


def test_sigterm_keeps_what_was_written_and_the_same_command_goes_on(base: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(40)))
    command = [
        sys.executable, "-m", "posttrain.cli.main", "sample", str(base), "--prompts", str(rows), "--out", str(out),
        "--max-rows", "4", "--max-new-tokens", "150", "--ignore-eos", "--n", "4",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "E-TERMINATED" in errors
    kept = out.read_bytes()
    assert 3 <= kept.count(b"\n") < 160 and kept.endswith(b"\n")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while out.read_bytes().count(b"\n") <= kept.count(b"\n"):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert out.read_bytes().startswith(kept)


def test_on_a_terminal_the_text_comes_in_pieces(base: Path) -> None:
    reader, writer = pty.openpty()
    command = [
        sys.executable, "-m", "posttrain.cli.main", "sample", str(base), "--prompt", "x", "--max-new-tokens", "200",
        "--ignore-eos",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    reads = []
    while True:
        try:
            reads.append(os.read(reader, 1 << 16))
        except OSError:  # what Linux says when the other side is closed
            break
    assert process.wait() == 0 and process.stderr is not None
    assert b"(cut after 200 tokens)" in process.stderr.read()
    process.stderr.close()
    os.close(reader)
    assert len([part for part in reads if part]) > 5


def test_the_page_about_sampling_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "sampling.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(--[a-z-]+)", page))
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", run_here(capsys, "sample", "--help").out, re.MULTILINE))
    assert len(options) > 20 and options - {"--help", "--json"} <= listed
    chat = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", run_here(capsys, "chat", "--help").out, re.MULTILINE))
    tools = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert {option for option in chat - options if f"`{option}" not in tools} <= {"--help"}


def test_the_best_of_several_is_written_as_rows_and_as_pairs(
    capsys: pytest.CaptureFixture[str], base: Path, tmp_path: Path
) -> None:
    stops = [part for sign in "aeiou 0123" for part in ("--stop", sign)]
    command = (
        "sample", base, "--prompt", "ant?", "--prompt", "bee?", "--max-new-tokens", "60", *stops, "--best-of", "6",
        "--scorer", "{type: length, low: 0, high: 0, slope: 99}", "--out", tmp_path / "rows.jsonl",
    )  # fmt: skip
    found = run_here(capsys, *command)
    assert found.code == 0
    assert re.search(r"rows: \S+rows\.jsonl \(2; 12 candidates were drawn now\)\nby score: chosen", found.out)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["prompt"][0]["content"] for row in rows] == ["ant?", "bee?"]
    again = json.loads(run_here(capsys, *command, "--json").out)
    assert (again["rows"], again["drawn"]) == (2, 0)
    pairs = run_here(capsys, *command[:-1], tmp_path / "pairs.jsonl", "--rejected", "worst")
    assert pairs.code == 0
    for line in (tmp_path / "pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        assert pair["score_chosen"] > pair["score_rejected"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--scorer", "math"), "--scorer says how to choose, which is done with --best-of N alone"),
        (("--rejected", "worst"), "--rejected says how to choose"),
        (("--best-of", "4"), "--best-of needs --scorer"),
        (("--best-of", "4", "--scorer", "math"), "name their file with --out"),
        (("--best-of", "4", "--scorer", "maths", "--out", "x.jsonl"), "no scorer is called 'maths'"),
        (("--best-of", "1", "--scorer", "math", "--rejected", "worst", "--out", "x.jsonl"), "pairs from 1 answer"),
        (("--best-of", "2", "--scorer", "math", "--greedy", "--out", "x.jsonl"), "the best of 2 at temperature 0"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    capsys: pytest.CaptureFixture[str], base: Path, options: tuple[str, ...], why: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found = run_here(capsys, "sample", base, "--prompt", "x", *options)
    assert found.code == 2 and why in found.err
    assert list(tmp_path.iterdir()) == []
