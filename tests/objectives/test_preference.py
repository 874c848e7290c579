"""The family of DPO by hand: values and gradients of each member, step 0, and what may not change them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from posttrain.objectives.preference import (
    BranchLogprobs,
    PreferenceLoss,
    PreferenceObjective,
    find_first_tokens,
    gather_branches,
)
from posttrain.objectives.reduction import normalise_weights
from posttrain.stages.preference_family import METHODS, PreferenceAlgorithm


def measure(loss: PreferenceLoss, *sides: tuple[float, float, int]) -> tuple[float, float, float]:
    """Return the loss of one pair and its slopes by the log-probs of chosen and rejected.

    A side is (log-prob of the whole completion, the reference's, number of tokens); chosen first.
    """
    leaves = [torch.tensor([side[0]], dtype=torch.float64, requires_grad=True) for side in sides]
    branches = [
        BranchLogprobs(leaf, torch.tensor([side[1]], dtype=torch.float64), torch.tensor([side[2]]))
        for leaf, side in zip(leaves, sides, strict=True)
    ]
    value = loss(branches[0], branches[1])
    slopes = torch.autograd.grad(value.sum(), leaves)
    return value.item(), slopes[0].item(), slopes[1].item()


LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
CHOSEN, REJECTED = (-2.0, -2.0 - 5 * LN3, 2), (-6.0, -6.0 + 5 * LN3, 4)
"""Log-ratios of 5 ln 3 and -5 ln 3 over 2 and 4 tokens: with beta 0.1 DPO's z is ln 3, and sigmoid(z) is 3/4."""


@pytest.mark.parametrize(
    ("loss", "value", "slope"),
    [
        # -log 3/4; slope -beta (1 - 3/4)
        (PreferenceLoss(), LN4 - LN3, -0.025),
        # the labels flipped with 0.2: 0.8 log 4/3 + 0.2 log 4; slope -beta (0.8 * 1/4 - 0.2 * 3/4)
        (PreferenceLoss(label_smoothing=0.2), 0.8 * (LN4 - LN3) + 0.2 * LN4, -0.1 * (0.2 - 0.15)),
        # (0.8 log 4/3 - 0.2 log 4) / 0.6; slope -beta (0.8 * 1/4 + 0.2 * 3/4) / 0.6
        (
            PreferenceLoss(label_smoothing=0.2, smoothing="robust"),
            (0.8 * (LN4 - LN3) - 0.2 * LN4) / 0.6,
            -0.1 * 0.35 / 0.6,
        ),
        # 1 - ln 3 is below 0; with beta 0.05 z is ln 3 / 2
        (PreferenceLoss(loss="hinge"), 0.0, 0.0),
        (PreferenceLoss(loss="hinge", beta=0.05), 1 - LN3 / 2, -0.05),
        # h(w) - h(l) = 10 ln 3, the target 1 / (2 * 0.1) = 5: slope 2 (10 ln 3 - 5)
        (PreferenceLoss(loss="ipo"), (10 * LN3 - 5) ** 2, 2 * (10 * LN3 - 5)),
        # a margin of ln 3 takes z to 0
        (PreferenceLoss(margin=LN3), LN2, -0.05),
        # two tokens less than the rejected one, at ln 3 / 2 each: z is 0
        (PreferenceLoss(length_penalty=LN3 / 2), LN2, -0.05),
    ],
)
def test_a_loss_and_its_slopes_are_the_ones_worked_out_by_hand(
    loss: PreferenceLoss, value: float, slope: float
) -> None:
    assert measure(loss, CHOSEN, REJECTED) == pytest.approx((value, slope, -slope), abs=1e-12)


def test_length_normalised_dpo_takes_log_ratios_by_token() -> None:
    """h = 5 ln 3 / 2 and -5 ln 3 / 4 differ by 3.75 ln 3: with beta 4/15 z is ln 3, slopes -beta/8 and beta/16."""
    beta = 4 / 15
    found = measure(PreferenceLoss(is_length_normalised=True, beta=beta), CHOSEN, REJECTED)
    assert found == pytest.approx((LN4 - LN3, -beta / 4 / 2, beta / 4 / 4), abs=1e-12)


def test_simpo_reads_no_reference_and_counts_by_token() -> None:
    """Means of -1 and -1.5 nats, beta 2 and margin 1: z = 2 * 0.5 - 1 = 0, slopes -beta/2 by 2 and 4 tokens."""
    loss = PreferenceLoss(reward="log_prob", is_length_normalised=True, beta=2.0, margin=1.0)
    for references in (0.0, 7.0):
        found = measure(loss, (-2.0, references, 2), (-6.0, 3 * references, 4))
        assert found == pytest.approx((LN2, -0.5, 0.25), abs=1e-12)


def test_cpo_adds_the_chosen_completions_own_loss_by_token() -> None:
    """beta 0.1 ln 3 / 0.4: z = (ln 3 / 4) * 4 = ln 3. -log 3/4 + 2 / 2; slopes -beta/4 - 1/2 and beta/4."""
    loss = PreferenceLoss(reward="log_prob", beta=LN3 / 4, nll_coefficient=1.0)
    found = measure(loss, CHOSEN, REJECTED)
    assert found == pytest.approx((LN4 - LN3 + 1, -LN3 / 16 - 0.5, LN3 / 16), abs=1e-12)


def test_the_nll_term_of_llama_3_pulls_the_chosen_completion_up_only() -> None:
    """ln 2 + 0.2 * 3 / 2 at equal ratios; slopes -beta/2 - 0.2/2 and beta/2."""
    found = measure(PreferenceLoss(nll_coefficient=0.2), (-3.0, -3.0, 2), (-4.0, -4.0, 5))
    assert found == pytest.approx((LN2 + 0.3, -0.05 - 0.1, 0.05), abs=1e-12)


def test_orpo_compares_odds_of_the_mean_token() -> None:
    """Two tokens of 1/2 each: odds 1; three of 1/4 each: odds 1/3. z = ln 3, -log 3/4.

    d log odds / d lp = 1 / (n (1 - p)): 1 / (2 * 1/2) = 1 and 1 / (3 * 3/4) = 4/9. With 0.1 of it and the whole NLL:
    slopes -0.1/4 * 1 - 1/2 and 0.1/4 * 4/9.
    """
    loss = PreferenceLoss(reward="log_odds", beta=1.0, nll_coefficient=1.0, preference_coefficient=0.1)
    found = measure(loss, (-2 * LN2, 0.0, 2), (-3 * LN4, 0.0, 3))
    expected = (0.1 * (LN4 - LN3) + LN2, -0.025 - 0.5, 0.1 / 4 * 4 / 9)
    assert found == pytest.approx(expected, abs=1e-12)


def test_odds_of_a_certain_completion_are_large_and_finite() -> None:
    loss = PreferenceLoss(reward="log_odds", beta=1.0)
    value, slope, _ = measure(loss, (0.0, 0.0, 2), (-3 * LN4, 0.0, 3))
    assert math.isfinite(value) and slope == 0.0


ALGORITHMS = list(METHODS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_member_raises_the_chosen_completion_and_lowers_the_rejected_one(algorithm: PreferenceAlgorithm) -> None:
    _, chosen, rejected = measure(METHODS[algorithm].build_loss(), (-4.0, -4.0, 3), (-4.0, -4.0, 3))
    assert chosen < 0 < rejected


@pytest.mark.parametrize("algorithm", ["dpo", "dpo_norm", "cdpo", "hinge", "ipo", "rdpo", "dpo_nll", "robust_dpo"])
def test_at_the_reference_implicit_rewards_are_0_and_dpos_loss_is_ln_2(algorithm: PreferenceAlgorithm) -> None:
    loss = METHODS[algorithm].build_loss()
    same = BranchLogprobs(torch.tensor([-7.0]), torch.tensor([-7.0]), torch.tensor([3]))
    assert loss.compute_rewards(same).tolist() == [0.0]
    pair = replace(loss, nll_coefficient=0.0)(same, same)
    expected = {"hinge": 1.0, "ipo": (1 / (2 * loss.beta)) ** 2}.get(algorithm, LN2)
    assert pair.tolist() == pytest.approx([expected], abs=1e-6)


def draw(counts: list[tuple[int, int]], seed: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return token log-probs and constants of pairs with so many chosen and rejected tokens."""
    generator = torch.Generator().manual_seed(seed)
    branches, references = [], []
    for number, sides in enumerate(counts):
        for side, count in enumerate(sides):
            branches += [2 * number + side] * count
            references += [-float(torch.rand(1, generator=generator)) * 5] * count
    logprobs = -3 * torch.rand(len(branches), generator=generator, dtype=torch.float64)
    given = torch.tensor(references, dtype=torch.float64)
    return logprobs, {"branches": torch.tensor(branches), "references": given}


def differentiate(loss: PreferenceLoss, logprobs: torch.Tensor, constants: Any, total: float) -> tuple[float, Any]:
    leaf = logprobs.clone().requires_grad_()
    weights = normalise_weights(torch.ones(len(leaf)), total)
    value = (PreferenceObjective(loss)(leaf, constants) * weights).sum()
    return value.item(), torch.autograd.grad(value, leaf)[0]


COUNTS = [(2, 3), (1, 1), (4, 2), (3, 5)]


def test_branches_are_the_sums_of_their_tokens() -> None:
    logprobs, constants = draw(COUNTS)
    chosen, rejected = gather_branches(logprobs, constants)
    parts = logprobs.split([size for sides in COUNTS for size in sides])
    assert chosen.policy_P.tolist() == pytest.approx([float(part.sum()) for part in parts[0::2]])
    assert rejected.policy_P.tolist() == pytest.approx([float(part.sum()) for part in parts[1::2]])
    assert (chosen.lengths_P.tolist(), rejected.lengths_P.tolist()) == ([2, 1, 4, 3], [3, 1, 2, 5])
    assert find_first_tokens(constants).tolist() == [0, 5, 7, 13]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_does_not_depend_on_how_its_pairs_are_dealt(algorithm: PreferenceAlgorithm) -> None:
    loss = METHODS[algorithm].build_loss()
    logprobs, constants = draw(COUNTS)
    value, slopes = differentiate(loss, logprobs, constants, len(COUNTS))
    split = 0.0
    for pairs in ([0], [1, 2], [3]):
        chosen = torch.isin(constants["branches"] // 2, torch.tensor(pairs))
        own = {name: values[chosen] for name, values in constants.items()}
        own["branches"] = own["branches"] - 2 * pairs[0]
        part, part_slopes = differentiate(loss, logprobs[chosen], own, len(COUNTS))
        split += part
        assert torch.allclose(part_slopes, slopes[chosen], atol=1e-7)
    assert split == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_order_of_tokens_and_pairs_changes_nothing(algorithm: PreferenceAlgorithm) -> None:
    loss = METHODS[algorithm].build_loss()
    logprobs, constants = draw(COUNTS)
    value, slopes = differentiate(loss, logprobs, constants, len(COUNTS))
    order = torch.randperm(len(logprobs), generator=torch.Generator().manual_seed(3))
    shuffled = {name: values[order] for name, values in constants.items()}
    other, other_slopes = differentiate(loss, logprobs[order], shuffled, len(COUNTS))
    assert other == pytest.approx(value, abs=1e-6)
    assert torch.allclose(other_slopes, slopes[order], atol=1e-7)
    pairs, sides = constants["branches"] // 2, constants["branches"] % 2
    swapped = {**constants, "branches": 2 * (len(COUNTS) - 1 - pairs) + sides}
    assert differentiate(loss, logprobs, swapped, len(COUNTS))[0] == pytest.approx(value, abs=1e-6)


def test_a_batch_without_pairs_has_no_loss() -> None:
    none = {name: values[:0] for name, values in draw([(1, 1)])[1].items()}
    assert PreferenceObjective(PreferenceLoss())(torch.empty(0), none).tolist() == []
