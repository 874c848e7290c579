"""The order of rows: pure in seed and step, permutations, exact shares."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.core.errors import DataError
from posttrain.data.mixing import RowOrder

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def rows_of_epoch(order: RowOrder, epoch: int) -> list[tuple[int, int]]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return [row for step in steps for row in order.rows_of_step(step)]


@given(LENGTHS, st.integers(1, 50), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_every_epoch_is_a_permutation_of_all_rows(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    order = RowOrder(lengths, None, seed, batch)
    everything = [(source, row) for source, length in enumerate(lengths) for row in range(length)]
    assert sorted(rows_of_epoch(order, epoch)) == everything


@given(LENGTHS, st.integers(1, 9), st.integers(0, 99), st.booleans(), st.integers(0, 60))
def test_a_process_that_starts_at_a_step_gets_the_rows_of_one_that_came_there(
    lengths: list[int], batch: int, seed: int, is_mixed: bool, step: int
) -> None:
    proportions = [1.0] * len(lengths) if is_mixed else None
    continued = RowOrder(lengths, proportions, seed, batch)
    came_there = [continued.rows_of_step(number) for number in range(step + 1)]
    assert RowOrder(lengths, proportions, seed, batch).rows_of_step(step) == came_there[step]
    assert continued.rows_of_step(0) == came_there[0]


def test_another_seed_and_another_epoch_are_other_orders() -> None:
    order = RowOrder([50], None, 17, 50)
    assert order.rows_of_step(0) != order.rows_of_step(1)
    assert order.rows_of_step(0) != RowOrder([50], None, 18, 50).rows_of_step(0)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert RowOrder([3, 4], None, 17, 7).rows_of_step(0) == PINNED_ORDER


PINNED_ORDER = [(1, 0), (1, 1), (0, 0), (0, 2), (1, 3), (0, 1), (1, 2)]


def test_shares_are_exact_and_a_small_source_is_seen_evenly() -> None:
    order = RowOrder([90, 10], [1.0, 1.0], 17, 8)
    assert (order.counts, order.rows_per_epoch, order.steps_per_epoch) == ([50, 50], 100, 13)
    for epoch in range(4):
        assert Counter(source for source, _ in rows_of_epoch(order, epoch)) == {0: 50, 1: 50}
    seen = Counter(row for epoch in range(9) for row in rows_of_epoch(order, epoch))
    assert {seen[0, row] for row in range(90)} == {5}  # 450 draws of 90 rows
    assert {seen[1, row] for row in range(10)} == {45}


def test_shares_that_do_not_divide_are_rounded_by_largest_remainder() -> None:
    """10 rows in shares of 1 : 1 : 1 are 3.33 each: the first takes the one that is left."""
    assert RowOrder([5, 3, 2], [1.0, 1.0, 1.0], 0, 4).counts == [4, 3, 3]
    assert RowOrder([5, 3, 2], [0.2, 0.2, 0.6], 0, 4).counts == [2, 2, 6]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(5, 40), st.floats(0.2, 5.0)), min_size=1, max_size=4), st.integers(1, 4))
def test_counts_are_exact_in_every_epoch_and_rows_are_seen_equally_often(
    sources: list[tuple[int, float]], num_epochs: int
) -> None:
    lengths, proportions = [length for length, _ in sources], [share for _, share in sources]
    order = RowOrder(lengths, proportions, 3, 7)
    assert sum(order.counts) == sum(lengths)
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(num_epochs):
        rows = rows_of_epoch(order, epoch)
        assert Counter(source for source, _ in rows) == dict(enumerate(order.counts))
        seen.update(rows)
    for source, length in enumerate(lengths):
        times = [seen[source, row] for row in range(length)]
        assert max(times) - min(times) <= 1


def test_no_step_spans_two_epochs_and_the_last_may_be_smaller() -> None:
    order = RowOrder([10], None, 17, 4)
    assert [len(order.rows_of_step(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


@pytest.mark.parametrize(
    ("lengths", "proportions", "batch", "found"),
    [
        ([], None, 1, "without rows"),
        ([3, 0], None, 1, "without rows"),
        ([3], None, 0, "batch of 0"),
        ([3, 4], [0.5, None], 1, "1 of 2 sources"),
        ([3, 4], [0.5, -1.0], 1, "proportions"),
        ([3, 4], [0.5, float("inf")], 1, "proportions"),
        ([3, 4], [1.0, 0.001], 1, "source 2 would give no row"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    lengths: list[int], proportions: list[float | None] | None, batch: int, found: str
) -> None:
    with pytest.raises(DataError, match=found):
        RowOrder(lengths, proportions, 17, batch)


def test_steps_count_from_zero() -> None:
    with pytest.raises(ValueError, match="-1"):
        RowOrder([3], None, 17, 1).rows_of_step(-1)


def test_the_rows_of_some_steps_are_each_there_once() -> None:
    """Three rows in steps of two: two steps are an epoch, and of a thousand million steps no more are asked."""
    order = RowOrder([2, 1], None, 17, 2)
    assert order.rows_of_steps(0) == []
    assert order.rows_of_steps(1) == sorted(order.rows_of_step(0))
    assert order.rows_of_steps(2) == order.rows_of_steps(10**9) == [(0, 0), (0, 1), (1, 0)]
