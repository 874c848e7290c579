"""Fitted curves of best-of-n: found again where they are there, refused where the data say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.statistics.gain_fits import fit_best_of_n
from posttrain.statistics.over_optimisation import compute_best_of_n_kl

NS = (1, 2, 4, 8, 16, 32, 64)
KLS = np.array([compute_best_of_n_kl(n) for n in NS])
NAMES = [str(place) for place in range(100)]


def _generator() -> np.random.Generator:
    return build_numpy_generator("fits")


def _make(alpha: float, beta: float, noise: float, *, problems: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Problems whose gains follow d (alpha - beta d), with noise that a problem has at all n and noise of each n."""
    generator, distances = build_numpy_generator("gains", problems), np.sqrt(KLS)
    curve = distances * (alpha - beta * distances)
    scale = generator.normal(1, noise, size=(problems, 1))
    gains = curve * scale + generator.normal(0, noise / 10, size=(problems, len(NS))) * (distances > 0)
    return np.tile(KLS, (problems, 1)), gains


def test_a_turn_within_the_distances_is_shown() -> None:
    """alpha 1, beta 0.5: turns at d = 1; n = 64 is at d = 1.78."""
    found = fit_best_of_n(*_make(1.0, 0.5, 0.3), NAMES, _generator, num_resamples=300)
    assert found.is_turn_shown
    assert found.fitted.fit.alpha == pytest.approx(1, abs=0.1)
    assert found.fitted.fit.beta == pytest.approx(0.5, abs=0.05)
    assert found.describe().startswith("turns at d = 1.0")


def test_a_turn_beyond_them_is_told_apart() -> None:
    """alpha 1, beta 0.2: turns at d = 2.5, where nothing was measured."""
    found = fit_best_of_n(*_make(1.0, 0.2, 0.3), NAMES, _generator, num_resamples=300)
    assert not found.is_turn_shown
    assert "is beyond what was measured (up to d = 1.78)" in found.describe()


def test_a_straight_line_turns_nowhere() -> None:
    found = fit_best_of_n(*_make(1.0, 0.0, 0.3), NAMES, _generator, num_resamples=300)
    assert found.describe() == "no turn is shown: a bend of 0 or below lies within the limits"
    assert not found.is_turn_shown


def test_a_fall_from_the_start_is_no_turn() -> None:
    """alpha 0, beta 0.3: the least squares turn somewhere near 0, before anything was measured."""
    found = fit_best_of_n(*_make(0.0, 0.3, 0.3), NAMES, _generator, num_resamples=300)
    assert found.describe() == "falls: no rise before it is shown"
    assert not found.is_turn_shown


def test_gains_within_their_noise_are_refused() -> None:
    kls, gains = _make(0.0, 0.0, 0.0)
    gains = gains + build_numpy_generator("noise").normal(size=(100, 1)) * (kls > 0)
    with pytest.raises(DataError, match="no gain at any n that differs from 0"):
        fit_best_of_n(kls, gains, NAMES, _generator, num_resamples=300)


def test_points_of_another_form_are_refused() -> None:
    """Nothing up to n = 8, then a jump."""
    kls, _ = _make(1.0, 0.0, 0.0)
    gains = np.where(np.array(NS) > 8, 1.0, 0.0) + build_numpy_generator("jump").normal(0, 0.05, size=(100, len(NS)))
    with pytest.raises(DataError, match="off the best curve"):
        fit_best_of_n(kls, gains, NAMES, _generator, num_resamples=300)


def test_too_few_distances_and_sources_are_refused() -> None:
    kls, gains = _make(1.0, 0.5, 0.3)
    with pytest.raises(DataError, match="3 distances above 0"):
        fit_best_of_n(kls[:, :4], gains[:, :4], NAMES, _generator)
    # A verifier whose KL has come to its end has one distance, however large n is.
    with pytest.raises(DataError, match="1 distances above 0"):
        fit_best_of_n(np.where(kls > 0, 2.3, 0.0), gains, NAMES, _generator)
    with pytest.raises(DataError, match="problems of 5 sources"):
        fit_best_of_n(kls, gains, [str(place % 5) for place in range(100)], _generator)
