"""The family of DPO in exact expectation over all pairs: closed forms, and minimisers that know nothing of logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import torch

from posttrain.objectives.preference import PreferenceLoss, PreferenceObjective
from posttrain.objectives.reduction import normalise_weights
from posttrain.stages.preference_family import METHODS
from tests.oracles.closed_forms import compute_preference_probabilities, compute_tilted
from tests.oracles.enumeration import CompletionSpace, TabularPolicy, compute_total_variation, draw_values
from tests.oracles.minimising import (
    Probabilities,
    compute_finite_differences,
    minimise,
    minimise_over_probabilities,
)

SPACE = CompletionSpace(num_prompts=2, num_tokens=3, max_tokens=2)
REFERENCE_XY = TabularPolicy.draw(SPACE, seed=1).compute_logprobs_XY().detach()
REWARDS_XY = draw_values(SPACE, seed=3)
LABELS_XYY = compute_preference_probabilities(REWARDS_XY)
"""How probable it is that the first of two completions is preferred."""
DRAWN_XY = draw_values(SPACE, seed=4).softmax(-1)
"""How probable completions are to be in a pair: some other policy's."""


class AllPairs:
    """Every ordered pair of different completions of each prompt, with how probable it is to be (chosen, rejected)."""

    def __init__(self, space: CompletionSpace, labels_XYY: torch.Tensor, drawn_XY: torch.Tensor) -> None:
        self.space, (num_prompts, num) = space, space.shape_XY
        listed = [(x, y, z) for x in range(num_prompts) for y in range(num) for z in range(num) if y != z]
        x_P, y_P, z_P = torch.tensor(listed).T
        self.chances_P = drawn_XY[x_P, y_P] * drawn_XY[x_P, z_P] * labels_XYY[x_P, y_P, z_P]
        self.total = self.chances_P.sum().item()
        sequences = [x * num + side for x, y, z in listed for side in (y, z)]
        spans = [range(*space.offsets[s : s + 2].tolist()) for s in sequences]
        self.tokens_N = torch.tensor([token for span in spans for token in span])
        lengths = torch.tensor([len(span) for span in spans])
        self.branches_N = torch.arange(len(spans)).repeat_interleave(lengths)
        self.sequences_N = torch.tensor(sequences)[self.branches_N]

    def compute_loss(self, loss: PreferenceLoss, policy: TabularPolicy, reference_XY: torch.Tensor) -> torch.Tensor:
        """Return the expected loss of a pair, through the project's token objective and reduction."""
        constants = {
            "branches": self.branches_N,
            "references": reference_XY.flatten()[self.sequences_N],
        }
        losses_N = PreferenceObjective(loss)(policy.compute_logprobs_N()[self.tokens_N], constants)
        return (losses_N * normalise_weights(self.chances_P[self.branches_N // 2], self.total)).sum()


PAIRS = AllPairs(SPACE, LABELS_XYY, DRAWN_XY)
WORDS = CompletionSpace(num_prompts=3, num_tokens=2, max_tokens=1)
"""Two completions of one token: every probability of a label is Bradley-Terry's of some rewards."""
WORDS_REFERENCE_XY = TabularPolicy.draw(WORDS, seed=1).compute_logprobs_XY().detach()
WORDS_REWARDS_XY = draw_values(WORDS, seed=3)
EVEN_XY = torch.full(WORDS.shape_XY, 0.5, dtype=torch.float64)


def train(loss: PreferenceLoss, pairs: AllPairs, reference_XY: torch.Tensor, *, norm: float = 1e-7) -> torch.Tensor:
    """Return the log-probs [X, Y] at the minimum of the expected loss, from a random start."""
    policy = TabularPolicy.draw(pairs.space, seed=2)
    minimise(lambda policy: pairs.compute_loss(loss, policy, reference_XY), policy, gradient_norm=norm)
    return policy.compute_logprobs_XY().detach()


def check_same(found_XY: torch.Tensor, expected_XY: torch.Tensor, reference_XY: torch.Tensor) -> None:
    assert compute_total_variation(found_XY, expected_XY).max().item() < 1e-3
    assert compute_total_variation(expected_XY, reference_XY).min().item() > 0.02


def test_dpo_rests_at_the_tilted_reference_whatever_the_pairs_were_drawn_from() -> None:
    for drawn_XY in (DRAWN_XY, torch.full_like(DRAWN_XY, 1 / DRAWN_XY.shape[1])):
        pairs = AllPairs(SPACE, LABELS_XYY, drawn_XY)
        found_XY = train(PreferenceLoss(beta=0.7), pairs, REFERENCE_XY)
        check_same(found_XY, compute_tilted(REFERENCE_XY, REWARDS_XY, 0.7), REFERENCE_XY)


def test_ipo_rests_at_the_reference_tilted_by_the_chance_of_being_preferred() -> None:
    """pi_ref(y) exp(E_{y' ~ mu}[p(y > y')] / tau) (arXiv 2310.12036, section 4.2), a draw against itself being even."""
    found_XY = train(PreferenceLoss(loss="ipo", beta=0.3), PAIRS, REFERENCE_XY)
    chances_XY = (LABELS_XYY * DRAWN_XY[:, None, :]).sum(-1)
    check_same(found_XY, compute_tilted(REFERENCE_XY, chances_XY, 0.3), REFERENCE_XY)


def test_conservative_dpo_rests_where_the_margin_says_the_smoothed_chance() -> None:
    """sigmoid(beta (h - h')) = (1 - e) p + e (1 - p)."""
    labels_XYY = compute_preference_probabilities(WORDS_REWARDS_XY)
    loss = PreferenceLoss(beta=0.5, label_smoothing=0.2)
    found_XY = train(loss, AllPairs(WORDS, labels_XYY, EVEN_XY), WORDS_REFERENCE_XY)
    ratios_XY = found_XY - WORDS_REFERENCE_XY
    chance_X = labels_XYY[:, 0, 1]
    expected_X = 0.8 * chance_X + 0.2 * (1 - chance_X)
    assert torch.sigmoid(0.5 * (ratios_XY[:, 0] - ratios_XY[:, 1])).tolist() == pytest.approx(expected_X.tolist())


def test_robust_dpo_on_flipped_labels_rests_where_dpo_does_on_clean_ones() -> None:
    flipped_XYY = 0.8 * LABELS_XYY + 0.2 * (1 - LABELS_XYY)
    loss = PreferenceLoss(beta=0.7, label_smoothing=0.2, smoothing="robust")
    found_XY = train(loss, AllPairs(SPACE, flipped_XYY, DRAWN_XY), REFERENCE_XY)
    check_same(found_XY, compute_tilted(REFERENCE_XY, REWARDS_XY, 0.7), REFERENCE_XY)
    plain_XY = train(PreferenceLoss(beta=0.7), AllPairs(SPACE, flipped_XYY, DRAWN_XY), REFERENCE_XY)
    assert compute_total_variation(plain_XY, found_XY).min().item() > 0.02


def test_a_length_penalty_is_a_price_on_tokens() -> None:
    """beta (h - h') = r - r' - alpha (n - n'): the optimum for r - alpha n."""
    found_XY = train(PreferenceLoss(beta=0.7, length_penalty=0.6), PAIRS, REFERENCE_XY)
    priced_XY = REWARDS_XY - 0.6 * SPACE.lengths_Y
    check_same(found_XY, compute_tilted(REFERENCE_XY, priced_XY, 0.7), REFERENCE_XY)


def test_the_hinge_rests_where_a_search_over_the_margin_finds_the_least() -> None:
    """p max(0, 1 - z) + (1 - p) max(0, 1 + z) is least at z = 1 or z = -1, on the side of the likelier label."""
    labels_XYY = compute_preference_probabilities(WORDS_REWARDS_XY)
    pairs, loss = AllPairs(WORDS, labels_XYY, EVEN_XY), PreferenceLoss(loss="hinge", beta=0.5)
    for x in range(WORDS.num_prompts):
        chance = labels_XYY[x, 0, 1].item()

        def measure(margin: float, x: int = x) -> float:
            """The loss where prompt x has a difference of log-ratios and the others are at the reference."""
            ratios_XY = torch.zeros(WORDS.shape_XY, dtype=torch.float64)
            ratios_XY[x, 0] = margin
            moved_XY = (WORDS_REFERENCE_XY + ratios_XY).log_softmax(-1)
            policy = TabularPolicy.from_logprobs(WORDS, moved_XY)
            return pairs.compute_loss(loss, policy, WORDS_REFERENCE_XY).item()

        found = scipy.optimize.minimize_scalar(measure, bounds=(-6, 6), method="bounded", options={"xatol": 1e-7})
        assert 0.5 * found.x == pytest.approx(1.0 if chance > 0.5 else -1.0, abs=1e-5)
        least = chance * 2 * (chance < 0.5) + (1 - chance) * 2 * (chance > 0.5)
        assert found.fun - (measure(0.0) - 1 / 3) == pytest.approx(least / 3, abs=1e-6)


Pair = npt.NDArray[np.float64]


def compute_expected(
    score: Callable[[Pair, Pair], Pair], nll: float, weight: float
) -> Callable[[Probabilities], float]:
    """Return the expected loss of a pair in numpy, from -log sigmoid of a function of (log-probs, lengths)."""
    lengths, labels, drawn = SPACE.lengths_Y.double().numpy(), LABELS_XYY.numpy(), DRAWN_XY.numpy()
    chances = labels * drawn[:, :, None] * drawn[:, None, :]
    chances[:, np.arange(len(lengths)), np.arange(len(lengths))] = 0.0

    def compute(probabilities: Probabilities) -> float:
        logprobs = np.log(probabilities)
        scores = score(logprobs, lengths)
        z = scores[:, :, None] - scores[:, None, :] - margin
        losses = weight * np.logaddexp(0.0, -z) - nll * (logprobs / lengths)[:, :, None]
        return float((chances * losses).sum() / chances.sum())

    margin = MARGIN if score is score_simpo else 0.0
    return compute


MARGIN = 0.4


def score_simpo(logprobs: Pair, lengths: Pair) -> Pair:
    return 2.0 * logprobs / lengths


def score_tulu(logprobs: Pair, lengths: Pair) -> Pair:
    found: Pair = 0.9 * (logprobs - REFERENCE_XY.numpy()) / lengths
    return found


def score_orpo(logprobs: Pair, lengths: Pair) -> Pair:
    mean = np.exp(logprobs / lengths)
    return np.log(mean / (1 - mean))


def score_cpo(logprobs: Pair, lengths: Pair) -> Pair:
    return 0.7 * logprobs


def score_llama(logprobs: Pair, lengths: Pair) -> Pair:
    found: Pair = 0.7 * (logprobs - REFERENCE_XY.numpy())
    return found


NUMERICAL = {
    "simpo": (replace(METHODS["simpo"], margin=MARGIN), score_simpo, 0.0, 1.0),
    "dpo_norm": (replace(METHODS["dpo_norm"], beta=0.9), score_tulu, 0.0, 1.0),
    "orpo": (METHODS["orpo"], score_orpo, 1.0, 0.1),
    "cpo": (replace(METHODS["cpo"], beta=0.7), score_cpo, 1.0, 1.0),
    "dpo_nll": (replace(METHODS["dpo_nll"], beta=0.7), score_llama, 0.2, 1.0),
}


@pytest.mark.parametrize("name", NUMERICAL)
def test_members_without_a_closed_form_rest_where_a_minimiser_over_probabilities_does(name: str) -> None:
    method, score, nll, weight = NUMERICAL[name]
    found_XY = train(method.build_loss(), PAIRS, REFERENCE_XY)
    expected_XY, result = minimise_over_probabilities(compute_expected(score, nll, weight), SPACE.shape_XY)
    check_same(found_XY, expected_XY, REFERENCE_XY)
    reached = PAIRS.compute_loss(method.build_loss(), TabularPolicy.from_logprobs(SPACE, found_XY), REFERENCE_XY)
    assert reached.item() == pytest.approx(result.fun, abs=1e-6)


@pytest.mark.parametrize("algorithm", list(METHODS))
def test_gradients_by_the_logits_are_those_of_finite_differences(algorithm: str) -> None:
    policy, loss = TabularPolicy.draw(SPACE, seed=2), METHODS[algorithm].build_loss()  # type: ignore[index]  # its own keys
    value = PAIRS.compute_loss(loss, policy, REFERENCE_XY)
    (found,) = torch.autograd.grad(value, policy.logits_XFV)
    differences = compute_finite_differences(lambda: PAIRS.compute_loss(loss, policy, REFERENCE_XY), policy.logits_XFV)
    scale = max(1.0, differences.abs().max().item())
    assert (found - differences).abs().max().item() / scale < 1e-6 and differences.abs().max().item() > 1e-3
