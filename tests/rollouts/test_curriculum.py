"""Problems are chosen by their running pass rates: numbers by hand, every problem keeps a chance, and a log replays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posttrain.core.errors import StorageError
from posttrain.rollouts.curriculum import PassRates, Verdicts, choose_problems, compute_chances
from posttrain.rollouts.pass_rate_log import PassRateLog


def test_pass_rates_follow_the_verdicts_and_forget() -> None:
    """Two visits of 3 in 4 and 0 in 4 with decay 1/2.

    alpha: 1 -> 1/2 + 1/2 + 3 = 4 -> 2 + 1/2 + 0 = 2.5; beta: 1 -> 1/2 + 1/2 + 1 = 2 -> 1 + 1/2 + 4 = 5.5.
    """
    rates = PassRates(2, decay=0.5)
    rates.see([Verdicts(0, 3, 4), Verdicts(1, 0, 0)])
    assert (rates.alpha_P.tolist(), rates.beta_P.tolist()) == ([4, 1], [2, 1])
    rates.see([Verdicts(0, 0, 4)])
    assert (rates.alpha_P.tolist(), rates.beta_P.tolist()) == ([2.5, 1], [5.5, 1])
    still = PassRates(1, decay=1.0)
    still.see([Verdicts(0, 1, 4), Verdicts(0, 1, 4)])
    assert (still.alpha_P[0], still.beta_P[0]) == (3, 7)


def test_shares_are_the_expected_variance_mixed_with_an_even_share() -> None:
    """Unseen: 1 x 1 / (2 x 3) = 1/6. Two of four: 3 x 3 / (6 x 7) = 3/14. Four of four: 5 x 1 / (6 x 7) = 5/42.

    In 42nds 7, 9 and 5, together 21: shares 1/3, 3/7 and 5/21; with a floor of 0.3 these count 0.7 and 1/3 counts 0.3.
    """
    rates = PassRates(3, decay=0.0)
    rates.see([Verdicts(1, 2, 4), Verdicts(2, 4, 4)])
    expected = np.array([1 / 3, 3 / 7, 5 / 21])
    assert rates.compute_shares(1e-300) == pytest.approx(expected)
    assert rates.compute_shares(0.3) == pytest.approx(0.7 * expected + 0.1)
    assert rates.compute_shares(1.0) == pytest.approx([1 / 3] * 3)


def test_no_problem_falls_below_the_floor_however_often_it_is_solved() -> None:
    rates = PassRates(50, decay=1.0)
    rates.see([Verdicts(row, 8 * (row > 0), 8) for _ in range(1000) for row in range(49)])
    shares = rates.compute_shares(0.2)
    assert shares.min() >= 0.2 / 50 and shares.sum() == pytest.approx(1)
    assert shares[49] > 0.7  # the one of which nothing is known


def test_chances_are_in_proportion_and_at_most_one() -> None:
    """Three of shares 0.5, 0.3, 0.1, 0.1: 1.5 is cut to 1; two are left for 0.5, so that 0.3 -> 1.2 is cut too; one is
    left for two equal ones."""
    assert compute_chances(np.array([0.5, 0.3, 0.1, 0.1]), 3).tolist() == [1, 1, 0.5, 0.5]
    assert compute_chances(np.array([0.25, 0.5, 0.25, 0.0]), 1).tolist() == [0.25, 0.5, 0.25, 0]
    assert compute_chances(np.array([0.9, 0.1, 0.0]), 2).tolist() == [1, 1, 0]
    assert compute_chances(np.array([0.9, 0.1]), 0).tolist() == [0, 0]


def test_problems_are_drawn_as_often_as_their_chances_say_and_never_twice() -> None:
    """8,000 draws: a share of 0.6 has a standard error of 0.0055."""
    shares = np.array([0.30, 0.25, 0.20, 0.15, 0.10])
    seen = np.zeros(5)
    for seed in range(8000):
        choice = choose_problems(shares, 2, seed)
        assert len(set(choice.rows)) == 2
        seen[list(choice.rows)] += 1
    assert seen / 8000 == pytest.approx(2 * shares, abs=0.02)


def test_a_choice_says_how_it_weighs_problems() -> None:
    """Chances 1, 0.5, 0.25, 0.25 where even ones are 0.5: weights 2, 1, 0.5, 0.5; 2^2 / (4 x 1.375) are in effect."""
    choice = choose_problems(np.array([0.7, 0.15, 0.075, 0.075]), 2, 4)
    assert 0 in choice.rows
    expected = {0: 2.0, 1: 1.0, 2: 0.5, 3: 0.5}
    assert choice.weights == pytest.approx([expected[row] for row in choice.rows])
    assert choice.effective_fraction == pytest.approx(4 / 5.5)


def test_a_choice_is_a_function_of_its_name_and_takes_what_there_is() -> None:
    shares = np.full(6, 1 / 6)
    assert choose_problems(shares, 3, 1, 0) == choose_problems(shares, 3, 1, 0)
    assert len({choose_problems(shares, 3, 1, step).rows for step in range(20)}) > 15
    everything = choose_problems(shares, 99, 1)
    assert sorted(everything.rows) == list(range(6)) and everything.weights == (1.0,) * 6
    assert choose_problems(np.zeros(6), 3, 1).rows == ()


def test_a_log_gives_back_the_pass_rates_of_any_step(tmp_path: Path) -> None:
    steps = [[Verdicts(0, 1, 4), Verdicts(2, 4, 4)], [], [Verdicts(0, 3, 4)], [Verdicts(1, 0, 3)]]
    log = PassRateLog(tmp_path, 3, 0.7)
    expected = [log.read_before(0).alpha_P.tolist()]
    for step, verdicts in enumerate(steps):
        log.add(step, verdicts)
        expected.append(log.read_before(step + 1).alpha_P.tolist())
    for step, alphas in enumerate(expected):
        assert PassRateLog(tmp_path, 3, 0.7).read_before(step).alpha_P.tolist() == alphas
    again = PassRateLog(tmp_path, 3, 0.7)
    again.add(2, steps[2])  # from a checkpoint: what stood behind it is gone
    assert again.read_before(3).alpha_P.tolist() == expected[3]
    with pytest.raises(StorageError, match="verdicts of 3 of 4 steps"):
        PassRateLog(tmp_path, 3, 0.7).read_before(4)
    again.clear()
    assert not list(tmp_path.iterdir())


def test_a_torn_end_is_written_anew_and_a_missing_line_is_refused(tmp_path: Path) -> None:
    log = PassRateLog(tmp_path, 3, 0.7)
    for step in range(3):
        log.add(step, [Verdicts(step, 1, 2)])
    content = log.path.read_bytes()
    log.path.write_bytes(content[:-5])
    torn = PassRateLog(tmp_path, 3, 0.7)
    torn.add(2, [Verdicts(2, 1, 2)])
    torn.add(3, [])
    assert log.path.read_bytes().startswith(content)
    assert PassRateLog(tmp_path, 3, 0.7).read_before(4).alpha_P.tolist() == torn.read_before(4).alpha_P.tolist()
    log.path.write_bytes(content.split(b"\n", 1)[1])
    with pytest.raises(StorageError, match="verdicts of 2 of 3 steps") as caught:
        PassRateLog(tmp_path, 3, 0.7).read_before(3)
    assert "stage's folder" in caught.value.cure


def test_a_log_of_other_problems_is_refused(tmp_path: Path) -> None:
    PassRateLog(tmp_path, 9, 0.5).add(0, [Verdicts(8, 1, 2)])
    with pytest.raises(StorageError, match="none of 3 problems"):
        PassRateLog(tmp_path, 3, 0.5).read_before(1)
