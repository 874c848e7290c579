"""Power against enumeration of all tables, simulation, and the sample size formula of the textbooks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import multinomial, norm

from posttrain.statistics import power
from posttrain.statistics.bounded_mean import compute_tango_score, critical_value
from posttrain.statistics.power import (
    PairedDesign,
    compute_chances,
    compute_joint_power,
    items_for_power,
    items_to_decide,
    items_to_decide_mean,
    keep_design,
    non_inferiority_power,
)


def test_chances_are_sums_over_all_tables() -> None:
    """All tables of 12 pairs by scipy's multinomial probabilities."""
    design = PairedDesign(-0.3, 0.0, 12, 0.4, change=-0.1, level=0.1)
    z, passed, failed = critical_value(0.1), 0.0, 0.0
    for better in range(13):
        for worse in range(13 - better):
            chance = multinomial.pmf([better, worse, 12 - better - worse], 12, [0.15, 0.25, 0.6])
            if compute_tango_score(better, worse, 12, -0.3) > z:
                passed += chance
            elif compute_tango_score(better, worse, 12, 0.0) < -z:
                failed += chance
    found = compute_chances(design)
    assert (found.passed, found.failed) == pytest.approx((passed, failed), abs=1e-10)
    assert found.inconclusive == pytest.approx(1 - passed - failed, abs=1e-10)


@pytest.mark.parametrize(
    ("num_items", "discordance", "change"),
    [(550, 0.15, 0.0), (550, 0.15, -0.08), (200, 0.1, 0.0), (200, 0.1, -0.08), (60, 0.3, -0.04)],
)
def test_observed_power_is_within_3_points_of_the_stated(num_items: int, discordance: float, change: float) -> None:
    design = dataclasses.replace(keep_design(0.08, num_items=num_items, discordance=discordance), change=change)
    chances = [(discordance + change) / 2, (discordance - change) / 2, 1 - discordance]
    drawn = np.random.default_rng(3).multinomial(num_items, chances, size=4000)
    z = critical_value(0.05)
    passed = compute_tango_score(drawn[:, 0], drawn[:, 1], num_items, -0.08) > z
    failed = ~passed & (compute_tango_score(drawn[:, 0], drawn[:, 1], num_items, 0.0) < -z)
    stated = compute_chances(design)
    assert passed.mean() == pytest.approx(stated.passed, abs=0.03)
    assert failed.mean() == pytest.approx(stated.failed, abs=0.03)


@pytest.mark.parametrize(
    ("margin", "num_items"), [(0.02, 134), (0.02, 550), (0.05, 53), (0.08, 32), (0.08, 50), (0.08, 550)]
)
def test_the_exact_size_is_at_most_7_percent_of_5(margin: float, num_items: int) -> None:
    shares = np.linspace(margin, 0.5, 20)
    designs = [PairedDesign(-margin, 0.0, num_items, share, change=-margin) for share in shares]
    sizes = [compute_chances(design).passed for design in designs]
    assert max(sizes) <= 0.07
    assert max(sizes[5:]) <= 0.057  # where some pairs are gains


def test_the_number_of_items_is_near_the_textbooks() -> None:
    """n = ((z_a + z_b)² psi) / margin² (Liu et al. 2002, large n): 0.15 (1.645 + 1.282)² / 0.08² = 201."""
    textbook = 0.15 * (norm.isf(0.05) + norm.isf(0.1)) ** 2 / 0.08**2
    assert math.floor(textbook) == 200
    assert items_for_power(keep_design(0.08, num_items=1, discordance=0.15), 0.9) == pytest.approx(textbook, rel=0.08)


def test_the_number_of_items_has_the_power_and_a_tenth_less_has_not() -> None:
    design = keep_design(0.05, num_items=1, discordance=0.2)
    needed = items_for_power(design, 0.8)
    assert needed is not None
    assert compute_chances(dataclasses.replace(design, num_items=needed)).passed >= 0.8
    assert compute_chances(dataclasses.replace(design, num_items=round(0.9 * needed))).passed < 0.8


def test_eight_keeps_of_8_points_need_about_550_items_for_joint_power_of_90_percent() -> None:
    """Where 23 % of the pairs differ: each keep at 1 - 0.1 / 8."""
    needed = items_for_power(keep_design(0.08, num_items=1, discordance=0.233), 1 - 0.1 / 8)
    assert needed == pytest.approx(550, rel=0.03)
    joint = compute_joint_power([non_inferiority_power(discordance=0.233, margin=0.08, num_items=needed)] * 8)
    assert joint is not None and joint.bonferroni >= 0.9


def test_joint_power_by_hand() -> None:
    joint = compute_joint_power([0.9, 0.8, 0.95])
    assert joint is not None
    assert joint.product == pytest.approx(0.684)
    assert joint.bonferroni == pytest.approx(0.65)
    assert compute_joint_power([0.4, 0.4]).bonferroni == 0.0
    assert compute_joint_power([]) is None


def test_a_design_effect_divides_the_items() -> None:
    plain = non_inferiority_power(discordance=0.2, margin=0.08, num_items=300)
    clustered = non_inferiority_power(discordance=0.2, margin=0.08, num_items=600, design_effect=2)
    assert clustered == pytest.approx(plain)
    few = non_inferiority_power(discordance=0.2, margin=0.08, num_items=600, design_effect=2, items_per_cluster=100)
    assert few < plain  # Student's t with five degrees of freedom


def test_more_items_a_wider_margin_and_fewer_differences_give_more_power() -> None:
    def at(**change: float) -> float:
        return non_inferiority_power(**{"discordance": 0.2, "margin": 0.05, "num_items": 300, **change})

    assert at(num_items=600) > at() + 0.1
    assert at(margin=0.08) > at() + 0.1
    assert at(discordance=0.1) > at() + 0.1
    assert at(level=0.01) < at() - 0.1


def test_the_normal_approximation_takes_over_without_a_step() -> None:
    design = PairedDesign(-0.01, 0.0, 20_000, 0.2, change=-0.006, level=0.05)
    exact, near = compute_chances(design), power._compute_nearly(design, 20_000, critical_value(0.05))
    assert (exact.passed, exact.failed) == pytest.approx(near, abs=0.005)
    assert 0.2 < exact.passed < 0.6 and 0.1 < exact.failed < 0.8


def test_the_items_that_decide_a_half_lost_margin_are_many_more() -> None:
    design = keep_design(0.08, num_items=100, discordance=0.15)
    unharmed = items_to_decide(design, 0.9)
    assert unharmed == items_for_power(design, 0.9)
    half = items_to_decide(dataclasses.replace(design, change=-0.04), 0.9)
    assert half is not None and unharmed is not None and half > unharmed
    chances = compute_chances(dataclasses.replace(design, change=-0.04, num_items=half))
    assert chances.passed + chances.failed >= 0.9


def test_what_a_million_items_do_not_decide_is_none() -> None:
    claim = PairedDesign(0.02, 0.02, 500, 0.2, change=0.0201)
    assert items_to_decide(claim, 0.9) is None
    assert items_to_decide_mean(distance=0.0, variance=0.2, level=0.05, power=0.9) is None
    assert items_to_decide_mean(distance=1e-5, variance=0.2, level=0.05, power=0.9) is None


def test_the_items_that_decide_a_mean_by_hand() -> None:
    """(1.6449 + 1.2816)² 0.16 / 0.05² = 548.1."""
    assert items_to_decide_mean(distance=-0.05, variance=0.16, level=0.05, power=0.9) == 549
    assert items_to_decide_mean(distance=0.05, variance=0.16, level=0.05, power=0.9, design_effect=2) == 1097


@pytest.mark.parametrize(
    "change",
    [{"discordance": 0.0}, {"discordance": 1.2}, {"change": 0.3}, {"num_items": 0}, {"level": 0.6},
     {"design_effect": 0.5}, {"items_per_cluster": 0.5}],
)  # fmt: skip
def test_designs_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(keep_design(0.08, num_items=10, discordance=0.2), **change)


def test_one_item_has_next_to_no_power() -> None:
    assert non_inferiority_power(discordance=0.2, margin=0.08, num_items=1) == 0.0
    with pytest.raises(ValueError, match="power"):
        items_for_power(keep_design(0.08, num_items=1, discordance=0.2), 1.0)
