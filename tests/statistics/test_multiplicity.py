"""Holm against statsmodels' figures, spending against published boundaries and simulated paths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from posttrain.statistics.multiplicity import adjust_holm, nominal_levels, spent_level


def test_holm_gives_the_figures_of_statsmodels_in_the_order_given() -> None:
    """statsmodels 0.15, multipletests([.01, .04, .03, .005, .2], method='holm')."""
    assert adjust_holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])


def test_holm_of_one_changes_nothing_and_of_none_is_nothing() -> None:
    assert adjust_holm([0.03]) == [0.03]
    assert adjust_holm([]) == []
    assert adjust_holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        adjust_holm([0.1, p])


@pytest.mark.parametrize(
    ("looks", "boundaries"),
    [(5, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]), (3, [3.7103, 2.5114, 1.9930])],
)
def test_boundaries_are_the_published_ones(looks: int, boundaries: list[float]) -> None:
    """Lan and DeMets's O'Brien-Fleming-like bounds at one-sided 2.5 % (ld98, gsDesign's sfLDOF)."""
    levels = nominal_levels(0.025, [(look + 1) / looks for look in range(looks)])
    assert norm.isf(levels) == pytest.approx(boundaries, abs=2e-4)


def test_two_looks_spend_the_level_by_scipys_bivariate_normal() -> None:
    first, second = nominal_levels(0.05, [0.4, 1.0])
    assert first == pytest.approx(spent_level(0.05, 0.4))
    correlation = 0.4**0.5
    neither = multivariate_normal(cov=[[1, correlation], [correlation, 1]]).cdf([norm.isf(first), norm.isf(second)])
    assert 1 - neither == pytest.approx(0.05, abs=1e-5)


def test_one_look_with_all_items_tests_at_the_level_itself() -> None:
    assert nominal_levels(0.05, [1.0]) == [0.05]
    assert spent_level(0.05, 1.0) == 0.05
    assert spent_level(0.05, 0.2) < 1e-4


def test_uneven_looks_cross_with_the_level_in_simulated_paths() -> None:
    fractions = np.array([0.3, 0.35, 0.8, 1.0])
    levels = nominal_levels(0.1, fractions)
    steps = np.sqrt(np.diff([0, *fractions]))
    paths = np.cumsum(np.random.default_rng(4).normal(size=(100_000, 4)) * steps, axis=1) / np.sqrt(fractions)
    assert (paths > norm.isf(levels)).any(axis=1).mean() == pytest.approx(0.1, abs=0.003)


def test_a_look_after_hardly_any_items_has_next_to_no_level() -> None:
    assert nominal_levels(0.05, [0.01, 1.0])[0] < 1e-15
    assert nominal_levels(0.05, [0.01, 1.0])[1] == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("fractions", [[], [0.0, 1.0], [0.5, 0.5], [0.6, 0.5], [0.5, 1.1], [0.5, 0.505]])
def test_fractions_that_do_not_ascend_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match="looks at"):
        nominal_levels(0.05, fractions)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_levels_out_of_range_are_refused(level: float) -> None:
    with pytest.raises(ValueError):
        nominal_levels(level, [1.0])
