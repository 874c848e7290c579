"""Single rules by hand: each is decided on a few tables of right and wrong."""

from __future__ import annotations

import dataclasses

import pytest

from posttrain.gates.decision import decide
from posttrain.gates.results import GateEvidence
from posttrain.statistics.paired import sign_test
from tests.gates.deciding import FEW, GAIN, KEEP, LOSS, SAME, SLIGHT, evidence, one, rules, states
from tests.gates.made_up_items import build_items, build_table, build_unread

# --- keep ----------------------------------------------------------------------------------------------------------


def test_a_stage_that_changed_nothing_is_promoted() -> None:
    decision = one({"keep": [KEEP]}, SAME)
    assert (decision.action, states(decision), decision.repair) == ("promote", ["passed"], None)
    assert decision.reason == "promote: all 1 comparisons pass"


def test_a_small_loss_within_the_margin_passes_with_figures() -> None:
    decision = one({"keep": [KEEP]}, SLIGHT)
    figures = decision.results[0].figures
    assert (decision.action, states(decision)) == ("promote", ["passed"])
    assert figures is not None
    assert figures.estimate == pytest.approx(-4 / 444)
    assert (figures.reference, figures.value) == pytest.approx((324 / 444, 320 / 444))
    assert (figures.num_better, figures.num_worse, figures.num_items, figures.method) == (20, 24, 444, "tango")
    assert figures.bound == -0.08 < figures.low < figures.estimate < figures.high
    assert figures.p_value is not None and figures.p_value < 0.05
    assert figures.power_to_pass is not None and figures.power_to_pass > 0.99
    assert "a loss of 0.08 or more is ruled out" in decision.results[0].reason
    assert "444 pairs" in decision.results[0].reason and "90 % interval" in decision.results[0].reason


def test_a_shown_loss_that_may_reach_the_margin_fails_and_rolls_back() -> None:
    decision = one({"keep": [KEEP]}, LOSS)
    assert (decision.action, states(decision)) == ("roll_back", ["failed"])
    assert decision.reason.startswith("roll back: keep facts failed: 0.747 to 0.614, a difference of -0.133")


def test_a_shown_loss_that_stays_within_the_margin_passes() -> None:
    """1,000 pairs, 25 lost: the interval lies between -8 points and 0."""
    decision = one({"keep": [KEEP]}, build_table(700, 0, 25, 275))
    figures = decision.results[0].figures
    assert states(decision) == ["passed"]
    assert figures is not None and -0.08 < figures.low < figures.high < 0


def test_few_pairs_hold_as_inconclusive_with_the_items_that_would_decide() -> None:
    decision = one({"keep": [KEEP]}, FEW)
    figures = decision.results[0].figures
    assert (decision.action, states(decision), decision.should_draw_more) == ("hold", ["inconclusive"], False)
    assert figures is not None and figures.items_to_decide is not None
    assert figures.items_to_decide > 200
    assert f"about {figures.items_to_decide} items would decide" in decision.reason


def test_thirty_pairs_without_a_difference_are_too_few_and_forty_are_not() -> None:
    assert states(one({"keep": [KEEP]}, build_table(20, 0, 0, 10))) == ["inconclusive"]
    assert states(one({"keep": [KEEP]}, build_table(30, 0, 0, 10))) == ["passed"]


def test_the_same_policy_on_both_sides_passes_with_any_number_of_items() -> None:
    items = build_items([1, 0, 1], policy="parent")
    decision = one({"keep": [KEEP]}, (items, items))
    assert (decision.action, states(decision)) == ("promote", ["passed"])
    assert "the same policy on both sides" in decision.results[0].reason


def test_one_item_is_inconclusive() -> None:
    assert states(one({"keep": [KEEP]}, build_table(1, 0, 0))) == ["inconclusive"]


def test_answers_that_are_all_unreadable_fail_against_a_parent_that_was_read() -> None:
    decision = one({"keep": [KEEP]}, (build_items([1] * 300, policy="parent"), build_unread(300, policy="stage")))
    assert (decision.action, states(decision)) == ("roll_back", ["failed"])
    assert "not one answer of the stage could be read: unparsed 300" in decision.reason


def test_a_parent_of_whom_nothing_could_be_read_is_no_measure() -> None:
    decision = one({"keep": [KEEP]}, (build_unread(300, policy="parent"), build_items([0] * 300, policy="stage")))
    assert (decision.action, states(decision)) == ("hold", ["unmeasured"])
    assert decision.results[0].figures is None
    assert "no answer of the parent could be read: unparsed 300" in decision.reason


def test_scores_between_zero_and_one_are_kept_by_the_bounded_score_test() -> None:
    before = [0.2, 0.5, 0.9, 0.4] * 50
    slight = build_items(before, policy="parent"), build_items([v - 0.01 for v in before], policy="stage")
    large = build_items(before, policy="parent"), build_items([v - 0.15 for v in before], policy="stage")
    passed, failed = one({"keep": [KEEP]}, slight), one({"keep": [KEEP]}, large)
    assert (states(passed), states(failed)) == (["passed"], ["failed"])
    assert passed.results[0].figures is not None and passed.results[0].figures.method == "bounded_score"


def test_clustered_items_decide_less() -> None:
    """40 documents of 5 questions, of which 4 were lost as a whole: 20 of 200 items, but 4 of 40 documents."""
    values = [0.0] * 20 + [1.0] * 180
    clusters = [str(index // 5) for index in range(200)]
    parted = build_items([1.0] * 200, policy="parent"), build_items(values, policy="stage")
    whole = tuple(
        [dataclasses.replace(item, cluster_id=cluster) for item, cluster in zip(side, clusters, strict=True)]
        for side in parted
    )
    assert states(one({"keep": [KEEP]}, parted)) == ["failed"]
    decision = one({"keep": [{"metric": "facts", "margin": 0.2}]}, whole)
    figures = decision.results[0].figures
    assert figures is not None
    assert (figures.num_items, figures.num_clusters, figures.method) == (200, 40, "tango_clustered")
    assert figures.design_effect == pytest.approx(5, abs=0.3)
    alone = one({"keep": [{"metric": "facts", "margin": 0.2}]}, parted).results[0].figures
    assert alone is not None and figures.low < alone.low < alone.high < figures.high


# --- baselines -----------------------------------------------------------------------------------------------------


def test_a_slow_leak_passes_against_every_parent_and_fails_against_the_baseline() -> None:
    """Six stages lose 12 of 600 items each (2 points); after four of them the base's margin of 6 points is gone."""
    keep = {"metric": "facts", "margin": 0.05, "baseline": "base", "cumulative_margin": 0.06}
    stages = [[0] * (12 * lost) + [1] * (600 - 12 * lost) for lost in range(7)]
    items = [build_items(values, policy=f"policy-{number}") for number, values in enumerate(stages)]
    found = []
    for number in range(1, 7):
        decision = decide(rules(keep=[keep]), evidence({"base": items[0]}, facts=(items[number - 1], items[number])))
        found.append((decision.action, *states(decision)))
    assert [against_parent for _, against_parent, _ in found] == ["passed"] * 6
    assert [action for action, *_ in found] == [
        "promote",
        "promote",
        "roll_back",
        "roll_back",
        "roll_back",
        "roll_back",
    ]
    assert decision.results[1].against == "base"
    assert "keep facts against base failed" in decision.reason


def test_without_a_cumulative_margin_the_margin_holds_against_the_baseline_too() -> None:
    decision = decide(rules(keep=[KEEP | {"baseline": "base"}]), evidence({"base": LOSS[0]}, facts=LOSS))
    assert [result.figures.bound for result in decision.results if result.figures] == [-0.08, -0.08]


def test_a_comparison_that_two_rules_ask_for_is_made_once() -> None:
    gate = rules(keep=[KEEP, KEEP | {"baseline": "base"}])
    decision = decide(gate, evidence({"base": SLIGHT[0]}, facts=SLIGHT))
    assert [result.against for result in decision.results] == ["parent", "base"]


def test_a_baseline_that_was_not_measured_holds() -> None:
    decision = decide(rules(keep=[KEEP | {"baseline": "sft"}]), evidence(facts=SLIGHT))
    assert (decision.action, states(decision)) == ("hold", ["passed", "unmeasured"])
    assert "the baseline 'sft' was not measured" in decision.reason
    assert decision.joint_power is None


# --- improve -------------------------------------------------------------------------------------------------------


def test_a_shown_gain_is_promoted_by_mcnemars_exact_test() -> None:
    decision = one({"improve": [{"metric": "facts"}]}, GAIN)
    figures = decision.results[0].figures
    assert (decision.action, states(decision)) == ("promote", ["passed"])
    assert figures is not None and figures.method == "mcnemar_exact"
    assert figures.p_value == pytest.approx(sign_test(60, 10, alternative="greater").p_value)
    assert "a gain is shown" in decision.results[0].reason


def test_a_gain_must_exceed_what_was_claimed() -> None:
    """+13.5 points: 5 are shown, 13 are not, 25 are ruled out."""
    found = [one({"improve": [{"metric": "facts", "by": by}]}, GAIN) for by in (0.05, 0.13, 0.25)]
    assert [states(decision)[0] for decision in found] == ["passed", "inconclusive", "failed"]
    assert [decision.action for decision in found] == ["promote", "hold", "roll_back"]
    assert "a gain of more than 0.25 is ruled out" in found[2].reason
    assert found[1].results[0].figures is not None
    assert found[1].results[0].figures.items_to_decide is None or found[1].results[0].figures.items_to_decide > 370


def test_a_claim_of_a_stage_that_lost_is_refuted_and_one_that_changed_nothing_is_not_shown() -> None:
    assert states(one({"improve": [{"metric": "facts"}]}, LOSS)) == ["failed"]
    assert states(one({"improve": [{"metric": "facts"}]}, SAME)) == ["inconclusive"]


def test_claims_are_corrected_by_holm() -> None:
    """p of 9:2 is 67/2048 = 0.0327: enough alone, not beside a second claim that fails."""
    small = build_table(100, 9, 2, 50)
    assert states(one({"improve": [{"metric": "facts"}]}, small)) == ["passed"]
    both = {"improve": [{"metric": "facts"}, {"metric": "tools"}]}
    assert states(decide(rules(**both), evidence(facts=small, tools=SAME))) == ["inconclusive", "inconclusive"]
    # Beside a claim that is shown at half the level it is tested at the whole level.
    assert states(decide(rules(**both), evidence(facts=small, tools=GAIN))) == ["passed", "passed"]


def test_a_claim_that_was_not_measured_counts_in_the_correction() -> None:
    both = {"improve": [{"metric": "facts"}, {"metric": "tools"}]}
    decision = decide(rules(**both), evidence(facts=build_table(100, 9, 2, 50)))
    assert states(decision) == ["inconclusive", "unmeasured"]
    assert decision.action == "hold"


def test_claims_on_fractional_scores_are_decided_alike_every_time() -> None:
    before = [((7 * i) % 10) / 10 for i in range(60)]
    after = [min(1.0, value + (0.2 if i % 3 else -0.1)) for i, value in enumerate(before)]
    sides = build_items(before, policy="parent"), build_items(after, policy="stage")
    first, second = (one({"improve": [{"metric": "facts"}]}, sides) for _ in range(2))
    assert first == second
    assert states(first) == ["passed"]
    assert first.results[0].figures is not None and first.results[0].figures.method == "sign_flip_drawn"


# --- floor and ceiling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "state", "action"),
    [(270, "passed", "promote"), (245, "inconclusive", "hold"), (200, "failed", "roll_back")],
)
def test_a_floor_of_80_percent_over_300_items(right: int, state: str, action: str) -> None:
    decision = one({"floor": [{"metric": "facts", "at_least": 0.8}]}, build_table(right, 0, 0, 300 - right))
    assert (states(decision), decision.action) == ([state], action)


@pytest.mark.parametrize(("refused", "state"), [(5, "passed"), (28, "inconclusive"), (60, "failed")])
def test_a_ceiling_of_10_percent_over_300_items(refused: int, state: str) -> None:
    decision = one({"ceiling": [{"metric": "facts", "at_most": 0.1}]}, build_table(refused, 0, 0, 300 - refused))
    assert states(decision) == [state]


def test_a_floor_by_hand() -> None:
    """58 of 58 right: 0.95^(1/58) = 0.9497 is the lower limit (Clopper and Pearson)."""
    figures = one({"floor": [{"metric": "facts", "at_least": 0.94}]}, build_table(58, 0, 0)).results[0].figures
    assert figures is not None
    assert figures.low == pytest.approx(0.05 ** (1 / 58))
    assert (figures.method, figures.p_value, figures.reference) == ("korn_graubard", None, None)


def test_a_stage_of_whom_nothing_could_be_read_passes_no_ceiling() -> None:
    unread = build_unread(300, policy="stage", status="truncated")
    decision = one({"ceiling": [{"metric": "facts", "at_most": 0.5}]}, (SAME[0], unread))
    assert (decision.action, states(decision)) == ("hold", ["unmeasured"])
    assert "no answer of the stage could be read: truncated 300" in decision.reason


def test_a_floor_needs_no_parent() -> None:
    items = GateEvidence(stage={"facts": build_items([1] * 100, policy="stage")}, parent={})
    assert decide(rules(floor=[{"metric": "facts", "at_least": 0.9}]), items).action == "promote"
    assert states(decide(rules(keep=[KEEP]), items)) == ["unmeasured"]


def test_a_floor_on_fractional_scores_and_on_parts() -> None:
    parts = [{"form": 0.7}] * 200
    stage = build_items([1.0] * 200, policy="stage", parts=parts)
    items = GateEvidence(stage={"facts": stage}, parent={})
    found = decide(rules(floor=[{"metric": "facts/form", "at_least": 0.6}]), items)
    assert states(found) == ["passed"]
    assert found.results[0].figures is not None and found.results[0].figures.method == "bounded_score"
    missing = decide(rules(floor=[{"metric": "facts/from", "at_least": 0.6}]), items)
    assert "did you mean 'form'?" in missing.reason
