"""pass@k, cons@k and best@k as one value an item: worked by hand, failures typed, and read by pairs and gates."""

from __future__ import annotations

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult, Outcome
from posttrain.evaluation.figures import summarise_items
from posttrain.gates.decision import decide
from posttrain.gates.results import GateEvidence
from posttrain.gates.rules import FloorRule, GateRules, KeepRule
from posttrain.statistics.pairing import pair_items
from posttrain.statistics.repeats import FoldError, fold_samples, parse_repeated, vote

UNREAD = Outcome("unparsed", 0.0, why="no number", fault="policy")
BROKEN = Outcome("errored", 0.0, why="worker died", fault="harness", parts={"stopped": 1.0})


def said(answer: str, value: float = 0.0) -> Outcome:
    return Outcome("scored", value, answer=answer)


def samples_of(name: str, *outcomes: Outcome, policy: str = "p") -> list[ItemResult]:
    return [ItemResult(name, "", "task", index, outcome, policy) for index, outcome in enumerate(outcomes)]


def test_pass_at_k_is_the_unbiased_estimate_of_every_item():
    """2 of 4 right: pass@1 = 1/2, pass@2 = 1 - C(2,2)/C(4,2) = 5/6; none right: 0."""
    items = samples_of("a", said("1", 1), said("2"), said("1", 1), UNREAD) + samples_of("b", *[said("9")] * 4)
    assert [item.outcome.value for item in fold_samples(items, "pass@1")] == [0.5, 0.0]
    assert [item.outcome.value for item in fold_samples(items, "pass@2")] == pytest.approx([5 / 6, 0.0])
    assert {item.sample_index for item in fold_samples(items, "pass@1")} == {0}


def test_a_score_below_one_is_not_right_for_pass_at_k():
    [item] = fold_samples(samples_of("a", said("1", 0.9), said("2", 0.5)), "pass@2")
    assert item.outcome.value == 0.0


def test_best_at_k_is_the_mean_of_the_best_of_all_subsets():
    """Scores 0.2, 0.8 and an unread 0: of the pairs the best are 0.8, 0.2, 0.8."""
    items = samples_of("a", said("1", 0.2), said("2", 0.8), UNREAD)
    [item] = fold_samples(items, "best@2")
    assert item.outcome.value == pytest.approx(1.8 / 3)
    assert parse_repeated("best@2") == ("best", 2)


def test_the_majority_is_of_the_first_k_samples_in_their_order():
    samples = samples_of("a", said("4"), said("7", 1), said("7", 1), said("4"), said("4"))
    assert fold_samples(samples, "cons@3")[0].outcome.value == 1.0
    assert fold_samples(samples, "cons@5")[0].outcome.value == 0.0
    assert fold_samples(samples[::-1], "cons@3")[0].outcome.value == 1.0


def test_tied_answers_share_the_score_and_what_cannot_be_read_does_not_vote():
    """Two votes for the right answer, two for a wrong one, three unread: a fair draw is right half the time."""
    outcome = vote([said("7", 1), said("4"), UNREAD, said("7", 1), said("4"), UNREAD, UNREAD], [""] * 7)
    assert (outcome.value, outcome.answer) == (0.5, None)
    assert "2 answers tie" in outcome.why


def test_without_an_answer_of_its_own_a_sample_votes_with_its_text():
    scored = Outcome("scored", 1.0)
    assert vote([scored, Outcome("scored", 0.0), scored], [" yes", "no", "yes "]).value == 1.0


def test_an_item_of_which_nothing_could_be_read_stays_unread():
    for name in ("pass@2", "cons@2", "best@2"):
        [item] = fold_samples(samples_of("a", UNREAD, UNREAD), name)
        assert (item.outcome.status, item.outcome.fault, item.outcome.value) == ("unparsed", "policy", 0.0)


def test_harness_faults_are_left_out_and_too_few_others_are_the_harness_failure():
    samples = samples_of("a", BROKEN, said("7", 1), said("4"))
    assert fold_samples(samples, "pass@2")[0].outcome.value == 1.0
    whole = [s for n in range(120) for s in samples_of(f"b{n}", *[said("7", 1)] * 3)]
    assert fold_samples([*samples, *whole], "pass@3")[0].outcome.fault == "harness"


def test_faults_that_leave_many_problems_without_enough_samples_give_no_number():
    """8 faults of 800 samples, one in each of 8 problems of 50: pass@16 of the other 42 would be another question."""
    hard = [s for n in range(8) for s in samples_of(f"h{n}", BROKEN, *[said("4")] * 15)]
    easy = [s for n in range(42) for s in samples_of(f"e{n}", *[said("7", 1)] * 16)]
    with pytest.raises(FoldError, match="8 of 50 problems"):
        fold_samples([*hard, *easy], "pass@16")
    named = {m["name"]: m for m in summarise_items("maths", "correct", [*hard, *easy], (), ("pass@16", "pass@15"))}
    assert (named["pass@16"]["value"], named["pass@16"]["method"]) == (None, "harness")
    assert named["pass@15"]["value"] == pytest.approx(42 / 50)
    decision = decide(
        GateRules(floor=[FloorRule(metric="maths/pass@16", at_least=0.5)]),
        GateEvidence(stage={"maths": [*hard, *easy]}, parent={}),
    )
    assert (decision.action, decision.results[0].state) == ("hold", "unmeasured")


def test_fewer_samples_than_k_are_refused_with_the_cure():
    with pytest.raises(DataError, match="1 samples of item 'a'") as caught:
        fold_samples(samples_of("a", said("7")), "pass@2")
    assert "num_samples" in str(caught.value.cure)


@pytest.mark.parametrize("name", ["pass@0", "pass@", "pass@08", "cons@-1", "maj@3", "stopped", None])
def test_other_names_are_of_no_repeated_metric(name):
    assert parse_repeated(name) is None


def test_pairs_and_gates_read_one_value_an_item():
    """Of 60 items the stage solves with both samples what its parent solved with one of two."""
    before = [s for n in range(60) for s in samples_of(f"i{n}", said("7", 1), said("4"), policy="parent")]
    after = [s for n in range(60) for s in samples_of(f"i{n}", said("7", 1), said("7", 1), policy="stage")]
    pairs = pair_items(before, after, part="pass@1")
    assert (len(pairs), float(pairs.differences_N.mean())) == (60, 0.5)
    rules = GateRules(
        keep=[KeepRule(metric="maths/pass@2", margin=0.08), KeepRule(metric="maths/cons@1", margin=0.08)],
        floor=[FloorRule(metric="maths/pass@1", at_least=0.9)],
    )
    decision = decide(rules, GateEvidence(stage={"maths": after}, parent={"maths": before}))
    assert decision.action == "promote"
    assert [result.figures.num_items for result in decision.results if result.figures] == [60, 60, 60]
    asked = GateRules(keep=[KeepRule(metric="maths/pass@4", margin=0.08)])
    unmeasured = decide(asked, GateEvidence(stage={"maths": after}, parent={"maths": before}))
    assert (unmeasured.action, unmeasured.results[0].state) == ("hold", "unmeasured")
