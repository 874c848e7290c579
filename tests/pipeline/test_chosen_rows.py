"""Rows of best-of-n as training data: what is written, what is left out and why, and a file that survives a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError, RefusedError, TerminatedError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.pipeline.chosen_rows import (
    CUT_OFF,
    NO_PAIR,
    NO_VERDICT,
    NONE_PASSES,
    ChoosingRequest,
    ChosenSummary,
    build_row,
    write_chosen,
)
from posttrain.pipeline.named_scorers import NamedScorer, build_named_scorer
from posttrain.pipeline.sample_run import Drawing
from posttrain.pipeline.talking import ModelChoice, Talker, open_talker
from posttrain.samplers.best_of_n import BestOfNSampler, Chosen, compute_worths

SHORT = "{type: length, low: 0, high: 0, slope: 60, unit: characters}"
SETTINGS = SamplingSettings(40, temperature=1.5, stop_strings=tuple("aeiou 0123456789"))


@pytest.fixture(scope="module")
def talker(tiny_base: Path) -> Iterator[Talker]:
    with open_talker(ModelChoice(str(tiny_base), max_rows=8)) as opened:
        yield opened


def ask(count: int = 6, **changes: Any) -> Drawing:
    problems = [Problem(f"p:{i}", [{"role": "user", "content": f"{'ab' * i}?"}], {"level": i}) for i in range(count)]
    return Drawing(**{"problems": problems, "settings": SETTINGS, "seed": 1, **changes})


def make_request(**changes: Any) -> ChoosingRequest:
    return ChoosingRequest(**{"n": 4, "scorer": build_named_scorer(SHORT, place="--scorer"), **changes})


def write(
    talker: Talker, out: Path, request: ChoosingRequest, drawing: Drawing | None = None, stop_after: int | None = None
) -> ChosenSummary:
    def should_stop() -> bool:
        return stop_after is not None and out.read_bytes().count(b"\n") >= stop_after

    return write_chosen(talker, drawing or ask(), request, out, progress=SilentProgress(), should_stop=should_stop)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_the_shortest_of_four_and_train_as_they_stand(talker: Talker, tmp_path: Path) -> None:
    summary = write(talker, tmp_path / "rows.jsonl", make_request())
    rows = read(tmp_path / "rows.jsonl")
    assert summary.rows == len(rows) and summary.rows + sum(summary.left_out.values()) == 6
    assert summary.drawn == 24
    assert summary.mean_chosen is not None and summary.mean_drawn is not None
    assert summary.mean_chosen > summary.mean_drawn
    for row in rows:
        assert row["score"] == row["scores"][row["place"]] == max(row["scores"])
        assert row["score"] == pytest.approx(max(0, 1 - len(row["completion"][0]["content"].strip()) / 60))
        assert row["level"] == int(row["problem_id"].removeprefix("p:"))
    source = parse_config(DataSource, {"source": "rows.jsonl"}, place="rows")
    examples, _ = load_examples([source], root=tmp_path)
    said = [example.messages[-1] for example in examples if example.messages is not None]
    assert said == [row["completion"][0] for row in rows]
    assert examples[0].columns["score"] == rows[0]["score"]


def test_pairs_are_rows_of_preference_with_a_margin(talker: Talker, tmp_path: Path) -> None:
    write(talker, tmp_path / "worst.jsonl", make_request(rejected="worst"))
    write(talker, tmp_path / "random.jsonl", make_request(rejected="random"))
    worst, random = read(tmp_path / "worst.jsonl"), read(tmp_path / "random.jsonl")
    assert worst and len(worst) == len(random)
    for row, other in zip(worst, random, strict=True):
        assert row["chosen"] == other["chosen"] != row["rejected"]
        assert row["score_chosen"] > other["score_rejected"] >= row["score_rejected"]
    source = parse_config(DataSource, {"source": "worst.jsonl"}, place="rows")
    examples, _ = load_examples([source], root=tmp_path)
    assert {example.kind for example in examples} == {"preference"}


def test_a_file_that_was_stopped_is_gone_on_with_to_the_same_bytes(talker: Talker, tmp_path: Path) -> None:
    whole = write(talker, tmp_path / "whole.jsonl", make_request())
    with pytest.raises(TerminatedError):
        write(talker, tmp_path / "stopped.jsonl", make_request(), stop_after=2)
    again = write(talker, tmp_path / "stopped.jsonl", make_request())
    assert (tmp_path / "stopped.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert again.rows == whole.rows and again.left_out == whole.left_out
    assert write(talker, tmp_path / "whole.jsonl", make_request()).drawn == 0


def test_a_file_of_another_rule_or_scorer_is_refused(talker: Talker, tmp_path: Path) -> None:
    write(talker, tmp_path / "rows.jsonl", make_request(), ask(1))
    with pytest.raises(RefusedError, match="best_of was 4"):
        write(talker, tmp_path / "rows.jsonl", make_request(n=2), ask(1))
    long = build_named_scorer("{type: length, low: 0, high: 9}", place="--scorer")
    with pytest.raises(RefusedError, match="scorer was"):
        write(talker, tmp_path / "rows.jsonl", make_request(scorer=long), ask(1))


class _Table:
    name = "table"

    def __init__(self, values: Sequence[float | None]) -> None:
        self.values = list(values)

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        worths = [self.values[completion.sample_index] for _, completion in items]
        return [
            Outcome("errored", 0.0, fault="harness") if worth is None else Outcome("scored", worth) for worth in worths
        ]


class _Script:
    policy_hash = "policy"

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = reasons

    def sample(self, problems: Any, settings: Any, seeds: Any) -> Iterator[tuple[int, Completion]]:
        ids = np.array([5], np.int32)
        for sample, reason in enumerate(self.reasons):
            yield 0, Completion("p", sample, ids, ids, f"text {sample}", reason, "policy", sample)  # type: ignore[arg-type]


def make(values: Sequence[float | None], reasons: Sequence[str] | None = None, **changes: Any) -> dict[str, Any] | str:
    """The row of one problem whose candidates are worth these values."""
    problem = Problem("p", [{"role": "user", "content": "?"}], {"answer": "7"}, [{"name": "look_up"}])
    scorer = NamedScorer("table", _Table(values), [])
    request = ChoosingRequest(len(values), scorer, **changes)
    sampler = BestOfNSampler(
        _Script(reasons or ["stop"] * len(values)),
        scorer.scorer,
        n=len(values),
        by=request.by,  # type: ignore[arg-type]
    )
    chosen: Chosen
    [(_, chosen)] = sampler.choose([problem], SamplingSettings(4, temperature=1.0), [0])
    return build_row(
        problem, chosen, compute_worths(request.by, chosen.outcomes, [c.text for c in chosen.candidates]), request
    )


def text_of(row: dict[str, Any] | str, name: str) -> str:
    assert isinstance(row, dict)
    return str(row[name][0]["content"])


def test_rows_by_hand() -> None:
    row = make([0.2, 0.9, 0.9, 0.1])
    assert text_of(row, "completion") == "text 1"
    assert isinstance(row, dict)
    assert (row["answer"], row["tools"], row["scores"]) == ("7", [{"name": "look_up"}], [0.2, 0.9, 0.9, 0.1])
    plain = make([0.2, 0.9], is_raw=True)
    assert isinstance(plain, dict)
    assert (plain["prompt"], plain["completion"]) == ("?", "text 1")
    pair = make([0.2, 0.9, 0.1, 0.1], rejected="worst")
    assert (text_of(pair, "chosen"), text_of(pair, "rejected")) == ("text 1", "text 2")
    # Those that tie with the chosen one are never rejected, however they are drawn.
    assert text_of(make([0.9, 0.9, 0.1, 0.9], rejected="random"), "rejected") == "text 2"
    passed = make([0.4, 1.0, 0.9], by="verifier", rejected="worst")
    assert (text_of(passed, "chosen"), text_of(passed, "rejected")) == ("text 1", "text 0")


def test_what_gives_no_row_by_hand() -> None:
    assert make([None, None]) == NO_VERDICT
    assert make([0.4, 0.9], by="verifier") == NONE_PASSES
    assert make([0.4, 0.9], ["stop", "length"]) == CUT_OFF
    assert make([0.9, 0.9], rejected="worst") == NO_PAIR
    assert make([0.9, 0.1], ["stop", "length"], rejected="worst") == NO_PAIR
    assert text_of(make([None, 0.1]), "completion") == "text 1"


def test_pairs_of_one_answer_are_refused() -> None:
    with pytest.raises(RecipeError, match="pairs from 1 answer"):
        make_request(n=1, rejected="worst")


def test_a_scorer_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="no scorer is called"):
        build_named_scorer("lap", place="--scorer")
    with pytest.raises(RecipeError, match="hihg"):
        build_named_scorer("{type: length, hihg: 3}", place="--scorer")
