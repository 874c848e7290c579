"""A study of best-of-n on a tiny model: figures against the file that was drawn, and starts that were stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, RecipeError, RefusedError, StorageError, TerminatedError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.pipeline.named_scorers import NamedScorer
from posttrain.pipeline.sample_run import Drawing, choose_prompts
from posttrain.pipeline.selection_study import StudyRequest, study_selection, write_study
from posttrain.pipeline.talking import ModelChoice, Talker, open_talker
from posttrain.reports.selection import SelectionStudy
from posttrain.statistics.over_optimisation import compute_best_of_n_kl

N = 8
SETTINGS = SamplingSettings(30, temperature=1.5, num_samples=N, stop_strings=tuple("aeiou 0123456789"))


@pytest.fixture(scope="module")
def talker(tiny_base: Path) -> Iterator[Talker]:
    with open_talker(ModelChoice(str(tiny_base), max_rows=16)) as opened:
        yield opened


class Measure:
    """Scores a text by a function, and counts what it was asked."""

    def __init__(self, name: str, judge: Callable[[str], Outcome | float]) -> None:
        self.name, self.judge, self.num_asked = name, judge, 0

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        self.num_asked += len(items)
        found = [self.judge(completion.text) for _, completion in items]
        return [one if isinstance(one, Outcome) else Outcome("scored", one) for one in found]


def name(judge: Callable[[str], Outcome | float], name: str = "measure") -> NamedScorer:
    return NamedScorer(name, Measure(name, judge), [[{"type": name}], []])


def gold_of(text: str) -> float:
    return -abs(len(text) - 4.0)


def length_of(text: str) -> float:
    return float(len(text))


def ask(count: int = 24) -> Drawing:
    problems = [Problem(f"p:{i}", [{"role": "user", "content": f"{'ab' * i}?"}]) for i in range(count)]
    return Drawing(problems, SETTINGS, 1)


def study(talker: Talker, out: Path, drawing: Drawing | None = None, **changes: Any) -> SelectionStudy:
    stop = changes.pop("should_stop", lambda: False)
    request = StudyRequest(**{"model": "tiny", "gold": name(gold_of, "gold"), "out": out, **changes})
    found = study_selection(talker, drawing or ask(), request, progress=SilentProgress(), should_stop=stop).study
    write_study(found, out)
    return found


def texts_of(out: Path) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for line in (out / "completions.jsonl").read_text().splitlines():
        values = json.loads(line)
        found.setdefault(values["problem_id"], []).append(values["text"])
    return list(found.values())


def test_the_ends_of_every_curve_are_what_the_file_says(talker: Talker, tmp_path: Path) -> None:
    """n = 1 is any answer; n = 8 the one that a rule takes of all, its ties shared."""
    found = study(
        talker,
        tmp_path,
        choosers={"long": name(length_of, "long")},
        verifiers={"even": name(lambda text: float(len(text) % 2 == 0), "even")},
    )
    ways = {way.name: way for way in found.ways}
    assert list(ways) == ["random", "majority", "even", "long", "oracle"]
    texts = texts_of(tmp_path)
    mean = np.mean([gold_of(text) for own in texts for text in own])
    assert all(way.points[0].value == pytest.approx(mean) for way in ways.values())
    assert [point.n for point in ways["long"].points] == [1, 2, 4, 8]
    longest = [[text for text in own if len(text) == max(map(len, own))] for own in texts]
    assert ways["long"].points[-1].value == pytest.approx(np.mean([gold_of(own[0]) for own in longest]))
    assert ways["long"].own[-1].value == pytest.approx(np.mean([len(own[0]) for own in longest]))
    best = [max(map(gold_of, own)) for own in texts]
    assert ways["oracle"].points[-1].value == pytest.approx(np.mean(best))
    passing = [[text for text in own if len(text) % 2 == 0] or own for own in texts]
    assert ways["even"].points[-1].value == pytest.approx(np.mean([np.mean([*map(gold_of, own)]) for own in passing]))
    for way in ways.values():
        for point in way.points:
            # The KL of votes is counted in 2,000 draws.
            assert point.kl <= compute_best_of_n_kl(point.n) + 0.01
            assert point.low is not None and point.high is not None
            assert point.low <= point.value <= point.high
    assert "gold falls by" in ways["long"].turn or "No fall" in ways["long"].turn
    assert ways["long"].says and not ways["even"].says


def test_the_figures_and_the_page_lie_in_the_folder(talker: Talker, tmp_path: Path) -> None:
    found = study(talker, tmp_path, choosers={"long": name(length_of, "long")})
    kept = json.loads((tmp_path / "best_of_n.json").read_text())
    assert kept == json.loads(json.dumps(found.to_json()))
    assert kept["ways"][0]["points"][3]["kl_bound"] == pytest.approx(compute_best_of_n_kl(8))
    page = (tmp_path / "best_of_n.html").read_text()
    assert "The best of 1 to 8 answers" in page and "Gains when long chooses" in page


def test_a_study_that_was_stopped_goes_on_and_judges_nothing_twice(talker: Talker, tmp_path: Path) -> None:
    whole = study(talker, tmp_path / "whole")
    judged = tmp_path / "stopped"
    gold = Measure("gold", gold_of)
    scorer = NamedScorer("gold", gold, [[{"type": "gold"}], []])
    with pytest.raises(TerminatedError):
        study(talker, judged, gold=scorer, should_stop=lambda: gold.num_asked >= 64)
    assert gold.num_asked == 64
    again = study(talker, judged, gold=scorer)
    assert gold.num_asked == 24 * N
    assert again == whole
    assert (judged / "best_of_n.html").read_bytes() == (tmp_path / "whole" / "best_of_n.html").read_bytes()


def test_another_scorer_judges_anew_what_was_drawn_once(talker: Talker, tmp_path: Path) -> None:
    first = study(talker, tmp_path)
    drawn = (tmp_path / "completions.jsonl").read_bytes()
    other = study(talker, tmp_path, gold=name(length_of, "length"))
    assert (tmp_path / "completions.jsonl").read_bytes() == drawn
    assert other.ways[0].points[0].value != first.ways[0].points[0].value


def test_harness_failures_are_asked_again_and_refused_above_one_in_a_hundred(talker: Talker, tmp_path: Path) -> None:
    broken = name(lambda text: Outcome("errored", 0.0, why="away", fault="harness") if len(text) > 3 else 1.0)
    with pytest.raises(RefusedError, match="harness failed on answers of"):
        study(talker, tmp_path, gold=broken)
    assert study(talker, tmp_path, gold=name(gold_of)).num_problems == 24


def test_what_a_scorer_does_not_apply_to_is_left_out_and_said(talker: Talker, tmp_path: Path) -> None:
    longest = [max(map(len, own)) for own in texts_of(_draw(talker, tmp_path))]
    limit = sorted(longest)[-3]
    choosy = name(lambda text: Outcome("not_applicable", 0.0) if len(text) >= limit else 1.0)
    found = study(talker, tmp_path, gold=choosy)
    num_left_out = sum(length >= limit for length in longest)
    assert found.num_problems == 24 - num_left_out
    assert found.notes[0] == f"left out: {num_left_out} problems that a scorer does not apply to"
    with pytest.raises(DataError, match="no problem of 24 that every scorer judges"):
        study(talker, tmp_path, gold=name(lambda text: Outcome("not_applicable", 0.0), "never"))


def _draw(talker: Talker, out: Path) -> Path:
    study(talker, out)
    return out


def test_answers_that_nobody_agrees_on_have_no_vote(talker: Talker, tmp_path: Path) -> None:
    numbers = iter(range(10_000))
    alone = name(lambda text: Outcome("scored", 0.0, answer=str(next(numbers))))
    found = study(talker, tmp_path, gold=alone)
    assert "majority" not in [way.name for way in found.ways]
    assert "no vote: no two answers to a problem agree" in found.notes


def test_ways_of_one_name_and_greedy_answers_are_refused(talker: Talker, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="two ways of choosing are called 'oracle'"):
        study(talker, tmp_path, choosers={"oracle": name(length_of)})
    greedy = Drawing(ask().problems, SamplingSettings(30, num_samples=1), 1)
    assert study(talker, tmp_path / "one", greedy).num_samples == 1
    with pytest.raises(RecipeError, match="temperature 0"):
        SamplingSettings(30, num_samples=2)


def test_a_line_that_is_no_completion_is_named(talker: Talker, tmp_path: Path) -> None:
    path = _draw(talker, tmp_path) / "completions.jsonl"
    first, *others = path.read_text().splitlines()
    values = json.loads(first)
    del values["ids"]
    path.write_text("\n".join([json.dumps(values), *others]) + "\n")
    with pytest.raises(StorageError, match="not a completion of these prompts"):
        study(talker, tmp_path)


def test_a_choice_of_prompts_is_part_of_a_larger_one() -> None:
    problems = ask(20).problems
    five, nine = (choose_prompts(problems, count) for count in (5, 9))
    names = {problem.problem_id for problem in nine}
    assert len(five) == 5 and {problem.problem_id for problem in five} <= names
    assert choose_prompts(problems, None) == problems
