"""Decisions by hand: what is unmeasured, what is done, looks, and the record."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from posttrain.core.records import Outcome
from posttrain.gates.decision import decide
from tests.contracts.sources import REPOSITORY
from tests.gates.deciding import FEW, GAIN, KEEP, LOSS, SAME, SLIGHT, Sides, evidence, one, rules, states
from tests.gates.made_up_items import build_items, build_table

# --- what cannot be measured ---------------------------------------------------------------------------------------


def test_a_task_without_items_is_unmeasured_with_what_may_have_been_meant() -> None:
    decision = decide(rules(keep=[{"metric": "fact", "margin": 0.08}]), evidence(facts=SAME))
    assert (decision.action, states(decision)) == ("hold", ["unmeasured"])
    assert "no items of task 'fact' (did you mean 'facts'?)" in decision.reason
    empty = decide(rules(keep=[KEEP]), evidence(facts=(SAME[0], [])))
    assert "the stage has no items of task 'facts'" in empty.reason


def test_another_task_hash_is_unmeasured() -> None:
    other = [dataclasses.replace(item, task_hash="task-2") for item in SAME[1]]
    decision = one({"keep": [KEEP]}, (SAME[0], other))
    assert (decision.action, states(decision)) == ("hold", ["unmeasured"])
    assert "task-1" in decision.reason and "task-2" in decision.reason


def test_missing_items_are_unmeasured() -> None:
    decision = one({"keep": [KEEP]}, (SAME[0], SAME[1][:-3]))
    assert states(decision) == ["unmeasured"]
    assert "3 items stand on one side alone" in decision.reason


def test_more_than_one_percent_of_harness_faults_is_unmeasured_and_fewer_are_left_out() -> None:
    fault = Outcome("errored", 0.0, why="sandbox", fault="harness")

    def with_faults(count: int) -> Sides:
        before, after = build_table(300, 0, 0, 100)
        return before, [dataclasses.replace(item, outcome=fault) for item in after[:count]] + after[count:]

    passed, refused = one({"keep": [KEEP]}, with_faults(4)), one({"keep": [KEEP]}, with_faults(5))
    assert (states(passed), states(refused)) == (["passed"], ["unmeasured"])
    assert passed.results[0].figures is not None
    assert passed.results[0].figures.left_out == {"harness": 4}
    assert passed.results[0].figures.num_items == 396
    assert "the harness failed on 5 of 400 items of the stage" in refused.reason


def test_one_source_for_all_items_and_values_that_are_not_finite_are_unmeasured() -> None:
    sides = tuple([dataclasses.replace(item, cluster_id="one") for item in side] for side in SAME)
    assert states(one({"keep": [KEEP], "floor": [{"metric": "facts", "at_least": 0.1}]}, sides)) == ["unmeasured"] * 2
    nan = build_items([float("nan")] * 400, policy="stage")
    found = one({"keep": [KEEP], "floor": [{"metric": "facts", "at_least": 0.1}]}, (SAME[0], nan))
    assert states(found) == ["unmeasured"] * 2


def test_mixed_policies_on_a_side_are_unmeasured() -> None:
    mixed = [*SAME[1][:-1], dataclasses.replace(SAME[1][-1], policy_hash="another")]
    found = one({"keep": [KEEP], "floor": [{"metric": "facts", "at_least": 0.1}]}, (SAME[0], mixed))
    assert states(found) == ["unmeasured"] * 2


# --- what is done --------------------------------------------------------------------------------------------------


def test_all_keeps_must_pass_and_need_no_correction() -> None:
    gate = rules(keep=[{"metric": name, "margin": 0.08} for name in ("facts", "tools", "logic")])
    fine = decide(gate, evidence(facts=SLIGHT, tools=SAME, logic=GAIN))
    assert (fine.action, {result.figures.level for result in fine.results if result.figures}) == ("promote", {0.05})
    assert decide(gate, evidence(facts=SLIGHT, tools=LOSS, logic=GAIN)).action == "roll_back"
    assert decide(gate, evidence(facts=SLIGHT, tools=FEW, logic=GAIN)).action == "hold"


def test_joint_power_is_shown_both_ways() -> None:
    gate = rules(keep=[{"metric": name, "margin": 0.08} for name in ("facts", "tools")])
    decision = decide(gate, evidence(facts=FEW, tools=SLIGHT))
    powers = [result.figures.power_to_pass for result in decision.results if result.figures]
    assert decision.joint_power is not None
    assert decision.joint_power.product == pytest.approx(powers[0] * powers[1])
    assert decision.joint_power.bonferroni == pytest.approx(max(0, powers[0] + powers[1] - 1))


def test_repairs_are_tried_in_order_and_then_the_stage_is_rolled_back() -> None:
    gate = {"keep": [KEEP], "on_fail": ["interpolate", "replay"]}
    found = [one(gate, LOSS, attempts_used=used) for used in (0, 1, 2)]
    assert [(decision.action, decision.repair) for decision in found] == [
        ("repair", "interpolate"),
        ("repair", "replay"),
        ("roll_back", None),
    ]
    assert found[0].reason.startswith("repair by interpolate, attempt 1 of 2: keep facts failed")
    assert found[2].reason.startswith("roll back, 2 repairs tried")


def test_fewer_attempts_than_repairs_leave_the_last_out() -> None:
    gate = {"keep": [KEEP], "on_fail": ["interpolate", "replay"], "max_attempts": 1}
    assert one(gate, LOSS).repair == "interpolate"
    assert one(gate, LOSS, attempts_used=1).action == "roll_back"


def test_a_failure_outweighs_what_is_unmeasured_or_inconclusive() -> None:
    gate = rules(keep=[{"metric": name, "margin": 0.08} for name in ("facts", "tools", "logic")], on_fail=["replay"])
    decision = decide(gate, evidence(facts=LOSS, tools=FEW))
    assert (decision.action, states(decision)) == ("repair", ["failed", "inconclusive", "unmeasured"])


def test_the_unmeasured_is_never_promoted_nor_repaired() -> None:
    gate = rules(keep=[KEEP, {"metric": "tools", "margin": 0.08}], on_fail=["replay"])
    assert decide(gate, evidence(facts=SAME)).action == "hold"


def test_the_level_is_shared_between_a_policy_and_its_repairs() -> None:
    gate = {"keep": [KEEP], "on_fail": ["interpolate", "replay", "best_checkpoint"], "level": 0.04}
    decision = one(gate, SLIGHT)
    assert decision.level == decision.nominal_level == pytest.approx(0.01)
    assert decision.results[0].figures is not None
    assert decision.results[0].figures.level == pytest.approx(0.01)


def test_a_candidate_that_just_passes_alone_does_not_pass_as_one_of_several() -> None:
    """444 pairs, 15 lost and 3 won: a loss of 5 points is ruled out at 5 % and not at 1.25 %."""
    close = build_table(300, 3, 15, 126)
    keep = {"keep": [{"metric": "facts", "margin": 0.05}]}
    assert states(one(keep, close)) == ["passed"]
    assert states(one(keep | {"on_fail": ["interpolate", "replay", "best_checkpoint"]}, close)) != ["passed"]


# --- looks ---------------------------------------------------------------------------------------------------------


def test_an_early_look_asks_for_more_before_it_decides() -> None:
    gate = {"keep": [KEEP], "looks": 2}
    first = one(gate, FEW, look=1)
    assert (first.action, first.should_draw_more, first.planned_looks) == ("hold", True, 2)
    assert first.reason.startswith("hold, draw more items: keep facts inconclusive")
    assert first.nominal_level == pytest.approx(0.00557, abs=1e-5)
    last = one(gate, FEW, look=2)
    assert (last.action, last.should_draw_more) == ("hold", False)
    assert last.nominal_level == pytest.approx(0.0482, abs=1e-4)


def test_an_early_look_decides_what_is_clear() -> None:
    gate = {"keep": [KEEP], "looks": 3}
    assert one(gate, build_table(700, 5, 5, 290), look=1).action == "promote"
    assert one(gate, build_table(400, 5, 150, 100), look=1).action == "roll_back"


def test_looks_at_other_shares_of_the_items_have_other_levels() -> None:
    gate = {"keep": [KEEP], "looks": 2}
    early, late = (one(gate, FEW, look=1, fractions=[share]) for share in (0.3, 0.9))
    assert early.nominal_level < 0.001 < 0.03 < late.nominal_level


def test_what_is_unmeasured_is_not_mended_by_more_items() -> None:
    gate = rules(keep=[KEEP, {"metric": "tools", "margin": 0.1}], looks=2)
    assert not decide(gate, evidence(facts=FEW), look=1).should_draw_more


@pytest.mark.parametrize(
    "arguments",
    [{"look": 0}, {"look": 3}, {"attempts_used": 1}, {"attempts_used": -1}, {"look": 2, "fractions": [0.5, 0.9]},
     {"look": 2, "fractions": [1.0]}, {"look": 2, "fractions": [0.9, 0.5]}],
)  # fmt: skip
def test_looks_and_attempts_that_are_not_the_rules_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        one({"keep": [KEEP], "looks": 2}, SAME, **arguments)


# --- the record ----------------------------------------------------------------------------------------------------


def test_a_decision_is_written_as_json() -> None:
    gate = rules(keep=[KEEP | {"baseline": "sft"}], improve=[{"metric": "facts"}], on_fail=["replay"])
    decision = decide(gate, evidence(facts=LOSS))
    written = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    assert (written["action"], written["repair"]) == ("repair", "replay")
    assert [result["state"] for result in written["results"]] == ["failed", "failed", "unmeasured"]
    assert written["results"][1]["figures"]["num_worse"] == 60
    assert written["results"][2]["figures"] is None


def test_every_reason_names_its_figures() -> None:
    gate = rules(keep=[KEEP], improve=[{"metric": "facts"}], floor=[{"metric": "facts", "at_least": 0.5}])
    for sides in (SAME, SLIGHT, LOSS, FEW, GAIN):
        for result in decide(gate, evidence(facts=sides)).results:
            assert "interval" in result.reason and ":" in result.reason


def test_the_worked_example_of_the_document() -> None:
    gate = rules(
        improve=[{"metric": "arithmetic", "by": 0.02}],
        keep=[KEEP, {"metric": "tools", "margin": 0.05}],
        floor=[{"metric": "tools", "at_least": 0.85}],
        on_fail=["interpolate", "replay"],
    )
    tables = {"arithmetic": (300, 60, 22, 168), "facts": (400, 18, 27, 105), "tools": (495, 6, 34, 15)}
    decision = decide(gate, evidence(**{name: build_table(*table) for name, table in tables.items()}))
    figures = [result.figures for result in decision.results if result.figures]
    assert states(decision) == ["passed", "passed", "failed", "passed"]
    assert decision.reason.startswith("repair by interpolate, attempt 1 of 2: keep tools failed")
    text = (REPOSITORY / "docs" / "gates.md").read_text(encoding="utf-8")
    for one_rule in figures[:3]:
        assert f"{one_rule.estimate:+.3f} ({one_rule.low:+.3f} to {one_rule.high:+.3f})" in text
    assert f"{figures[3].estimate:.3f} ({figures[3].low:.3f} to {figures[3].high:.3f})" in text
    assert f"p {figures[0].p_value:.2g}" in text
    for power in (figures[2].power_to_pass, figures[2].power_to_catch):
        assert power is not None and f"{100 * power:.1f} %" in text
