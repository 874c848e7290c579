"""Reward-model stages as runs: what they learn, that a stop changes nothing, what later stages make of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from posttrain.core.errors import PosttrainError, TerminatedError
from posttrain.core.records import Completion, Problem
from posttrain.models.reward_models import load_reward_model
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.reward_models import open_for_scoring
from posttrain.pipeline.scorer_settings import LearnedSettings
from posttrain.pipeline.scorers import ScorerContext, build_scorer, hash_scorer
from posttrain.reports.card import render_card
from posttrain.reports.page import build_report
from posttrain.reports.run_files import load_run
from tests.cli.commands import run_here
from tests.pipeline.reward_runs import (
    BAD,
    GOOD,
    find_artifact,
    make_pairs,
    make_rated,
    make_reward_workshop,
    read_facts,
    read_report,
    rm,
    write_rows,
)
from tests.pipeline.test_ranks import finish
from tests.pipeline.tiny_runs import Notes, StopInTraining, Workshop, sft, task


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    return make_reward_workshop(tmp_path, tiny_base)


def score(folder: Path, *texts: str, prompt: str = "ant 3?", **settings: Any) -> list[float]:
    """Completions as text alone, so that the model's own chat format writes them."""
    scorer = build_scorer({"type": "learned", "model": str(folder), **settings}, ScorerContext())
    none = np.zeros(0, np.int32)
    problem = Problem("p", [{"role": "user", "content": prompt}])
    items = [(problem, Completion("p", n, none, none, text, "stop", "", 0)) for n, text in enumerate(texts)]
    return [outcome.value for outcome in scorer.score(items)]


def test_pairs_teach_what_tells_them_apart_and_the_policy_is_passed_on(workshop: Workshop) -> None:
    run = workshop.run(rm(steps=16, quality=["true_chosen", "true_rejected"], probability="chance"))
    [entry] = run.record["stages"]
    assert entry["outputs"]["policy"] == entry["inputs"]["policy"] != entry["outputs"]["reward_model"]
    report, lines = read_report(run), run.lines()
    assert lines[0]["validation/loss"] == pytest.approx(np.log(2), abs=0.5)
    assert report["rows_are"] == "validation" and report["accuracy"]["value"] > 0.9
    assert report["best_accuracy"] == pytest.approx(0.9)
    assert report["normalised_accuracy"] == pytest.approx((report["expected_accuracy"] - 0.5) / 0.4)
    assert report["length"]["at_equal"] == "quality" and len(report["accuracy_by_margin"]) == 5
    assert lines[-1]["validation/reward_accuracy"] == report["accuracy"]["value"]
    good, bad = score(find_artifact(run), f"cow {GOOD}", f"cow {BAD}")
    assert good > bad
    facts = read_facts(run)
    assert facts["length_slope"] == report["length"]["slope"]["value"]
    # the offset puts the mean score of the validation rows at 0
    assert abs(good + bad) < abs(good - bad) * 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"members": 2, "resample": True}, marks=pytest.mark.invariants),
        pytest.param({"adapter": {"rank": 2}, "margin": "margin", "centring": 0.01}, marks=pytest.mark.invariants),
        pytest.param({"rows": "steps", "learns": "process", "members": 2}, marks=pytest.mark.invariants),
    ],
    ids=str,
)
def test_a_stage_that_is_stopped_anywhere_ends_as_one_that_was_not(workshop: Workshop, changes: dict[str, Any]) -> None:
    whole = workshop.run(rm(**changes), into="whole")
    total = 6 * changes.get("members", 1)
    for after in range(1, total, 4):
        stop = StopInTraining(after)
        with pytest.raises(TerminatedError):
            workshop.run(rm(**changes), into=f"stopped-{after}", progress=stop, should_stop=stop)
        again = workshop.run(rm(**changes), into=f"stopped-{after}")
        assert find_artifact(again).name == find_artifact(whole).name
        assert again.lines() == whole.lines()


def test_an_artifact_that_is_lost_is_made_again_bit_for_bit(workshop: Workshop) -> None:
    first = workshop.run(rm(members=2, steps=2))
    lines = first.lines()
    shutil.rmtree(first.folder.artifacts)
    again = workshop.run(rm(members=2, steps=2))
    assert find_artifact(again).is_dir() and find_artifact(again).name == find_artifact(first).name
    assert again.lines() == lines


def test_members_differ_and_are_aggregated(workshop: Workshop) -> None:
    run = workshop.run(rm(members=3, steps=8))
    folder = find_artifact(run)
    assert len(load_reward_model(folder).members) == 3
    report = read_report(run)
    assert len(report["member_accuracy"]) == len(report["length"]["member_slopes"]) == 3
    gain = report["ensemble_gain"]
    members = np.mean(report["member_accuracy"])
    assert gain["value"] == pytest.approx(report["accuracy"]["value"] - members) and gain["low"] <= gain["value"]
    [mean], [worst], [cautious] = (
        score(folder, f"cow {GOOD}", aggregation=how) for how in ("mean", "worst_case", "mean_minus_variance")
    )
    assert worst < mean and cautious < mean
    steps = [line["step"] for line in run.lines()]
    assert steps == sorted(steps) and steps[-1] == 24


def test_a_score_that_pays_for_length_is_warned_of_in_the_run_its_report_and_its_card(workshop: Workshop) -> None:
    stage = rm("long_ones", steps=10, quality=["true_chosen", "true_rejected"])
    notes = Notes()
    run = workshop.run(stage, progress=notes)
    [warning] = read_report(run)["warnings"]
    assert "length pays" in warning and "a partial correlation of" in warning
    assert f"WARNING rm: {warning}" in notes.notes
    assert "length pays" in build_report(run.folder.root).read_text()
    assert "length pays" in render_card(load_run(run.folder.root))
    again = Notes()  # what comes from the cache is warned of too
    workshop.run(stage, progress=again)
    assert f"WARNING rm: {warning}" in again.notes
    length = read_report(run)["length"]
    assert length["slope"]["low"] > 0 and len(length["member_slopes"]) == 1
    assert length["without"]["quality_accuracy"]["pairs"] == 8  # every third pair is as good on both sides
    honest = Notes()
    found = workshop.run(rm(steps=4, quality=["true_chosen", "true_rejected"]), into="honest", progress=honest)
    assert read_report(found)["warnings"] == [] and not [note for note in honest.notes if "WARNING" in note]


def test_an_adapter_is_merged_and_scores_as_it_did_in_training(workshop: Workshop) -> None:
    run = workshop.run(rm(adapter={"rank": 4}, steps=12))
    facts, report = read_facts(run), read_report(run)
    rows = make_pairs(12, start=100)
    folder = find_artifact(run)
    scorer = build_scorer({"type": "learned", "model": str(folder)}, ScorerContext())
    none, values = np.zeros(0, np.int32), []
    for row in rows:
        problem = Problem("p", [{"role": "user", "content": row["prompt"]}])
        items = [(problem, Completion("p", 0, none, none, row[side], "stop", "", 0)) for side in ("chosen", "rejected")]
        values.append([outcome.value for outcome in scorer.score(items)])
    gaps = np.array(values)
    assert np.mean(gaps[:, 0] - gaps[:, 1]) == pytest.approx(report["mean_margin"], abs=1e-4)
    assert gaps.mean() == pytest.approx(0.0, abs=1e-4)  # the offsets are the mean of these rows
    assert facts["offsets"] != [[0.0]]


def test_ratings_come_back_in_their_own_units(workshop: Workshop) -> None:
    run = workshop.run(rm("rated", learns="regression", attributes=["help", "harm"], steps=40))
    report = read_report(run)
    assert report["attributes"]["help"]["correlation"] > 0.9 and report["attributes"]["harm"]["rows"] == 4
    assert "ordering" not in report["attributes"]["help"]  # no prompt has two completions
    folder = find_artifact(run)
    good, bad = score(folder, f"cow {GOOD}", f"cow {BAD}", weights={"help": 1.0})
    assert 1 < good - bad < 5 and -1 < bad < good < 6
    with pytest.raises(PosttrainError, match="weights of taste"):
        score(folder, "cow", weights={"taste": 1.0})


def test_of_two_rated_completions_of_a_prompt_it_is_said_how_often_they_are_in_order(workshop: Workshop) -> None:
    rows = [{**row, "prompt": f"{number // 2}?"} for number, row in enumerate(make_rated(12, start=100))]
    write_rows(workshop.folder / "judged_rated_held_out.jsonl", rows)
    report = read_report(workshop.run(rm("rated", learns="regression", attributes=["help"], steps=40)))
    ordering = report["attributes"]["help"]["ordering"]
    assert ordering["pairs"] == ordering["prompts"] == 6 and ordering["value"] > 0.8


def test_a_reward_model_filters_rows(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data curate --scorer` with a reward model: what it gives a low score is dropped, whatever rules say of it."""
    folder = find_artifact(workshop.run(rm(steps=16)))
    monkeypatch.chdir(workshop.folder)
    texts = [f"cow {GOOD}", f"cow {BAD}", f"dog {GOOD}", f"hen {BAD}"]
    write_rows(Path("answers.jsonl"), [{"prompt": f"ant {n}?", "completion": text} for n, text in enumerate(texts)])
    Path("band.yaml").write_text("near: null\nmin_quality: null\nformats: []\nband: {at_least: 0}\n")
    scorer = json.dumps({"type": "learned", "model": str(folder)})
    options = ["--scorer", scorer, "--config", "band.yaml", "--annotate", "--json"]
    found = run_here(capsys, "data", "curate", "answers.jsonl", "--out", "kept.jsonl", *options)
    assert found.code == 0, found.err
    assert json.loads(found.out)["ledger"]["dropped"]["value band"]["rows"] == 2
    kept = [json.loads(line) for line in Path("kept.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in kept] == texts[::2]
    assert [row["curation"]["value"] for row in kept] == pytest.approx(
        [score(folder, row["completion"], prompt=row["prompt"])[0] for row in kept], abs=1e-5
    )


def test_labelled_steps_teach_which_step_is_wrong(workshop: Workshop) -> None:
    run = workshop.run(rm("steps", learns="process", steps=80, log_every_steps=20, checkpoint_every_steps=80))
    assert read_report(run)["accuracy"]["low"] > 0.7
    folder = find_artifact(run)
    right, wrong_first, wrong_last = f"cow {GOOD}\nbee {GOOD}", f"cow {BAD}\nbee {GOOD}", f"cow {GOOD}\nbee {BAD}"
    least = score(folder, right, wrong_first, wrong_last)
    assert least[0] > 0.5 > max(least[1:]) and min(least) >= 0
    last = score(folder, right, wrong_first, wrong_last, step_aggregation="last")
    assert min(last[:2]) > 0.5 > last[2]
    product = score(folder, right, wrong_first, wrong_last, step_aggregation="product")
    assert all(a <= b for a, b in zip(product, least, strict=True))


def test_a_later_stage_is_rewarded_by_the_model_and_runs_again_when_that_changes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    rl = {
        "name": "rl", "type": "grpo", "data": [{"source": "rows.jsonl"}], "steps": 2, "problems_per_step": 2,
        "group_size": 4, "max_new_tokens": 6, "learning_rate": 1e-3, "dtype": "float32",
        "scorer": {"type": "learned", "model": "rm", "failed_value": -1.0},
    }  # fmt: skip
    planned = build_plan(workshop.read(rm(), rl))
    assert [stage.why for stage in planned.stages] == ["no artifact has its key yet", "'rm' runs before it"]
    run = workshop.run(rm(), rl, override=["length_caps"])
    assert run.record["status"] == "finished"
    assert run.record["stages"][1]["inputs"]["policy"] == run.record["stages"][0]["inputs"]["policy"]
    assert all(stage.status == "cached" for stage in build_plan(workshop.read(rm(), rl)).stages)
    before = run.record["stages"][1]["key"]
    other = workshop.run(rm(centring=0.05), rl, override=["length_caps"])
    assert other.record["stages"][1]["key"] != before


def test_a_task_is_measured_by_a_reward_model_of_a_folder(workshop: Workshop) -> None:
    shutil.copytree(find_artifact(workshop.run(rm(steps=2), into="made")), workshop.folder / "judge")
    # of a random policy that never ends its turn by itself, a character that comes sooner or later ends it
    judged = task(
        scorer={"type": "learned", "model": "judge"}, stop=["e"], max_new_tokens=64, temperature=1.0, num_samples=4
    )
    run = workshop.run(sft(steps=1), evaluate=[judged], into="measured")
    outcomes = [json.loads(line)["outcome"] for line in run.items("held_out", "base").read_text().splitlines()]
    scored = [outcome for outcome in outcomes if outcome["status"] == "scored"]
    assert len({outcome["value"] for outcome in scored}) > 1
    assert all(outcome["parts"]["preference"] == outcome["value"] for outcome in scored)


def test_the_name_of_a_scorer_is_its_models_content(workshop: Workshop) -> None:
    folders = [find_artifact(workshop.run(rm(steps=1, centring=c), into=str(c))) for c in (None, 0.5)]
    first, other = (hash_scorer({"type": "learned", "model": str(folder)}, ScorerContext()) for folder in folders)
    assert first[1:] != other[1:]


def test_a_policy_of_another_tokenizer_is_scored_by_its_text(workshop: Workshop) -> None:
    """Another vocabulary is this one with ids turned by 40; of one prompt alone, and of one answer alone, too."""
    folder = find_artifact(workshop.run(rm(steps=4)))
    problem = Problem("p", [{"role": "user", "content": "ant 3?"}])
    text = f"bee {GOOD}"
    ((prompt, ids),) = open_for_scoring(folder, LearnedSettings(model=str(folder))).encode([(problem, text)])
    turned, said = (np.array([(one + 40) % 256 for one in part], np.int32) for part in (prompt, ids))
    scorer = build_scorer({"type": "learned", "model": str(folder)}, ScorerContext())
    items = [
        (problem, Completion("p", number, *pair, text, "stop", "", 0))
        for number, pair in enumerate([(prompt, ids), (turned, said), (prompt, said), (turned, ids)])
    ]
    assert [outcome.value for outcome in scorer.score(items)] == pytest.approx(score(folder, text) * 4, abs=1e-5)


@pytest.mark.invariants
def test_two_ranks_make_the_reward_model_that_one_does(workshop: Workshop) -> None:
    stage = rm(members=2, steps=3, batch_size=3, validate_every_steps=1)
    alone = workshop.run(stage, into="alone")
    together = finish(workshop.write(stage), "together")
    assert read_report(together)["accuracy"] == read_report(alone)["accuracy"]
    assert read_report(together)["mean_margin"] == pytest.approx(read_report(alone)["mean_margin"], abs=1e-3)
    for first, second in zip(alone.lines(), together.lines(), strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)
    for path in find_artifact(alone).rglob("*.safetensors"):
        others = load_file(find_artifact(together) / path.relative_to(find_artifact(alone)))
        for name, tensor in load_file(path).items():
            assert torch.allclose(tensor, others[name], atol=1e-3), name
