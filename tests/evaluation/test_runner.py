"""The runner: resume, identity, failures in the denominator, and figures worked by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from posttrain.core.config import parse_config
from posttrain.core.errors import DataError, RecipeError, RefusedError, StorageError
from posttrain.core.records import Completion, ItemResult, Outcome, Problem
from posttrain.evaluation.figures import summarise_items
from posttrain.evaluation.generation import Generation
from posttrain.evaluation.items import read_items
from posttrain.evaluation.runner import choose_problems, run_task
from posttrain.evaluation.task import GenerationTask, hash_task
from posttrain.scorers.exact_match import ExactMatch

TASK = GenerationTask(name="held_out", data={"source": "lab:conversations"}, max_new_tokens=8)


class SilentProgress:
    """Keeps what it was told."""

    def __init__(self):
        self.total, self.done, self.is_finished, self.figures = 0, 0, False, {}

    def start(self, title, total, *, unit="step"):
        self.total = total

    def advance(self, amount=1, **figures):
        self.done += amount
        self.figures.update(figures)

    def finish(self):
        self.is_finished = True

    def note(self, text):
        raise AssertionError(text)


class TableSampler:
    """Answers from a table, in an order of its own, and breaks down after `breaks_after` completions."""

    def __init__(self, texts, policy_hash="policy", breaks_after=None):
        self.texts, self.policy_hash, self.breaks_after = texts, policy_hash, breaks_after
        self.drawn, self.seeds, self.settings = [], {}, None

    def sample(self, problems, settings, seeds):
        self.settings = settings
        for index in reversed(range(len(problems))):
            name = problems[index].problem_id
            if self.breaks_after is not None and len(self.drawn) == self.breaks_after:
                raise KeyboardInterrupt
            self.drawn.append(name)
            self.seeds[name] = seeds[index]
            text, reason = self.texts[name]
            ids = np.arange(2, dtype=np.int32)
            yield index, Completion(name, 0, ids, ids, text, reason, self.policy_hash, seeds[index])


def build_problems(count=100):
    messages = [{"role": "user", "content": "?"}]
    return [Problem(f"p{n:03d}", messages, {"answer": str(n)}, cluster_id=f"c{n % 7}") for n in range(count)]


def build_texts(count=100):
    """Right for n % 4 < 2, wrong for n % 4 = 2, truncated for n % 8 = 3, empty for n % 8 = 7."""
    kinds = {3: ("...", "length"), 7: ("", "stop")}
    return {
        f"p{n:03d}": kinds.get(n % 8) or ((str(n), "stop") if n % 4 < 2 else ("wrong", "stop")) for n in range(count)
    }


def run(path, sampler=None, *, problems=None, scorer=None, task=TASK, policy="policy", progress=None):
    sampler = sampler or TableSampler(build_texts(), policy)
    asked = build_problems() if problems is None else problems
    measured = choose_problems(task.name, hash_task(task, asked), asked)
    answerer = Generation(task, policy, lambda: sampler, scorer or ExactMatch())
    return run_task(measured, answerer, path, progress or SilentProgress())


def test_failures_of_the_policy_stay_in_the_denominator(tmp_path):
    """Of 100 items 50 are right, 25 wrong, 13 truncated (n % 8 = 3) and 12 empty (n % 8 = 7); Wilson's limits of 50."""
    alone = [replace(problem, cluster_id="") for problem in build_problems()]
    metrics = {metric["name"]: metric for metric in run(tmp_path / "items.jsonl", problems=alone)}
    match, stop = metrics["exact_match"], metrics["stop_rate"]
    assert (match["task"], match["value"], match["n"], match["method"]) == ("held_out", 0.5, 100, "wilson")
    assert (match["low"], match["high"]) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert (stop["value"], stop["n"]) == (0.87, 100)
    counts = {"scored": 75, "unparsed": 12, "timed_out": 0, "truncated": 13, "errored": 0}
    counts |= {"not_applicable": 0, "harness": 0}
    assert match["outcomes"] == counts == stop["outcomes"]
    json.dumps(metrics, allow_nan=False)


def test_every_item_is_recorded_in_the_order_of_the_problems(tmp_path):
    run(tmp_path / "items.jsonl")
    items = read_items(tmp_path / "items.jsonl")
    problems = build_problems()
    assert [(item.item_id, item.cluster_id) for item in items] == [(p.problem_id, p.cluster_id) for p in problems]
    assert {(item.task_hash, item.policy_hash) for item in items} == {(hash_task(TASK, problems), "policy")}
    assert (items[1].text, items[1].outcome.value, items[1].outcome.parts) == (
        "1",
        1.0,
        {"stopped": 1.0, "drawn_tokens": 2.0},
    )
    assert (items[3].outcome.status, items[3].outcome.parts) == ("truncated", {"stopped": 0.0, "drawn_tokens": 2.0})


def test_the_task_decides_how_much_and_how_warm_is_drawn(tmp_path):
    sampler = TableSampler(build_texts())
    task = TASK.model_copy(update={"temperature": 0.5, "max_new_tokens": 3})
    run(tmp_path / "items.jsonl", sampler, task=task)
    assert (sampler.settings.temperature, sampler.settings.max_new_tokens) == (0.5, 3)
    assert len(set(sampler.seeds.values())) == 100


def test_an_answer_counts_where_the_file_holds_a_harness_fault_of_the_same_item_before_it(tmp_path):
    run(tmp_path / "items.jsonl")
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    fault = json.loads(lines[5])
    fault["outcome"] |= {"status": "errored", "fault": "harness", "value": 0.0}
    (tmp_path / "torn.jsonl").write_text("\n".join([json.dumps(fault), *lines]) + "\n")
    run(tmp_path / "torn.jsonl", TableSampler({}))
    assert (tmp_path / "torn.jsonl").read_text() == (tmp_path / "items.jsonl").read_text()


@pytest.mark.parametrize("breaks_after", [0, 1, 40, 99])
def test_a_killed_evaluation_goes_on_and_ends_with_the_same_bytes(tmp_path, breaks_after):
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(torn, TableSampler(build_texts(), breaks_after=breaks_after))
    kept = len(read_items(torn))
    assert kept == breaks_after // 32 * 32
    rest = TableSampler(build_texts())
    assert run(torn, rest) == expected
    assert len(rest.drawn) == 100 - kept
    assert torn.read_bytes() == whole.read_bytes()


def test_an_item_drawn_after_a_restart_has_the_seed_it_would_have_had(tmp_path):
    first, second = TableSampler(build_texts()), TableSampler(build_texts(), breaks_after=50)
    run(tmp_path / "a.jsonl", first)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b.jsonl", second)
    rest = TableSampler(build_texts())
    run(tmp_path / "b.jsonl", rest)
    assert {**second.seeds, **rest.seeds} == first.seeds
    assert all(first.seeds[name] == seed for name, seed in second.seeds.items())


def test_a_second_evaluation_draws_nothing_and_shows_no_bar(tmp_path):
    path, progress = tmp_path / "items.jsonl", SilentProgress()
    expected, before = run(path), (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    sampler = TableSampler(build_texts(), breaks_after=0)
    assert run(path, sampler, progress=progress) == expected
    assert sampler.drawn == []
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert (progress.total, progress.done) == (0, 0)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_is_drawn_again(tmp_path, cut):
    path = tmp_path / "items.jsonl"
    expected, content = run(path), path.read_bytes()
    path.write_bytes(content[:-cut])
    sampler = TableSampler(build_texts())
    assert run(path, sampler) == expected
    assert sampler.drawn == ["p099"]
    assert path.read_bytes() == content


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "items.jsonl"
    run(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = b"{}\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(StorageError) as caught:
        run(path)
    assert caught.value.place == f"{path}:5"


def test_an_item_that_two_processes_wrote_is_kept_once(tmp_path):
    path = tmp_path / "items.jsonl"
    expected, content = run(path), path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:50], *lines]))
    sampler = TableSampler(build_texts())
    assert run(path, sampler) == expected
    assert sampler.drawn == [] and path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": {"status": "scored", "value": "x"}},
        {"outcome": {"status": "scored", "value": float("nan")}},
        {"outcome": {"status": "fine", "value": 1.0}},
        {"outcome": {"status": "scored", "value": 1.0, "parts": {"stopped": None}}},
        {"outcome": {"status": "scored", "value": 1.0, "fault": "mine"}},
        {"outcome": {"status": "scored", "value": 1.0, "answer": 3}},
        {"outcome": {"status": [], "value": 1.0}},
        {"item_id": ["p"]},
        {"sample_index": "0"},
        {"prompt": "text"},
        {"cluster_id": None},
    ],
)
def test_an_item_whose_fields_are_of_other_types_is_refused_with_its_line(tmp_path, change):
    path = tmp_path / "items.jsonl"
    run(path)
    lines = path.read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(StorageError, match="not an item") as caught:
        read_items(path)
    assert caught.value.place == f"{path}:3" and "delete the file" in caught.value.cure


@pytest.mark.parametrize(
    ("values", "clusters", "method"),
    [([0.4], [""], "one_source"), ([0.4, 0.6], ["c", "c"], "one_source"), ([1.0, 0.0], ["c", "c"], "one_source"),
     ([1.0], [""], "wilson"), ([0.4, 0.6], ["", ""], "bootstrap")],
)  # fmt: skip
def test_one_source_has_no_interval_but_for_a_single_trial_of_right_or_wrong(values, clusters, method):
    items = [
        ItemResult(f"p{place}", cluster, "task", 0, Outcome("scored", value), "policy")
        for place, (value, cluster) in enumerate(zip(values, clusters, strict=True))
    ]
    [metric] = summarise_items("held_out", "graded", items)
    assert metric["method"] == method and metric["value"] == pytest.approx(np.mean(values))
    assert (metric["low"] is None) == (metric["high"] is None) == (method == "one_source")


def test_items_of_another_policy_task_or_problem_are_replaced(tmp_path):
    path = tmp_path / "items.jsonl"
    run(path, policy="policy")
    for number, (named, count) in enumerate(
        [
            ({"policy": "other"}, 100),
            ({"policy": "other", "task": TASK.model_copy(update={"max_new_tokens": 9})}, 100),
            ({"policy": "other", "problems": build_problems(60)}, 60),
        ]
    ):
        sampler = TableSampler(build_texts(), named["policy"])
        run(path, sampler, **named)
        assert len(sampler.drawn) == count, number
        assert {item.policy_hash for item in read_items(path)} == {"other"}
        assert len(read_items(path)) == count


def test_the_task_hash_names_what_is_asked_and_not_where_it_lies():
    problems = build_problems(5)
    reference = hash_task(TASK, problems)
    same = {"name": "again", "data": TASK.data.model_copy(update={"source": "other.jsonl"})}
    assert hash_task(TASK.model_copy(update=same), problems) == reference
    for change in ({"scorer": "mine.py:f"}, {"max_new_tokens": 9}, {"temperature": 1.0}):
        assert hash_task(TASK.model_copy(update=change), problems) != reference
    changed = [*problems[:4], Problem("p004", problems[4].messages, {"answer": "5"})]
    assert hash_task(TASK, changed) != reference
    assert hash_task(TASK, problems[:4]) != reference


def test_a_sampler_of_another_policy_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="stale"):
        run(tmp_path / "items.jsonl", TableSampler(build_texts(), "stale"), policy="policy")
    assert not (tmp_path / "items.jsonl").exists()


def test_no_problem_and_a_repeated_id_are_refused(tmp_path):
    with pytest.raises(DataError, match="no problem"):
        run(tmp_path / "items.jsonl", problems=[])
    with pytest.raises(DataError, match="p000"):
        run(tmp_path / "items.jsonl", problems=[*build_problems(3), build_problems(1)[0]])


class FlakyScorer:
    """Scores 0.25 for every item, but fails on some of them a number of times."""

    name = "flaky"

    def __init__(self, failing, times):
        self.left = dict.fromkeys(failing, times)

    def score(self, items):
        outcomes = []
        for problem, _ in items:
            fails = self.left.get(problem.problem_id, 0) > 0
            self.left[problem.problem_id] = self.left.get(problem.problem_id, 0) - 1
            failure = Outcome("errored", 0.0, fault="harness", why="judge unreachable")
            outcomes.append(failure if fails else Outcome("scored", 0.25))
        return outcomes


class PartialScorer:
    """Scores 0.5 for every item, but says of the first ones that it does not apply to them."""

    name = "partial"

    def __init__(self, count):
        self.count = count
        self.asked = 0

    def score(self, items):
        self.asked += len(items)
        silent = Outcome("not_applicable", 0.0)
        return [silent if int(p.problem_id[1:]) < self.count else Outcome("scored", 0.5) for p, _ in items]


def test_items_that_a_scorer_does_not_apply_to_are_left_out_counted_and_not_asked_about_again(tmp_path):
    scorer = PartialScorer(40)
    metrics = run(tmp_path / "items.jsonl", scorer=scorer)
    assert (metrics[0]["value"], metrics[0]["n"]) == (0.5, 60)
    assert (metrics[0]["outcomes"]["not_applicable"], metrics[0]["outcomes"]["harness"]) == (40, 0)
    assert sum(metrics[0]["outcomes"].values()) == 100 and scorer.asked == 100
    sampler = TableSampler(build_texts())
    assert run(tmp_path / "items.jsonl", sampler, scorer=scorer) == metrics
    assert sampler.drawn == []


def test_a_scorer_that_applies_to_no_item_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="partial applies to none of 100 items"):
        run(tmp_path / "items.jsonl", scorer=PartialScorer(100))


def test_a_harness_fault_is_scored_once_more(tmp_path):
    metrics = run(tmp_path / "items.jsonl", scorer=FlakyScorer([f"p{n:03d}" for n in range(30)], times=1))
    assert (metrics[0]["name"], metrics[0]["value"], metrics[0]["n"]) == ("flaky", 0.25, 100)
    assert metrics[0]["outcomes"]["harness"] == 0


def test_a_harness_fault_that_stays_is_left_out_and_counted(tmp_path):
    metrics = run(tmp_path / "items.jsonl", scorer=FlakyScorer(["p005"], times=2))
    assert (metrics[0]["value"], metrics[0]["n"], metrics[0]["outcomes"]["harness"]) == (0.25, 99, 1)
    assert sum(metrics[0]["outcomes"].values()) == 100


def test_more_than_one_percent_of_harness_faults_stop_the_run_and_only_they_are_drawn_again(tmp_path):
    path = tmp_path / "items.jsonl"
    with pytest.raises(RefusedError, match=r"2 of 100 items: judge unreachable \(2\)"):
        run(path, scorer=FlakyScorer(["p005", "p006"], times=2))
    sampler = TableSampler(build_texts())
    metrics = run(path, sampler, scorer=FlakyScorer([], times=0))
    assert sorted(sampler.drawn) == ["p005", "p006"]
    assert (metrics[0]["value"], metrics[0]["n"]) == (0.25, 100)


def test_scores_between_zero_and_one_get_a_reproducible_bootstrap_interval(tmp_path):
    class Graded:
        name = "graded"

        def score(self, items):
            return [Outcome("scored", int(problem.problem_id[1:]) / 99) for problem, _ in items]

    alone = [replace(problem, cluster_id="") for problem in build_problems()]
    metric = run(tmp_path / "a.jsonl", scorer=Graded(), problems=alone)[0]
    assert metric["method"] == "bootstrap"
    assert metric["value"] == pytest.approx(0.5)
    # Standard error of the mean of 100 evenly spread values: sqrt(1 / 12 / 100) = 0.0289, times 1.96.
    assert (metric["low"], metric["high"]) == pytest.approx((0.443, 0.557), abs=0.01)
    assert run(tmp_path / "b.jsonl", scorer=Graded(), problems=alone)[0] == metric
    assert summarise_items("held_out", "graded", read_items(tmp_path / "a.jsonl"))[0] == metric


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temprature": 1.0}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_a_wrong_key_or_range_of_a_task_is_refused(change, said):
    values = {"name": "held_out", "data": {"source": "lab:conversations"}, **change}
    with pytest.raises(RecipeError, match=said):
        parse_config(GenerationTask, values, place="evaluate[0]")


def test_a_share_of_a_mixture_is_refused_where_nothing_is_mixed():
    values = {"name": "held_out", "data": {"source": "lab:conversations", "proportion": 2.0}}
    with pytest.raises(RecipeError, match="mixes nothing"):
        parse_config(GenerationTask, values, place="evaluate[0]")
