"""Proofs as a scorer: where the proof stands, whose failure a failure is, the same outcome however it is called."""

from __future__ import annotations

import time
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Outcome
from posttrain.scorers.proof import KernelChecker, ProofScorer
from tests.scorers.fact_items import make_item, score_everywhere

TASK: dict[str, Any] = {"premises": ["P -> Q", "~Q"], "goal": "~P"}
PROOF = """1. P -> Q         premise
2. ~Q             premise
3. | P            assume
4. | Q            ->E 1,3
5. | false        ~E 4,2
6. ~P             ~I 3-5
"""


def score(text: str, columns: Any = None, finish_reason: Any = "stop", **settings: Any) -> Outcome:
    scorer = ProofScorer(checker=KernelChecker(**settings))
    return scorer.score([make_item(text, columns or TASK, finish_reason=finish_reason)])[0]


@pytest.mark.parametrize(
    "text", [PROOF, f"Here it is:\n```\n{PROOF}```\nDone.", f"<think>hm</think>\n{PROOF}", f"```text\n{PROOF}```"]
)
def test_a_proof_is_taken_from_the_one_block_or_the_whole_text(text: str) -> None:
    outcome = score(text)
    assert (outcome.status, outcome.value, outcome.parts["lines"]) == ("scored", 1.0, 6.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It follows by modus tollens.",
        f"```\n{PROOF}```\n```\n{PROOF}```",
        f"```\n{PROOF}",
        f"Sure.\n{PROOF}",
        f"<think>\n{PROOF}",
    ],
)
def test_what_holds_no_one_proof_is_unparsed_and_the_policys_failure(text: str) -> None:
    outcome = score(text)
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")


def test_a_step_that_does_not_follow_scores_nothing_and_is_named() -> None:
    outcome = score(PROOF.replace("->E 1,3", "->E 3,1"))
    assert (outcome.status, outcome.value, outcome.fault) == ("scored", 0.0, None)
    assert outcome.why.startswith("line 4: ->E")
    assert score(PROOF, finish_reason="length").status == "truncated"


def test_claims_of_authority_and_the_goal_as_a_premise_win_nothing() -> None:
    for text in ("1. ~P premise", "1. ~P R 1", "1. ~P QED", "1. P -> Q premise\n2. ~P verified 1"):
        assert score(text).value == 0.0


@pytest.mark.parametrize(
    "columns",
    [{"premises": []}, {"goal": "P &"}, {"goal": 7}, {"goal": "P", "premises": "P"}, {"goal": "P", "premises": ["("]}],
)
def test_a_problem_whose_formulas_cannot_be_read_is_refused_with_its_row_and_the_cure(columns: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        score(PROOF, columns)
    assert caught.value.place == "row-1" and caught.value.cure


def test_the_logic_is_a_setting() -> None:
    text = "1. ~~P premise\n2. P DNE 1"
    assert score(text, {"premises": ["~~P"], "goal": "P"}).value == 1.0
    assert score(text, {"premises": ["~~P"], "goal": "P"}, logic="intuitionistic").value == 0.0
    with pytest.raises(ValueError, match="logic"):
        KernelChecker(logic="fuzzy")  # type: ignore[arg-type]


def test_outcomes_keep_the_order_and_are_the_same_from_a_thread_a_forked_process_and_an_event_loop() -> None:
    texts = ["", PROOF, "1. P premise", PROOF, "x"]
    first, *others = score_everywhere(ProofScorer(checker=KernelChecker()), [make_item(text, TASK) for text in texts])
    assert [outcome.value for outcome in first] == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert all(other == first for other in others)


def test_long_runs_of_anything_cost_in_proportion_to_their_length() -> None:
    for run in (" ", "|", "| ", "1", "1. ", "`", "```\n", "~", "P & ", "forall x. ", "\u2003", "1-"):
        for text in (run * 100_000, f"1. {run * 100_000} premise", f"{run * 100_000}x"):
            assert score(text).value == 0.0


def test_throughput_is_printed() -> None:
    items = [make_item(PROOF, TASK)] * 2000
    start = time.process_time()
    outcomes = ProofScorer(checker=KernelChecker()).score(items)
    print(f"proof/kernel: {len(items) / (time.process_time() - start):,.0f} proofs of 6 lines/s of CPU time")
    assert {outcome.value for outcome in outcomes} == {1.0}
