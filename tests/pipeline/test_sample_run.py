"""Completions of many prompts: each line a function of what was asked, and a file that survives being stopped."""

from __future__ import annotations

import datetime
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, LockedError, RecipeError, RefusedError, StorageError, TerminatedError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import Completion, Problem, TopLogprobs
from posttrain.core.sampling import SamplingSettings
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.pipeline.sample_run import (
    Drawing,
    SampleSummary,
    describe_completion,
    draw_completions,
    in_order,
    read_problems,
    write_completions,
)
from posttrain.pipeline.talking import ModelChoice, Talker, open_talker

SETTINGS = SamplingSettings(12, temperature=1.0, num_samples=3)


@pytest.fixture(scope="module")
def talker(tiny_base: Path) -> Iterator[Talker]:
    with open_talker(ModelChoice(str(tiny_base), max_rows=5)) as opened:
        yield opened


def ask(count: int = 5, **changes: Any) -> Drawing:
    problems = [Problem(f"p:{i}", [{"role": "user", "content": f"{'ab' * i}?"}], {"level": i}) for i in range(count)]
    return Drawing(**{"problems": problems, "settings": SETTINGS, "seed": 1, **changes})


def write(talker: Talker, drawing: Drawing, out: Path, *, stop_after: int | None = None) -> SampleSummary:
    """Write completions; with `stop_after`, as if a stop was asked for once so many lines are there."""

    def should_stop() -> bool:
        return stop_after is not None and out.read_bytes().count(b"\n") >= stop_after

    return write_completions(talker, drawing, out, progress=SilentProgress(), should_stop=should_stop)


def check_same(one: Path, other: Path) -> None:
    """Two files hold the same lines in the same order; log-probs may differ by the rounding of fp32 products."""
    for line, expected in zip(one.read_text().splitlines(), other.read_text().splitlines(), strict=True):
        values, expected_values = json.loads(line), json.loads(expected)
        for name in ("sampler_logprobs", "drawing_logprobs"):
            np.testing.assert_allclose(values.pop(name), expected_values.pop(name), atol=1e-5)
        assert values == expected_values


def test_a_file_stopped_at_any_line_and_gone_on_with_is_the_same_file(talker: Talker, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    summary = write(talker, ask(), whole)
    assert (summary.completions, summary.drawn) == (15, 15)
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [(line["problem_id"], line["sample_index"]) for line in lines] == [
        (f"p:{i}", sample) for i in range(5) for sample in range(3)
    ]
    assert summary.tokens == sum(len(line["ids"]) for line in lines)
    for stop_after in (1, 4, 7, 11, 14):
        out = tmp_path / f"{stop_after}.jsonl"
        with pytest.raises(TerminatedError):
            write(talker, ask(), out, stop_after=stop_after)
        assert out.read_bytes().count(b"\n") == stop_after
        with out.open("ab") as file:
            file.write(b'{"problem_id": "p:0", "sam')  # torn by a crash
        assert write(talker, ask(), out).drawn == 15 - stop_after
        check_same(out, whole)
        assert write(talker, ask(), out).drawn == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "whole"))) == [
        "whole.jsonl",
        "whole.jsonl.settings.json",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 2}, "seed was 1"),
        ({"settings": SamplingSettings(12, temperature=0.5, num_samples=3)}, "temperature was 1.0"),
        ({"problems": ask(4).problems}, "prompts was 5"),
    ],
)
def test_a_file_that_was_drawn_otherwise_is_refused_and_left_alone(
    talker: Talker, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out.jsonl"
    write(talker, ask(), out)
    before = out.read_bytes()
    with pytest.raises(RefusedError, match=words) as error:
        write(talker, ask(**changes), out)
    assert "--out" in error.value.cure and out.read_bytes() == before


def test_a_file_of_unknown_origin_is_refused_and_left_alone(talker: Talker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("my only copy\n")
    with pytest.raises(RefusedError, match="nothing says how"):
        write(talker, ask(), out)
    assert out.read_text() == "my only copy\n"
    out.unlink()
    write(talker, ask(), out)
    lines = out.read_text().splitlines(keepends=True)
    for line, error in (("no json\n", StorageError), (lines[0].replace(talker.policy_hash, "0" * 32), RefusedError)):
        out.write_text(lines[0] + line + lines[2])
        with pytest.raises(error) as raised:
            write(talker, ask(), out)
        assert raised.value.place == f"{out}:2"


def test_two_processes_do_not_write_one_file(talker: Talker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with out.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            write(talker, ask(), out)
    assert write(talker, ask(), out).drawn == 15


def test_a_completion_does_not_depend_on_the_prompts_beside_it(talker: Talker) -> None:
    def texts(drawing: Drawing) -> dict[tuple[str, int], list[int]]:
        drawn = draw_completions(talker, drawing)
        return {(problem.problem_id, c.sample_index): c.ids.tolist() for problem, c in drawn}

    everything = texts(ask())
    some = texts(ask(problems=ask().problems[::-2]))
    assert len(some) == 9 and some == {key: everything[key] for key in some}
    assert len({tuple(ids) for ids in everything.values()}) > 10


def test_completions_come_in_order_as_soon_as_they_can(talker: Talker) -> None:
    drawing = ask(2, settings=SamplingSettings(4, temperature=1.0, num_samples=2))
    pairs = {(p.problem_id, c.sample_index): (p, c) for p, c in draw_completions(talker, drawing)}
    keys = [("p:1", 0), ("p:0", 0), ("p:1", 1), ("p:0", 1)]
    told: list[str] = []

    def draw() -> Iterator[tuple[Problem, Completion]]:
        for key in keys:
            told.append(f"drawn {key[0]}/{key[1]}")
            yield pairs[key]

    for problem, completion in in_order(drawing, draw()):
        told.append(f"{problem.problem_id}/{completion.sample_index}")
    assert told == [
        "drawn p:1/0", "drawn p:0/0", "p:0/0", "drawn p:1/1", "drawn p:0/1", "p:0/1", "p:1/0", "p:1/1"
    ]  # fmt: skip


def test_a_line_says_everything_that_is_known_of_a_completion() -> None:
    problem = Problem("p", [{"role": "user", "content": "q"}], {"nan": float("nan"), "day": datetime.date(2024, 1, 2)})
    logprobs = np.array([-0.1, -1 / 3], dtype=np.float32)
    top = TopLogprobs(np.array([[7], [3]], np.int32), np.array([[-0.1], [-np.inf]], np.float32))
    completion = Completion(
        "p", 2, np.array([5, 9]), np.array([7, 3]), "t", "stop", "hash", 11, logprobs, None, top
    )  # fmt: skip
    line = json.loads(json.dumps(describe_completion(problem, completion), allow_nan=False))
    assert line == {
        "problem_id": "p",
        "sample_index": 2,
        "prompt": [{"role": "user", "content": "q"}],
        "text": "t",
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "ids": [7, 3],
        "sampler_logprobs": [-0.1, -0.33333334],
        "drawing_logprobs": None,
        "top_ids": [[7], [3]],
        "top_logprobs": [[-0.1], [None]],
        "policy_hash": "hash",
        "seed": 11,
        "columns": {"nan": None, "day": "2024-01-02"},
    }
    assert (np.array(line["sampler_logprobs"], dtype=np.float32) == logprobs).all()


def test_texts_and_rows_become_problems_with_their_columns_and_instructions(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}]
    rows = [{"prompt": "a", "level": 1}, {"prompt": own}, {"prompt": "c", "completion": "d"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = read_problems(["x"], str(path), system="be brief", is_raw=False)
    assert [problem.problem_id for problem in problems] == [
        "prompt:1", "rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"
    ]  # fmt: skip
    assert [problem.messages[0]["content"] for problem in problems] == ["be brief", "be brief", "own", "be brief"]
    assert [problem.messages[-1]["content"] for problem in problems] == ["x", "a", "b", "c"]
    assert [problem.columns for problem in problems] == [{}, {"level": 1}, {}, {"answer": "d"}]
    with pytest.raises(RecipeError, match="no prompt"):
        read_problems([], None, system=None, is_raw=False)
    with pytest.raises(RecipeError, match="--raw"):
        read_problems(["x"], None, system="s", is_raw=True)
    with pytest.raises(DataError, match="no such file"):
        read_problems([], str(tmp_path / "none.jsonl"), system=None, is_raw=False)


def test_what_was_drawn_can_be_trained_on(talker: Talker, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write(talker, ask(), out)
    source = DataSource(source=str(out), columns={"prompt": "prompt", "completion": "text"})
    examples, _ = load_examples([source], root=tmp_path)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [example.messages[-1]["content"] for example in examples] == [line["text"] for line in lines]
    assert all(example.kind == "messages" and example.first_trained == 1 for example in examples)
