"""The maths scorer: right verdicts on hostile answers, whose a failure is, and the same wherever it is called."""

import asyncio
import json
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import pytest

from posttrain.core.errors import DataError
from posttrain.sandbox.limits import Limits
from posttrain.scorers.calling import score_async
from posttrain.scorers.math import MathScorer
from posttrain.scorers.reasoning import ReasoningBlock
from tests.scorers.math_cases import CASES, complete
from tests.scorers.math_items import build_completion, build_item

HOSTILE = [
    row
    for row in map(json.loads, (Path(__file__).parent / "cases" / "hostile_cases.jsonl").read_text().splitlines())
    if row["kind"] == "math"
]
SHORT = Limits(cpu_seconds=0.02, wall_seconds=20.0, memory_bytes=256 << 20, output_bytes=1 << 16)


@pytest.fixture(scope="module")
def scorer():
    with_pool = MathScorer()
    yield with_pool
    with_pool.close()


def read_hostile(row):
    task = row["task"]
    return build_item(row["payload"], task["gold"], task["answer_form"], question=task["question"])


@pytest.mark.parametrize("row", HOSTILE, ids=[row["id"] for row in HOSTILE])
def test_a_hostile_answer_gets_its_verdict(row, scorer):
    outcome = scorer.score([read_hostile(row)])[0]
    assert outcome.value == float(row["expected"] == "accept"), outcome.why
    assert outcome.is_counted and outcome.why


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.form}" for number, case in enumerate(CASES)])
def test_an_answer_gets_the_verdict_that_mathematics_gives_it(case, scorer):
    item = build_item(complete(case.said), case.gold, case.form, question=case.question, **case.columns)
    outcome = scorer.score([item])[0]
    assert outcome.value == float(case.is_right), f"{case.why}: {outcome.why}"
    assert outcome.is_counted and outcome.fault != "harness"


def test_the_reason_says_what_was_read_and_what_was_expected(scorer):
    right, wrong, unread = scorer.score([build_item(f"\\boxed{{{said}}}", "7/2") for said in ("3.5", "3.6", "seven")])
    assert right.why == "read '3.5' (boxed): equal"
    assert wrong.why == "read '3.6' (boxed): expected '7/2'"
    assert unread.why == "read 'seven' (boxed): the word 'seven'"
    assert [right.status, wrong.status, unread.status] == ["scored", "scored", "unparsed"]
    assert unread.fault == "policy"


def test_outcomes_keep_the_order_of_the_items_whichever_of_them_need_algebra(scorer):
    texts = [r"\sqrt{8}", "3", "", r"\frac{4}{\sqrt2}", "2.8284", r"2\sqrt2", "x"]
    items = [build_item(f"\\boxed{{{text}}}", r"2\sqrt{2}") for text in texts]
    assert [outcome.value for outcome in scorer.score(items)] == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert scorer.score([]) == []


@pytest.mark.parametrize(
    ("finish_reason", "status", "fault"),
    [("length", "truncated", "policy"), ("filtered", "truncated", "policy"), ("cancelled", "errored", "harness")],
)
def test_a_completion_that_did_not_end_is_not_read(finish_reason, status, fault, scorer):
    problem, _ = build_item("", "5")
    outcome = scorer.score([(problem, build_completion("\\boxed{5}", finish_reason))])[0]
    assert (outcome.status, outcome.value, outcome.fault) == (status, 0.0, fault)


@pytest.mark.parametrize(
    "columns",
    [
        {}, {"answer": None}, {"answer": ""}, {"answer": True}, {"answer": ["5"]}, {"answer": "5 or 7"},
        {"answer": "five"}, {"answer": "x+1"}, {"answer": "9!!!"}, {"answer": "5", "answer_form": "numeric"},
        {"answer": "5", "answer_form": "equation"}, {"answer": "5", "unit": 3}, {"answer": "5", "choices": "AB"},
        {"answer": "5", "tolerance": "-1"}, {"answer": "5", "tolerance": True}, {"answer": "no box \\boxed{5"},
    ],
)  # fmt: skip
def test_a_problem_whose_columns_cannot_be_used_is_refused_with_its_row_and_the_cure(columns, scorer):
    problem, completion = build_item("\\boxed{5}", "5")
    problem.columns.clear()
    problem.columns.update(columns)
    with pytest.raises(DataError) as caught:
        scorer.score([(problem, completion)])
    assert caught.value.place == "row-1"
    assert "columns:" in caught.value.cure


@pytest.mark.parametrize(
    ("gold", "text"), [("6 * 7 = 42\n#### 42", "42"), ("so $\\boxed{42}$.", "42"), (42, "42"), (4.5, "9/2")]
)
def test_a_gold_answer_may_be_a_number_or_stand_in_its_solution(gold, text, scorer):
    assert scorer.score([build_item(f"\\boxed{{{text}}}", gold)])[0].value == 1.0


@pytest.mark.parametrize("settings", [{"answer_form": "numeric"}, {"extraction": ()}, {"extraction": ("box",)}])
def test_a_setting_that_does_not_exist_is_refused_by_name(settings):
    with pytest.raises(ValueError, match="expected"):
        MathScorer(**settings)


@pytest.mark.parametrize(
    ("settings", "text", "gold", "value"),
    [
        ({"extraction": ("last_number",)}, "first 41, then 42 of them", "42", 1.0),
        ({"extraction": ("boxed",)}, "so\n#### 42", "42", 0.0),
        ({"extraction": ("whole",), "answer_form": "text"}, "East.", "east", 1.0),
        ({"is_comma_decimal": True}, "\\boxed{1,5}", "3/2", 1.0),
        ({"is_comma_decimal": True}, "\\boxed{1.000}", "1000", 1.0),
        ({"is_comma_decimal": True}, "\\boxed{1{,}500}", "3/2", 1.0),
        ({"reasoning": ReasoningBlock(is_opened_by_prompt=True)}, "\\boxed{5}", "5", 0.0),
        ({"reasoning": ReasoningBlock(is_opened_by_prompt=True)}, "so</think>\\boxed{5}", "5", 1.0),
        ({"answer_form": "by_gold"}, "\\boxed{2 < x}", "(2,\\infty)", 1.0),
        ({"answer_form": "by_gold"}, "\\boxed{2x}", "x+x", 1.0),
    ],
)
def test_a_setting_does_what_it_says(settings, text, gold, value):
    scorer = MathScorer(**settings)
    assert scorer.score([build_item(text, gold)])[0].value == value
    scorer.close()


def test_a_comparison_that_runs_out_of_time_is_a_counted_failure_of_the_policy():
    factors = r"x^{1/3}\sin(x^{1/3})" * 40
    scorer = MathScorer(answer_form="expression", limits=SHORT)
    outcome = scorer.score([build_item(f"\\boxed{{{factors}}}", "x+1")])[0]
    scorer.close()
    assert (outcome.status, outcome.value, outcome.fault, outcome.is_counted) == ("timed_out", 0.0, "policy", True)
    assert "0.02 s of CPU" in outcome.why


@pytest.mark.parametrize(("entry", "word"), [("fail", "surprise"), ("eat", "memory")])
def test_a_comparison_that_fails_is_never_a_score_that_counts_for_the_policy(entry, word):
    scorer = MathScorer(entry=f"tests.scorers.math_jobs:{entry}")
    outcome = scorer.score([build_item(r"\boxed{\sqrt3}", r"\sqrt2")])[0]
    scorer.close()
    assert (outcome.status, outcome.value, outcome.fault) == ("errored", 0.0, "policy")
    assert word in outcome.why


def score_with_hangs(num_hangs, num_honest):
    """Score hangs with honest items among them; return the outcomes of each, and the scorer."""
    scorer = MathScorer(entry="tests.scorers.math_jobs:hang", num_workers=2, limits=SHORT)
    hangs = [build_item(r"\boxed{\sqrt3}", r"\sqrt7") for _ in range(num_hangs)]
    honest = [build_item(r"\boxed{\sqrt3}", r"\sqrt5") for _ in range(num_honest)]
    every = num_hangs // num_honest
    items = [item for number, item in enumerate(hangs) for item in (item, *(honest[:1] if number % every == 0 else ()))]
    outcomes = scorer.score(items)
    is_honest = [item[0] is honest[0][0] for item in items]
    hung = [outcome for outcome, right in zip(outcomes, is_honest, strict=True) if not right]
    return hung, [outcome for outcome, right in zip(outcomes, is_honest, strict=True) if right], scorer


def check_pool_is_whole(num_hangs, num_honest):
    children = list_children()
    hung, honest, scorer = score_with_hangs(num_hangs, num_honest)
    assert (len(hung), len(honest)) == (num_hangs, num_honest)
    assert {(outcome.status, outcome.value, outcome.fault) for outcome in hung} == {("timed_out", 0.0, "policy")}
    assert {outcome.value for outcome in honest} == {1.0}
    assert len(scorer._pool._workers) <= 2
    scorer.close()
    assert list_children() == children


def list_children():
    """Return this process's children, alive or dead."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def test_hangs_cost_their_deadline_and_nothing_else():
    check_pool_is_whole(20, 4)


@pytest.mark.soak
def test_a_thousand_hangs_leave_the_pool_whole_and_no_process_behind():
    check_pool_is_whole(1000, 50)


MIXED = [
    build_item(f"\\boxed{{{said}}}", gold, form)
    for gold, form, said in [
        (r"2\sqrt2", "value", r"\sqrt8"),
        ("2k+2", "expression", "2(k+1)"),
        ("y=2x", "equation", "2y=4x"),
        ("5", "value", "5^{5^{5^{5^5}}}-4"),
        ("5", "value", "5 or 7"),
        ("1,-2", "set", "-2,1"),
        ("B", "choice", "(b)"),
    ]
]


def test_outcomes_are_the_same_from_a_thread_a_forked_process_an_event_loop_and_a_pickled_copy(scorer):
    expected = scorer.score(MIXED)
    assert [outcome.value for outcome in expected] == [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]

    boxes = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda box=box: box.extend(scorer.score(MIXED))) for box in boxes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert boxes == [expected] * 4

    async def score_twice():
        return await asyncio.gather(score_async(scorer, MIXED), score_async(scorer, MIXED))

    assert asyncio.run(score_twice()) == [expected, expected]

    async def score_on_the_loop():
        return scorer.score(MIXED)

    assert asyncio.run(score_on_the_loop()) == expected

    queue = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=lambda: queue.put(scorer.score(MIXED)))
    process.start()
    forked = queue.get()
    process.join()
    assert forked == expected
    assert scorer.score(MIXED) == expected

    copy = pickle.loads(pickle.dumps(scorer))
    assert copy.score(MIXED) == expected
    copy.close()
