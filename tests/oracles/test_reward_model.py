"""Bradley and Terry's model on a table of items, against minimisers that share nothing with the loss."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from posttrain.objectives.reward_model import compute_pairwise_losses

NUM_ITEMS = 5
STRENGTHS = np.array([0.0, 0.4, 1.1, -0.7, 2.0])


def count_wins(seed: int, num_each: int = 40) -> np.ndarray:
    """wins[i, j]: how often i was preferred to j, drawn from the model; each at least once."""
    generator = np.random.default_rng(seed)
    wins = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for i in range(NUM_ITEMS):
        for j in range(i):
            drawn = generator.binomial(num_each - 2, 1 / (1 + np.exp(STRENGTHS[j] - STRENGTHS[i]))) + 1
            wins[i, j], wins[j, i] = drawn, num_each - drawn
    return wins


def fit_by_iterative_scaling(wins: np.ndarray, rounds: int = 20_000) -> np.ndarray:
    """The maximum of the likelihood by Zermelo's iteration (1929): w_i <- wins_i / sum_j n_ij / (w_i + w_j)."""
    games, worth = wins + wins.T, np.ones(NUM_ITEMS)
    for _ in range(rounds):
        shares = games / (worth[:, None] + worth[None, :])
        worth = wins.sum(1) / shares.sum(1)
        worth /= np.exp(np.log(worth).mean())
    return np.log(worth)


def descend(wins: np.ndarray, margin: float = 0.0, centring: float = 0.0) -> np.ndarray:
    scores = torch.zeros(NUM_ITEMS, dtype=torch.float64, requires_grad=True)
    chosen, rejected = (torch.from_numpy(part) for part in np.nonzero(wins))
    weights = torch.from_numpy(wins[np.nonzero(wins)]) / wins.sum()
    margins = torch.full((len(chosen),), margin, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(
        [scores], max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (compute_pairwise_losses(scores[chosen], scores[rejected], margins, centring) * weights).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return scores.detach().numpy()


def test_the_minimum_is_the_maximum_of_the_likelihood_by_zermelos_iteration() -> None:
    wins = count_wins(seed=3)
    found = descend(wins)
    assert found - found.mean() == pytest.approx(fit_by_iterative_scaling(wins), abs=1e-6)


@pytest.mark.parametrize(("margin", "centring"), [(0.5, 0.0), (0.0, 0.05), (0.5, 0.05)])
def test_with_margin_and_centring_a_minimiser_without_gradients_agrees(margin: float, centring: float) -> None:
    """Powell's method on the loss written in numpy from its formula."""
    wins = count_wins(seed=4)

    def loss(scores: np.ndarray) -> float:
        total = 0.0
        for i in range(NUM_ITEMS):
            for j in range(NUM_ITEMS):
                total += wins[i, j] * (np.log1p(np.exp(-(scores[i] - scores[j] - margin))))
                total += wins[i, j] * centring * (scores[i] + scores[j]) ** 2
        return float(total / wins.sum())

    found = descend(wins, margin, centring)
    other = scipy.optimize.minimize(loss, np.zeros(NUM_ITEMS), method="Powell", options={"xtol": 1e-9, "ftol": 1e-15})
    if not centring:
        found, other.x = found - found.mean(), other.x - other.x.mean()
    assert found == pytest.approx(other.x, abs=1e-4)


def test_centring_alone_decides_the_mean_of_the_scores() -> None:
    """With centring the scores of all pairs sum to about 0; how far they lie apart shrinks a little."""
    wins = count_wins(seed=5)
    plain, centred = descend(wins), descend(wins, centring=0.01)
    assert abs(centred.mean()) < 0.35
    assert np.corrcoef(plain, centred)[0, 1] > 0.999
    assert np.ptp(centred) < np.ptp(plain)
