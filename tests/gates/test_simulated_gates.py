"""Gates over drawn items: what did not change passes, what lost the margin is caught as often as is stated."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from posttrain.gates.decision import decide
from posttrain.gates.results import GateEvidence
from posttrain.gates.rules import GateRules, KeepRule
from posttrain.statistics.power import compute_chances, keep_design
from tests.gates.made_up_items import build_items, draw_pairs

MARGIN, DISCORDANCE, NUM_PAIRS, REPEATS = 0.08, 0.15, 300, 400
GATE = GateRules(keep=[KeepRule(metric="facts", margin=MARGIN)])


def draw_decisions(seed: int, change: float, *, repeats: int = REPEATS) -> list[str]:
    """Return the actions of a gate with one keep over items drawn anew each time."""
    generator = np.random.default_rng(seed)
    actions = []
    for _ in range(repeats):
        before, after = draw_pairs(generator, NUM_PAIRS, change=change, discordance=DISCORDANCE)
        evidence = GateEvidence(
            {"facts": build_items(after, policy="stage")}, {"facts": build_items(before, policy="parent")}
        )
        actions.append(decide(GATE, evidence).action)
    return actions


def test_a_regression_by_the_margin_is_caught_at_the_stated_power() -> None:
    design = keep_design(MARGIN, num_items=NUM_PAIRS, discordance=DISCORDANCE)
    stated = compute_chances(dataclasses.replace(design, change=-MARGIN))
    actions = draw_decisions(1, -MARGIN)
    assert stated.failed > 0.94
    assert actions.count("roll_back") / REPEATS == pytest.approx(stated.failed, abs=0.03)
    assert actions.count("promote") / REPEATS == pytest.approx(stated.passed, abs=0.03)


def test_what_did_not_change_is_promoted_at_the_stated_power() -> None:
    stated = compute_chances(keep_design(MARGIN, num_items=NUM_PAIRS, discordance=DISCORDANCE))
    actions = draw_decisions(2, 0.0)
    assert stated.passed > 0.95
    assert actions.count("promote") / REPEATS == pytest.approx(stated.passed, abs=0.03)


def test_the_power_that_a_decision_states_is_near_the_true_one() -> None:
    generator = np.random.default_rng(3)
    stated = compute_chances(keep_design(MARGIN, num_items=NUM_PAIRS, discordance=DISCORDANCE)).passed
    for _ in range(5):
        before, after = draw_pairs(generator, NUM_PAIRS, change=0.0, discordance=DISCORDANCE)
        evidence = GateEvidence({"facts": build_items(after, policy="b")}, {"facts": build_items(before, policy="a")})
        figures = decide(GATE, evidence).results[0].figures
        assert figures is not None and figures.power_to_pass == pytest.approx(stated, abs=0.05)


def test_two_evaluations_of_one_policy_with_different_seeds_keep_everything() -> None:
    """Eight tasks of 550 items, each item right with its own probability, drawn anew on either side."""
    generator = np.random.default_rng(4)
    names = [f"task-{number}" for number in range(8)]
    gate = GateRules(keep=[KeepRule(metric=name, margin=MARGIN) for name in names])
    for _ in range(3):
        sides: list[dict] = [{}, {}]
        for name in names:
            chances = generator.beta(0.4, 0.4, 550)
            for number, side in enumerate(sides):
                side[name] = build_items((generator.random(550) < chances).astype(float), policy=f"seed-{number}")
        decision = decide(gate, GateEvidence(stage=sides[1], parent=sides[0]))
        assert decision.action == "promote"
        assert decision.joint_power is not None
        assert 0.8 < decision.joint_power.bonferroni <= decision.joint_power.product
