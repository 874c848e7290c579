"""Bands of pass rates, and how selection weighs them."""

from __future__ import annotations

import pytest

from posttrain.statistics.difficulty import (
    DrawnGroup,
    compute_weights,
    count_successes,
    count_tokens,
    find_band,
)


def test_bands_are_thirds_with_none_and_all_apart() -> None:
    """Of 9 tries 3 and 6 are a third and two thirds, which belong to the middle."""
    found = [find_band(successes, 9) for successes in range(10)]
    assert found == ["never", "hard", "hard", "middle", "middle", "middle", "middle", "easy", "easy", "always"]
    assert [find_band(n, 1) for n in (0, 1)] == ["never", "always"] and find_band(0, 0) is None
    with pytest.raises(ValueError, match="3 successes in 2 tries"):
        find_band(3, 2)


def test_successes_are_counted_among_verdicts_alone() -> None:
    assert count_successes([1.0, None, 0.5, 0.49, -1.0], 0.5) == (2, 4)
    assert count_successes([None, None], 0.5) == (0, 0)


def test_tokens_are_those_of_all_drawn_groups() -> None:
    groups = [DrawnGroup("never", 5, False), DrawnGroup("hard", 7, True), DrawnGroup("never", 2, True)]
    groups.append(DrawnGroup(None, 100, True))
    assert count_tokens(groups) == {"never": 7, "hard": 7, "middle": 0, "easy": 0, "always": 0}


def test_what_selection_leaves_out_has_no_weight_and_the_rest_has_more() -> None:
    """Six evenly drawn groups: 2 never, 1 hard, 2 middle, 1 always; the three that tell are trained on.

    hard 1/3 over 1/6 and middle 2/3 over 2/6 weigh 2; the mean, 2/6 x 0 + 1/6 x 2 + 2/6 x 2 + 1/6 x 0, is 1.
    """
    bands = [("never", False), ("never", False), ("hard", True), ("middle", True), ("middle", True), ("always", False)]
    found = compute_weights([DrawnGroup(band, 1, is_trained_on) for band, is_trained_on in bands])  # type: ignore[arg-type]
    assert found == pytest.approx({"never": 0, "hard": 2, "middle": 2, "always": 0})


def test_what_was_likelier_to_be_drawn_stands_for_fewer_problems() -> None:
    """Three middle groups drawn at 1.5 times the even chance stand for 2, one always at 0.5 for 2: even shares of 1/2.

    All are trained on: 3/4 over 1/2 is 1.5, 1/4 over 1/2 is 0.5.
    """
    groups = [DrawnGroup("middle", 1, True, 1.5) for _ in range(3)] + [DrawnGroup("always", 1, True, 0.5)]
    assert compute_weights(groups) == pytest.approx({"middle": 1.5, "always": 0.5})
    assert compute_weights([DrawnGroup("never", 1, False)]) == {}
