"""Packs an optimizer step's rows into micro-batches of a token budget, and deals those to ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def pack(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Return micro-batches, as lists of row indices, that hold every row once and at most the budget each.

    First-fit decreasing finds how many are needed (at most 11/9 of the optimum, plus one); the rows are
    then spread over as many by longest-first onto the least loaded, where the budget allows it, so that
    no micro-batch is a small remainder. A row longer than the budget is alone in its micro-batch. The
    result depends on the lengths alone; the largest micro-batch comes first, so that memory runs out
    at once or not at all.

    Args:
        lengths: Tokens of each row, at least 1.
        budget_tokens: Tokens of a micro-batch, at least 1.
    """
    if budget_tokens < 1 or any(length < 1 for length in lengths):
        raise ValueError(f"a budget of {budget_tokens} tokens for rows of {min(lengths, default=0)} tokens and more")
    longest_first = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    alone = [[row] for row in longest_first if lengths[row] > budget_tokens]
    shared = longest_first[len(alone) :]
    fitted: list[list[int]] = []
    loads: list[int] = []
    for row in shared:
        target = next((index for index, load in enumerate(loads) if load + lengths[row] <= budget_tokens), None)
        if target is None:
            fitted.append([row])
            loads.append(lengths[row])
        else:
            fitted[target].append(row)
            loads[target] += lengths[row]
    packed = alone + (_balance(shared, lengths, len(fitted), budget_tokens) or fitted)
    packed = [sorted(rows) for rows in packed]
    return sorted(packed, key=lambda rows: (-sum(lengths[row] for row in rows), rows))


def pack_padded(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Return micro-batches whose rows, padded to their longest, are within the budget.

    Rows of like length share a micro-batch, so that little is padded. A row longer than the budget is
    alone; the largest micro-batch comes first. Arguments as for `pack`.
    """
    if budget_tokens < 1 or any(length < 1 for length in lengths):
        raise ValueError(f"a budget of {budget_tokens} tokens for rows of {min(lengths, default=0)} tokens and more")
    longest_first = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    packed: list[list[int]] = []
    for row in longest_first:
        if packed and (len(packed[-1]) + 1) * lengths[packed[-1][0]] <= budget_tokens:
            packed[-1].append(row)
        else:
            packed.append([row])
    return sorted(packed, key=lambda rows: (-len(rows) * max(lengths[row] for row in rows), rows))


def _balance(
    longest_first: Sequence[int], lengths: Sequence[int], num_batches: int, budget_tokens: int
) -> list[list[int]] | None:
    """Return the rows spread over so many micro-batches, or None where this exceeds the budget."""
    batches: list[list[int]] = [[] for _ in range(num_batches)]
    loads = [0] * num_batches
    for row in longest_first:
        lightest = loads.index(min(loads))
        batches[lightest].append(row)
        loads[lightest] += lengths[row]
    return batches if max(loads, default=0) <= budget_tokens else None


def deal(items: Sequence[list[Item]], num_ranks: int) -> list[list[list[Item]]]:
    """Return each rank's micro-batches: all ranks get the same number, empty ones where there are too few.

    Items of similar size meet in the same round, because `pack` gives them by size: ranks then wait for
    one another as little as they can.
    """
    if num_ranks < 1:
        raise ValueError(f"micro-batches for {num_ranks} ranks")
    rounds = -(-len(items) // num_ranks)
    padded = [*items, *([] for _ in range(rounds * num_ranks - len(items)))]
    return [padded[rank::num_ranks] for rank in range(num_ranks)]
