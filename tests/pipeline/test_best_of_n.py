"""Stages of best-of-n as runs: what the study says, that a stop changes nothing, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, ModelError, RecipeError, RefusedError, TerminatedError
from posttrain.core.records import Completion, Problem
from posttrain.core.run_folder import STUDY_FIGURES, STUDY_PAGE, RunFolder
from posttrain.models.manifest import verify_artifact
from posttrain.models.reward_scoring import RewardScoring
from posttrain.pipeline import selection_study
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.reward_models import open_for_scoring
from posttrain.pipeline.scorer_settings import LearnedSettings
from posttrain.pipeline.scorers import ScorerContext, build_scorer
from posttrain.reports.page import build_report
from tests.pipeline.best_of_n_runs import find_study, read_study, study, write_study_files
from tests.pipeline.reward_runs import find_artifact, make_reward_workshop, rm
from tests.pipeline.tiny_runs import Finished, Notes, Workshop, sft

ENSEMBLE = {
    "mean": {"type": "learned", "model": "rm"},
    "worst": {"type": "learned", "model": "rm", "aggregation": "worst_case"},
    "first": {"type": "learned", "model": "rm", "members": [0]},
    "second": {"type": "learned", "model": "rm", "members": [1]},
}


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = make_reward_workshop(tmp_path / "work", tiny_base)
    write_study_files(made.folder)
    monkeypatch.chdir(made.folder)
    return made


def find_ways(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {way["name"]: way for way in values["ways"]}


def test_a_study_is_an_artifact_beside_the_policy_as_it_came(workshop: Workshop) -> None:
    notes = Notes()
    stages = (sft(steps=1), study(verifiers={"even": "texts.py:long"}), sft(name="after", steps=1))
    run = workshop.run(*stages, progress=notes)
    first, studied, after = run.record["stages"]
    assert studied["outputs"]["policy"] == first["outputs"]["policy"] == after["inputs"]["policy"]
    assert read_study(run, 1)["model"] == "sft of demo"
    ways = find_ways(read_study(run, 1))
    assert list(ways) == ["random", "majority", "even", "long", "oracle"]
    assert [point["n"] for point in ways["long"]["points"]] == [1, 2, 4, 8]
    assert ways["long"]["own"][-1]["value"] > ways["long"]["own"][0]["value"]
    assert "The best of 1 to 8 answers" in (find_study(run, 1) / STUDY_PAGE).read_text()
    assert verify_artifact(find_study(run, 1)).kind == run.record["artifacts"][2]["kind"] == "evaluation"
    [completions] = run.folder.cache.glob("answers/*/completions.jsonl")
    drawn = [json.loads(line) for line in completions.read_text().splitlines()]
    assert {line["policy_hash"] for line in drawn} == {first["outputs"]["policy"]}
    assert studied["tokens"] == sum(len(line["ids"]) for line in drawn)
    [said] = [note for note in notes.notes if note.startswith("study: long: ")]
    assert ways["long"]["says"] in said


def test_what_the_monitor_says_stays_when_the_study_comes_from_the_cache(workshop: Workshop) -> None:
    first = workshop.run(study()).record["monitors"]
    again = workshop.run(study())
    assert again.statuses == ["cached"] and again.record["monitors"] == first
    assert [(one["stage"], one["monitor"]) for one in first] == [("study", "over_optimisation-long")]
    assert {figure["name"] for figure in first[0]["figures"]} >= {"alpha", "beta"}


def test_the_reports_of_a_run_say_what_each_score_chooses_and_lead_to_the_page(workshop: Workshop) -> None:
    run = workshop.run(study())
    page = build_report(run.folder.root).read_text()
    link = f"artifacts/{find_study(run).name}/{STUDY_PAGE}"
    assert f'href="{link}"' in page and (run.folder.root / link).is_file()
    assert "gold at n = 8" in page and "This stage has written nothing yet" not in page
    assert "is not there yet" not in page
    (find_study(run) / STUDY_FIGURES).write_text('{"ways": [{"name": "<b>", "own": [1], "points": {"n": []}}, 3]}')
    torn = build_report(run.folder.root).read_text()
    assert "&lt;b&gt;" in torn


def test_members_of_an_ensemble_are_ways_of_their_own_and_each_answer_is_scored_once(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    score = RewardScoring.score

    def count(self: RewardScoring, readings: Sequence[Any]) -> Any:
        asked.append(sum(len(reading.completions) for reading in readings))
        return score(self, readings)

    monkeypatch.setattr(RewardScoring, "score", count)
    run = workshop.run(rm(members=2, validation=None), study(proxies=ENSEMBLE))
    [completions] = run.folder.cache.glob("answers/*/completions.jsonl")
    ended = [json.loads(line)["finish_reason"] == "stop" for line in completions.read_text().splitlines()]
    assert sum(asked) <= sum(ended) < 2 * sum(asked)  # a few end without a word and are not scored
    assert read_study(run)["model"] == "base"  # the reward model's stage passed it on
    ways = find_ways(read_study(run))
    own = {name: ways[name]["own"][0]["value"] for name in ENSEMBLE}
    assert own["first"] != own["second"]
    assert own["mean"] == pytest.approx((own["first"] + own["second"]) / 2)
    assert own["worst"] <= min(own["first"], own["second"])


def test_a_member_is_scored_alone_where_nobody_asks_for_the_others(workshop: Workshop) -> None:
    run = workshop.run(rm(members=3, steps=2, validation=None))
    folder = str(find_artifact(run))
    problem, none = Problem("p", [{"role": "user", "content": "ant 3?"}]), np.zeros(0, np.int32)

    def score(**settings: Any) -> float:
        scorer = build_scorer({"type": "learned", "model": folder, **settings}, ScorerContext())
        return scorer.score([(problem, Completion("p", 0, none, none, "cow", "stop", "", 0))])[0].value

    alone = [score(members=[number]) for number in range(3)]
    assert len(set(alone)) == 3
    assert score() == pytest.approx(sum(alone) / 3)
    assert score(members=[2, 0]) == pytest.approx((alone[0] + alone[2]) / 2)
    opened = open_for_scoring(Path(folder), LearnedSettings(model=folder, members=[1]))
    assert opened.members == (1,)
    with pytest.raises(ModelError, match="member 3"):
        score(members=[3])


def test_a_plan_says_how_many_answers_and_verdicts_a_study_asks_for(workshop: Workshop) -> None:
    stages = (rm(members=2, steps=2), study(proxies=ENSEMBLE))
    planned = build_plan(workshop.read(*stages)).stages[1]
    assert (planned.status, planned.why) == ("run", "'rm' runs before it")
    assert (planned.answers, planned.verdicts) == (24 * 8, 24 * 8 * 5)
    workshop.run(*stages)
    planned = build_plan(workshop.read(*stages)).stages[1]
    assert (planned.status, planned.seconds) == ("cached", 0.0)


def test_another_proxy_is_another_study_of_the_same_answers(workshop: Workshop) -> None:
    first = workshop.run(study())
    before = read_study(first)
    [folder] = (first.folder.cache / "answers").iterdir()
    drawn, judged = (folder / "completions.jsonl").read_bytes(), sorted(folder.glob("judged-*"))
    other = workshop.run(study(proxies={"long": "texts.py:long", "short": "texts.py:near_zero"}))
    assert [folder] == list((other.folder.cache / "answers").iterdir())
    assert (folder / "completions.jsonl").read_bytes() == drawn
    assert set(judged) < set(folder.glob("judged-*"))
    assert len(list(other.folder.artifacts.glob("*/best_of_n.json"))) == 2
    assert find_ways(read_study(other))["long"]["points"] == find_ways(before)["long"]["points"]


@pytest.mark.parametrize(
    ("stages", "after"),
    [
        ((study(dtype="bfloat16"),), (30, 192 + 64, 192 + 128)),
        pytest.param(
            (rm(members=2, steps=2), study(proxies=ENSEMBLE, dtype="bfloat16")),
            (30, 130, 190, 192 + 64, 192 + 128),
            marks=pytest.mark.invariants,
        ),
    ],
    ids=["rule", "ensemble"],
)
def test_a_study_that_is_stopped_anywhere_ends_as_one_that_was_not(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, stages: tuple[dict[str, Any], ...], after: tuple[int, ...]
) -> None:
    monkeypatch.setattr(selection_study, "_DRAWN_AT_ONCE", 40)
    whole = workshop.run(*stages, into="whole")
    shutil.copytree(whole.folder.root, workshop.folder / "stopped")
    shutil.rmtree(workshop.folder / "stopped" / "cache" / "answers")
    shutil.rmtree(workshop.folder / "stopped" / "artifacts" / find_study(whole).name)
    titles = set()
    for answers in after:
        stop = StopAfterAnswers(answers)
        with pytest.raises(TerminatedError):
            workshop.run(*stages, into="stopped", progress=stop, should_stop=stop)
        titles.add(stop.title)
    assert titles == {"sample", f"judge by {len(stages[-1]['proxies']) + 1} scorers"}
    again = workshop.run(*stages, into="stopped")
    assert find_study(again).name == find_study(whole).name


class StopAfterAnswers(Notes):
    """Asks for a stop once so many answers were drawn or judged, those of earlier starts among them."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.left, self.title = answers, ""

    def __call__(self) -> bool:
        return self.left <= 0

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        self.title = title if title == "sample" or title.startswith("judge") else self.title

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        self.left -= amount if self.title else 0


@pytest.mark.invariants
def test_a_study_that_is_killed_anywhere_ends_as_one_that_was_not(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (rm(members=2, steps=2), study(proxies=ENSEMBLE, dtype="bfloat16", n=128))
    whole = workshop.run(*stages, into="whole")
    path = workshop.write(*stages)
    answers = workshop.folder / "killed" / "cache" / "answers"
    for grown in ("*/completions.jsonl", "*/completions.jsonl", "*/judged-*.jsonl"):
        _kill_when_grown(path, workshop.folder / "killed", answers, grown)
    again = Finished(read_recipe(path), RunFolder(workshop.folder / "killed"))
    workshop.run(*stages, into="killed")
    assert find_study(again).name == find_study(whole).name


def _kill_when_grown(recipe: Path, folder: Path, answers: Path, pattern: str) -> None:
    """Start a run and kill it once files of a pattern have grown."""
    before = _measure(answers, pattern)
    command = [sys.executable, "-m", "posttrain.cli.main", "run", str(recipe), "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and _measure(answers, pattern) <= before:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def _measure(answers: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in answers.glob(pattern)) if answers.is_dir() else 0


@pytest.mark.parametrize(
    ("changes", "found", "cure"),
    [
        ({"n": 2}, "the best of 2 has too few points", "64"),
        ({"temperature": 0.0}, "temperature 0 draws the same answer", "1.0"),
        ({"proxies": {"same": "texts.py:near_four"}}, "'same' is gold itself", "oracle"),
        ({"proxies": {"random": "texts.py:long"}}, "'random' is a way that every study has", "otherwise"),
        ({"proxies": {}}, "proxies", "proxies"),
        ({"verifiers": {"long": "texts.py:long"}}, "'long' is a proxy and a verifier", "name of its own"),
        ({"proxies": {"a": {"type": "learned", "model": "rm", "aggregation": "best"}}}, "aggregation", "mean"),
        ({"proxies": {"a": {"type": "learned", "model": "rm", "members": [0, 0]}}}, "members", "once"),
        (
            {"proxies": {"a": {"type": "learned", "model": "rm", "members": [4]}}},
            "member 4 of 'rm', which has 1",
            "to 5",
        ),
        ({"proxies": {"a": "nobody"}}, "'nobody'", "scorer"),
        ({"proxies": {"a": {"type": "learned", "model": "later"}}}, "the scorer's model 'later'", "rm"),
        ({"gold": {"type": "learned", "model": "study"}}, "the scorer's model 'study'", "rm"),
        ({"data": [{"source": "asked.jsonl", "proportion": 1.0}]}, "proportion", "every problem"),
        ({"gate": {"floor": [{"metric": "held_out", "at_least": 0.1}]}}, "a gate of a stage", "leave the gate out"),
    ],
    ids=str,
)
def test_what_cannot_be_studied_is_refused_when_the_recipe_is_read(
    workshop: Workshop, changes: dict[str, Any], found: str, cure: str
) -> None:
    with pytest.raises(RecipeError, match=found) as caught:
        workshop.read(rm(), study(**changes), rm(name="later"))
    assert cure in str(caught.value)
    assert "(stages.1" in caught.value.place


def test_gold_by_another_spelling_is_gold_and_a_reward_model_that_is_not_there_is_named(workshop: Workshop) -> None:
    spelt = {"type": "function", "reference": "texts.py:near_four"}
    with pytest.raises(RecipeError, match="the proxy 'same' is gold itself") as caught:
        build_plan(workshop.read(study(proxies={"same": spelt})))
    assert "oracle" in caught.value.cure
    with pytest.raises(RecipeError, match="there is no reward model"):
        build_plan(workshop.read(study(proxies={"a": {"type": "learned", "model": "nowhere"}})))


def test_problems_that_cannot_be_asked_are_refused_before_anything_is_trained(workshop: Workshop) -> None:
    with pytest.raises(DataError, match="no room for max_new_tokens"):
        workshop.run(sft(steps=1), study(max_new_tokens=250))
    assert not list(RunFolder(workshop.folder / "run").artifacts.glob("keys/*"))
    with pytest.raises(DataError, match="occur more than once"):
        build_plan(workshop.read(study(data=[{"source": "asked.jsonl"}, {"source": "asked.jsonl"}])))


def test_a_judge_that_is_away_stops_the_run_and_nothing_is_drawn_again(workshop: Workshop) -> None:
    with pytest.raises(RefusedError, match="harness failed on answers of 24 of 24 problems"):
        workshop.run(study(proxies={"away": "texts.py:broken"}))
    [completions] = (workshop.folder / "run" / "cache" / "answers").glob("*/completions.jsonl")
    drawn = completions.read_bytes()
    workshop.run(study())
    assert completions.read_bytes() == drawn
    assert len(list((workshop.folder / "run" / "cache" / "answers").iterdir())) == 1


def test_an_alarm_that_holds_refuses_the_run_until_it_is_let_through(workshop: Workshop) -> None:
    """Gold falls with every character beyond four, which the proxy likes."""
    held = study(n=16, gold="texts.py:near_zero", on_alarm="hold", level=0.2)
    notes = Notes()
    with pytest.raises(
        RefusedError, match=r"over_optimisation-long raised an alarm: .*from the start, a KL of"
    ) as caught:
        workshop.run(held, sft(steps=1), progress=notes)
    assert "--override monitor:study" in caught.value.cure
    assert any(note.startswith("ALARM over_optimisation-long after study") for note in notes.notes)
    record = workshop.finished().record
    assert (record["status"], record["monitors"][0]["status"]) == ("refused", "alarm")
    [way] = [way for way in read_study(workshop.finished(), 0)["ways"] if way["own"]]
    assert way["fall"]["from_n"] == 1 and way["turn"].startswith(f"ALARM from n = {way['fall']['to_n']}")
    assert workshop.run(held, sft(steps=1), override=["monitor:study"]).statuses == ["cached", "finished"]
    with pytest.raises(RecipeError, match="no check is called 'monitor:study'"):
        workshop.run(study(), override=["monitor:study"])
