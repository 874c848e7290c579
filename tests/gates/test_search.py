"""Choosing among candidates: clearance in standard errors, and which candidate is decided on."""

from __future__ import annotations

import math

import pytest

from posttrain.gates.decision import decide
from posttrain.gates.results import GateEvidence
from posttrain.gates.rules import CeilingRule, FloorRule, GateRules, KeepRule
from posttrain.gates.search import choose_candidate, compute_clearance, needed_clearance
from tests.gates.made_up_items import build_items, build_table, build_unread


def clearance_of(rules, stage, parent=()):
    return compute_clearance(decide(rules, GateEvidence(stage={"t": stage}, parent={"t": parent})).results)


def test_a_rule_that_passes_clears_by_more_than_the_quantile_and_one_that_fails_by_less():
    rules = GateRules(keep=[KeepRule(metric="t", margin=0.08)])
    needed = needed_clearance(0.05)
    assert needed == pytest.approx(1.645, abs=1e-3)
    before, after = build_table(300, 40, 44, 116)
    assert clearance_of(rules, after, before) > needed
    before, after = build_table(300, 10, 74, 116)
    assert clearance_of(rules, after, before) < needed


def test_the_clearance_of_a_candidate_is_its_worst_rule():
    before, after = build_table(300, 40, 44, 116)
    loose = GateRules(keep=[KeepRule(metric="t", margin=0.2)])
    both = GateRules(keep=[KeepRule(metric="t", margin=0.2)], floor=[FloorRule(metric="t", at_least=0.66)])
    alone = GateRules(floor=[FloorRule(metric="t", at_least=0.66)])
    assert clearance_of(both, after, before) == clearance_of(alone, after, before) < clearance_of(loose, after, before)


def test_a_ceiling_clears_from_below():
    few, many = build_items([1] * 5 + [0] * 95, policy="s"), build_items([1] * 40 + [0] * 60, policy="s")
    rules = GateRules(ceiling=[CeilingRule(metric="t", at_most=0.2)])
    assert clearance_of(rules, few) > needed_clearance(0.05) > 0 > clearance_of(rules, many)


def test_what_is_unmeasured_cannot_be_chosen():
    rules = GateRules(keep=[KeepRule(metric="t", margin=0.08)])
    before, after = build_unread(40, policy="p"), build_items([1] * 40, policy="s")
    assert clearance_of(rules, after, before) == -math.inf
    assert choose_candidate([-math.inf, -math.inf], [False, False]) is None
    assert choose_candidate([], []) is None


def test_the_first_that_would_pass_is_preferred_only_where_asked():
    clearances, passes = [0.3, 1.9, 2.8, -math.inf], [False, True, True, False]
    assert choose_candidate(clearances, passes, prefers_first=True) == 1
    assert choose_candidate(clearances, passes) == 2
    assert choose_candidate([0.3, -0.2], [False, False], prefers_first=True) == 0


def test_what_the_gate_would_promote_goes_before_what_clears_by_more():
    """Three claims of p 0.0193 each clear by 2.07 standard errors and do not pass together, by Holm."""
    assert choose_candidate([2.07, 1.7], [False, True]) == 1
