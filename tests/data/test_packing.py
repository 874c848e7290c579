"""Packing: every row once, the budget kept, the same for the same lengths, and balanced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.packing import deal, pack

LENGTHS = st.lists(st.integers(1, 120), max_size=60)


@given(LENGTHS, st.integers(1, 150))
def test_every_row_is_packed_once_and_the_budget_is_kept(lengths: list[int], budget: int) -> None:
    batches = pack(lengths, budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert sum(lengths[row] for row in rows) <= budget or len(rows) == 1
    assert pack(lengths, budget) == batches


@given(LENGTHS, st.integers(1, 150))
def test_there_are_few_micro_batches(lengths: list[int], budget: int) -> None:
    """First-fit decreasing leaves at most one of the shared micro-batches half empty or emptier."""
    shared = [rows for rows in pack(lengths, budget) if all(lengths[row] <= budget for row in rows)]
    tokens = sum(lengths[row] for rows in shared for row in rows)
    assert len(shared) <= 2 * tokens // budget + 1


def test_a_row_longer_than_the_budget_is_alone() -> None:
    assert pack([5, 100, 5], 10) == [[1], [0, 2]]


def test_micro_batches_are_balanced_and_the_largest_comes_first() -> None:
    """100 tokens a budget, 150 tokens: not 100 and 50, but 75 and 75."""
    batches = pack([25] * 6, 100)
    assert [sum(25 for _ in rows) for rows in batches] == [75, 75]
    loads = [sum((90, 10, 60, 30)[row] for row in rows) for rows in pack([90, 10, 60, 30], 100)]
    assert loads == sorted(loads, reverse=True)


def test_balance_never_breaks_the_budget() -> None:
    """Longest-first onto the least loaded would give 3+2+2 = 7 here; first-fit gives 3+3 and 2+2+2."""
    batches = pack([3, 3, 2, 2, 2], 6)
    assert batches == [[0, 1], [2, 3, 4]]


@pytest.mark.parametrize(("lengths", "budget"), [([1, 0], 10), ([1], 0)])
def test_rows_and_budgets_without_tokens_are_refused(lengths: list[int], budget: int) -> None:
    with pytest.raises(ValueError, match="tokens"):
        pack(lengths, budget)


def test_nothing_packs_into_nothing() -> None:
    assert pack([], 10) == []
    assert deal([], 2) == [[], []]


@given(LENGTHS, st.integers(1, 9))
def test_every_rank_gets_the_same_number_and_nothing_is_lost(lengths: list[int], num_ranks: int) -> None:
    batches = pack(lengths, 150)
    ranks = deal(batches, num_ranks)
    assert len(ranks) == num_ranks
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(rows for rank in ranks for rows in rank if rows) == sorted(batches)
    assert sum(not rows for rank in ranks for rows in rank) < num_ranks


def test_micro_batches_of_one_round_are_neighbours_in_size() -> None:
    assert deal([[0], [1], [2], [3], [4]], 2) == [[[0], [2], [4]], [[1], [3], []]]


def test_there_is_at_least_one_rank() -> None:
    with pytest.raises(ValueError, match="0 ranks"):
        deal([[1]], 0)
