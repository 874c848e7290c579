"""Facts: the hostile cases, whose failure a failure is, what the parts count, the same outcome however it is called."""

from __future__ import annotations

import time
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Outcome
from posttrain.scorers.facts import ClaimFacts, ShortAnswerFacts
from posttrain.scorers.knowledge_base import build_knowledge_base
from tests.scorers.fact_items import make_item, read_cases, score_everywhere

SHARED = read_cases("hostile_cases.jsonl", "fact")
CASES = [*SHARED, *read_cases("fact_cases.jsonl", "fact")]
WAITING_FOR_A_JUDGE = ("fact-pair-label", "fact-pair-swap")
"""Two replies are compared in these: no gold answer decides them, so they are the judge's and not this scorer's."""
DECIDED = [case for case in CASES if case["id"] not in WAITING_FOR_A_JUDGE]


def score(text: str, settings: dict[str, Any] | None = None, finish_reason: Any = "stop", **columns: Any) -> Outcome:
    item = make_item(text, columns or {"gold": ["Canberra"]}, finish_reason=finish_reason)
    return ShortAnswerFacts(**settings or {}).score([item])[0]


@pytest.mark.parametrize("case", DECIDED, ids=lambda case: case["id"])
def test_a_hostile_answer_is_judged_as_it_should_be(case: dict[str, Any]) -> None:
    outcome = score(case["payload"], gold=case["task"]["gold"])
    assert (outcome.status, outcome.value) == ("scored", float(case["expected"] == "accept")), case["why"]


def test_the_cases_that_wait_for_a_judge_are_those_that_compare_two_replies() -> None:
    assert tuple(sorted(case["id"] for case in SHARED if case["task"]["judge"] == "pairwise")) == WAITING_FOR_A_JUDGE
    assert len(SHARED) == 9 and len(CASES) - len(SHARED) >= 15


@pytest.mark.parametrize(
    "columns",
    [
        {"answers": ["Canberra", "Kanberra"]},
        {"gold": "Canberra"},
        {"answer": "Kanberra", "aliases": ["Canberra"]},
    ],
)
def test_gold_answers_are_read_from_each_column_with_aliases(columns: dict[str, Any]) -> None:
    assert score("canberra", **columns).value == 1.0
    assert score("sydney", **columns).value == 0.0


@pytest.mark.parametrize(
    "columns",
    [
        {"x": 1},
        {"answers": []},
        {"answers": ["a", ""]},
        {"answers": [True]},
        {"gold": None},
        {"gold": ["a"], "answer": "b"},
        {"answer": "a", "aliases": [["b"]]},
    ],
)
def test_a_problem_without_usable_gold_is_refused_with_its_row_and_the_cure(columns: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        score("a", **columns)
    assert caught.value.place == "row-1" and caught.value.cure


def test_endings_and_unfinished_reasoning_are_the_policys_failures_and_a_cancelled_one_the_harness() -> None:
    assert (score("Canberra", finish_reason="length").status, score("Canberra", finish_reason="length").fault) == (
        "truncated",
        "policy",
    )
    assert score("Canberra", finish_reason="cancelled").fault == "harness"
    for text in (" ", "<think>Canberra", "<think>a</think><think>Canberra", "<think>Canberra</think>  "):
        outcome = score(text)
        assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")


def test_reasoning_is_no_part_of_the_answer() -> None:
    assert score("<think>Sydney?</think>\nCanberra").value == 1.0
    assert score("Sydney?</think>Canberra").value == 1.0
    assert score("<think>Canberra</think>Sydney").value == 0.0
    assert score("<think>a</think>Canberra", {"reasoning": None}).value == 0.0


def test_with_a_marker_the_answer_is_what_follows_it_and_two_differing_ones_are_none() -> None:
    settings = {"answer_marker": "Answer:"}
    assert score("I think so.\nAnswer: Canberra.", settings).value == 1.0
    assert score("Answer: Canberra\nAnswer: canberra!", settings).value == 1.0
    assert score("Answer: Sydney\nbut perhaps Canberra", settings).value == 0.0
    for text in ("Canberra", "Answer: Sydney\nAnswer: Canberra"):
        assert score(text, settings).status == "unparsed"


def test_accents_and_tolerance_count_as_the_settings_say() -> None:
    assert score("Pele", gold=["Pel\u00e9"]).value == 0.0
    assert score("Pele", {"ignore_accents": True}, gold=["Pel\u00e9"]).value == 1.0
    assert score("331 m", gold=["330 m"]).value == 0.0
    assert score("331 m", {"relative_tolerance": 0.01}, gold=["330 m"]).value == 1.0
    with pytest.raises(ValueError, match="relative_tolerance"):
        ShortAnswerFacts(relative_tolerance=1.0)


BASE = build_knowledge_base(
    [
        {"entity": "Australia", "attribute": "capital", "value": "Canberra"},
        {"entity": "France", "attribute": "capital", "value": "Paris"},
        {"entity": "France", "attribute": "neighbour", "value": "Spain", "multiple": True},
        {"entity": "France", "attribute": "neighbour", "value": "Italy"},
    ]
)
TRUE, FALSE, UNKNOWN = (
    "Australia | capital | Canberra\n",
    "France | capital | Lyon\n",
    "Atlantis | capital | Poseidonis\n",
)
DENIAL = "Australia | capital | not Sydney\n"


def judge(text: str, required: Any = None, finish_reason: Any = "stop", **settings: Any) -> Outcome:
    item = make_item(text, {} if required is None else {"required": required}, finish_reason=finish_reason)
    return ClaimFacts(knowledge_base=BASE, **settings).score([item])[0]


def test_precision_and_coverage_are_stated_apart() -> None:
    """One supported, one contradicted, one unknown, one sentence not read: precision 1/2, coverage 2/3."""
    outcome = judge(TRUE + FALSE + UNKNOWN + "Hello there.")
    assert outcome.value == 0.5
    assert outcome.parts["coverage"] == pytest.approx(2 / 3)
    counts = {name: outcome.parts[name] for name in ("claims", "supported", "contradicted", "unknown", "unread")}
    assert counts == {"claims": 3, "supported": 1, "contradicted": 1, "unknown": 1, "unread": 1}
    assert "Paris, not Lyon" in outcome.why


def test_an_unknown_claim_counts_in_the_value_as_its_weight_says() -> None:
    """One supported and one unknown: 1 / (1 + w)."""
    assert judge(TRUE + UNKNOWN).value == 1.0
    assert judge(TRUE + UNKNOWN, unknown_weight=0.5).value == pytest.approx(1 / 1.5)
    assert judge(TRUE + UNKNOWN, unknown_weight=1.0).value == 0.5


def test_all_or_nothing_is_lost_by_one_false_claim_and_by_an_unknown_one_where_it_has_weight() -> None:
    assert judge(TRUE, value="all_or_nothing").value == 1.0
    assert judge(TRUE + FALSE, value="all_or_nothing").value == 0.0
    assert judge(TRUE + UNKNOWN, value="all_or_nothing").value == 1.0
    assert judge(TRUE + UNKNOWN, value="all_or_nothing", unknown_weight=1.0).value == 0.0


def test_true_denials_are_endless_and_so_win_nothing_unless_they_are_asked_for() -> None:
    outcome = judge(DENIAL + "France | capital | not Rome")
    assert (outcome.value, outcome.parts["supported_denials"], outcome.parts["coverage"]) == (0.0, 2.0, 1.0)
    assert judge(FALSE + DENIAL * 3).value == 0.0
    assert judge(DENIAL, count_negations=True).value == 1.0


def test_recall_is_the_share_of_required_facts_that_are_affirmed() -> None:
    """Two of three required facts affirmed, precision 1: F1 = 2 * 1 * (2/3) / (1 + 2/3) = 0.8."""
    required = [
        {"entity": "Australia", "attribute": "capital"},
        {"entity": "France", "attribute": "neighbour", "value": "Italy"},
    ]
    required.append({"entity": "France", "attribute": "capital"})
    text = TRUE + "The neighbours of France: see below.\nFrance | neighbour | Italy"
    outcome = judge(text, required, value="f1")
    assert outcome.parts["recall"] == pytest.approx(2 / 3)
    assert outcome.value == pytest.approx(0.8)
    assert judge(TRUE + "France | neighbour | Spain", required).parts["recall"] == pytest.approx(1 / 3)
    assert judge(DENIAL + "France | capital | not Paris", required).parts["recall"] == 0.0


@pytest.mark.parametrize(
    "required",
    [
        [],
        "x",
        [7],
        [{"entity": "Mars", "attribute": "capital"}],
        [{"entity": "Australia", "attribute": "capital", "value": "Sydney"}],
    ],
)
def test_required_facts_that_the_knowledge_base_does_not_hold_are_refused(required: Any) -> None:
    with pytest.raises(DataError) as caught:
        judge(TRUE, required)
    assert caught.value.place == "row-1" and caught.value.cure


def test_f1_without_required_facts_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'required'"):
        judge(TRUE, value="f1")


def test_a_completion_without_a_claim_is_unparsed_and_one_without_a_decidable_claim_is_worth_nothing() -> None:
    outcome = judge("I would rather not say.")
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")
    outcome = judge(UNKNOWN)
    assert (outcome.status, outcome.value, outcome.parts["coverage"]) == ("scored", 0.0, 0.0)
    assert judge(TRUE, finish_reason="length").status == "truncated"
    assert judge("<think>" + TRUE).status == "unparsed"


@pytest.mark.parametrize("settings", [{"value": "recall"}, {"unknown_weight": 2.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ClaimFacts(knowledge_base=BASE, **settings)


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop() -> None:
    answers = [make_item(case["payload"], {"gold": case["task"]["gold"]}) for case in DECIDED]
    claims = [make_item(text, {}) for text in (TRUE, FALSE, UNKNOWN, DENIAL, "", TRUE + FALSE)]
    for scorer, items in ((ShortAnswerFacts(), answers), (ClaimFacts(knowledge_base=BASE), claims)):
        first, *others = score_everywhere(scorer, items)
        assert len(first) == len(items)
        assert all(other == first for other in others)


def test_long_runs_of_anything_cost_in_proportion_to_their_length() -> None:
    for run in ("*", "!", " ", "1", "1,", "-", ".", "a ", "\u200b", "\u00b2", "<think>", "Answer:", "**a**"):
        assert score(run * 100_000 + "x").value == 0.0
        assert score(run * 100_000 + "x", {"answer_marker": "Answer:"}).value == 0.0


def test_throughput_is_printed() -> None:
    items = [make_item(case["payload"], {"gold": case["task"]["gold"]}) for case in DECIDED] * 50
    claims = [make_item("The capital of Australia is Canberra. " + TRUE + FALSE + UNKNOWN, {})] * 500
    for scorer, given in ((ShortAnswerFacts(), items), (ClaimFacts(knowledge_base=BASE), claims)):
        start = time.process_time()
        outcomes = scorer.score(given)
        print(f"{scorer.name}: {len(given) / (time.process_time() - start):,.0f} items/s of CPU time")
        assert len(outcomes) == len(given)
