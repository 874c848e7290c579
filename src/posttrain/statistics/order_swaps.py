"""Questions asked in both orders of their options: what an answer owes to the content, and what to the position.

| question | figure |
| --- | --- |
| how often is the option that matches chosen? | `matching`, over both orders |
| is the same option chosen in both orders? | `consistency` |
| is an option chosen because it stands first? | `position_bias`: matching where it stands earlier, less later |

Of two options a policy that always says A matches half of the time, whatever it is asked: `consistency` 0,
`position_bias` 1. One that guesses among k options has a consistency of 1/k, so what is above 1/k is owed to the
content. Where a question has but one form (Yes or No), `compare_labels` asks the same of the labels: a policy that says
Yes to everything matches all statements whose answer is Yes and none of the others.

Shape letter: N questions, each asked in two orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from posttrain.core.errors import DataError
from posttrain.statistics.bounded_mean import compute_interval
from posttrain.statistics.clusters import Codes, Floats, encode_clusters, read_values
from posttrain.statistics.intervals import Interval, korn_graubard_interval, wilson_interval
from posttrain.statistics.one_sided import mean_test
from posttrain.statistics.paired import summarise_difference
from posttrain.statistics.pairing import build_pairs

Decided = Literal["content", "position", "undecided"]
"""What decides more: what the options say, where they stand (or what they are called), or it cannot be told."""

COIN = 0.5


@dataclass(frozen=True, slots=True)
class OrderSwaps:
    """What answers to N questions in both orders say.

    Made by `compare_orders`, read by figures and the monitor. `chance` is the consistency of a guesser, the mean of
    1/k. `matching_if_consistent` is None where no answer is consistent, or several are and all of one source.
    `decided_by` is `content` where more answers than `chance` are shown to stay with their option, `position` where
    fewer are.

    Example: of four questions one is answered with the matching option in both orders, three with A in both:
    `matching.value = 0.625`, `consistency.value = 0.25`, `position_bias.value = 0.75`.
    """

    num_questions: int
    num_clusters: int
    chance: float
    matching: Interval
    consistency: Interval
    position_bias: Interval
    matching_if_consistent: Interval | None
    decided_by: Decided
    p_content: float
    p_position: float


@dataclass(frozen=True, slots=True)
class LabelSplit:
    """What answers to statements of both labels say.

    `first` and `second` are the shares that match where the matching answer is the first label (Yes), or the second
    (No); `matching` is their mean, so that how many statements have which label does not matter; `label_bias` is first
    less second: 1 where the first label is always said, 0 where a label is no likelier for being that label.
    `decided_by` is `position` where the same label is the likelier one among both kinds of statement, `content` where
    both kinds match, or both do not, more often than not; each by two one-sided exact binomial tests.
    """

    num_statements: int
    first: Interval
    second: Interval
    matching: Interval
    label_bias: Interval
    decided_by: Decided
    p_position: float


# many parameters: five columns, and two settings
def compare_orders(
    early_N: Sequence[float] | Floats,
    late_N: Sequence[float] | Floats,
    is_same_N: Sequence[bool],
    *,
    num_options_N: Sequence[float] | None = None,
    clusters_N: Sequence[str] | Sequence[int] | Codes | None = None,
    level: float = 0.95,
    alpha: float = 0.05,
) -> OrderSwaps:
    """Return what is owed to content and to position.

    With m_e and m_l the shares that match in either order and s the answers that are the same in both:
    `matching = (m_e + m_l) / 2`, `consistency = s / N`, `position_bias = m_e - m_l`. s is held against the mean of 1/k:
    by the exact binomial test where every question is of a source of its own, else by the clustered score test of a
    mean. Where questions differ in k the binomial tails are too wide, not too narrow, beyond one question from what
    guessing gives (Hoeffding).

    Args:
        early_N: 1 where the matching option is chosen in the order in which it stands nearer the front, else 0.
        late_N: The same in the other order.
        is_same_N: Whether the option that is chosen is the same in both orders.
        num_options_N: k of each question, at least 2; None: two each.
        clusters_N: The name of each question's cluster; None: questions are independent.
        level: Confidence of the intervals: Korn and Graubard's by source, Wilson's of independent shares, the paired
            score interval.
        alpha: Level of the tests of what decides.

    Raises:
        DataError: There are fewer than two questions or sources, or the columns do not belong together.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge" (arXiv 2306.05685), section 3.4, for swapped orders and
    consistency; Pezeshkpour and Hruschka 2023 (arXiv 2308.11483) for the order of choices; Hoeffding, Annals
    of Mathematical Statistics 27 (1956), p. 713, theorem 4. The comparison with a guesser is this project's.
    """
    early, late = read_values(early_N), read_values(late_N)
    same, size = np.asarray(is_same_N, dtype=bool), early.size
    options = np.full(size, 2.0) if num_options_N is None else read_values(num_options_N)
    _check_columns(early, late, same, options)
    codes = np.arange(size) if clusters_N is None else encode_clusters(clusters_N, size)
    chance = float((1 / options).mean())
    p_content, p_position = _test_same(same, codes, chance), _test_same(~same, codes, 1 - chance)
    return OrderSwaps(
        num_questions=size,
        num_clusters=int(codes.max()) + 1,
        chance=chance,
        matching=korn_graubard_interval(np.concatenate([early, late]), np.tile(codes, 2), level=level),
        consistency=_bound_share(same.astype(np.float64), codes, level),
        position_bias=compute_interval(summarise_difference(build_pairs(late, early, codes)), level=level),
        matching_if_consistent=_bound_share(early[same], codes[same], level) if _is_told(codes[same]) else None,
        decided_by=_decide(p_content <= alpha, p_position <= alpha),
        p_content=p_content,
        p_position=p_position,
    )


def _check_columns(early_N: Floats, late_N: Floats, same_N: npt.NDArray[np.bool_], options_N: Floats) -> None:
    """Refuse columns that do not belong together.

    Raises:
        DataError: See above.
    """
    size = early_N.size
    is_binary = bool(np.isin(early_N, (0.0, 1.0)).all() and np.isin(late_N, (0.0, 1.0)).all())
    is_whole = late_N.size == same_N.size == options_N.size == size and size >= 2
    if not (is_binary and is_whole) or (options_N < 2).any() or (same_N & (early_N != late_N)).any():
        raise DataError(
            f"{size} answers in one order, {late_N.size} in the other, {same_N.size} comparisons",
            expected="at least two questions of two options or more, each with 0 or 1 in both orders, equal where the "
            "answer is the same",
            cure="ask every question in both orders",
        )


def compare_labels(
    first: tuple[int, int], second: tuple[int, int], *, level: float = 0.95, alpha: float = 0.05
) -> LabelSplit:
    """Return what is owed to the statements and to the labels.

    With p_1 and p_2 the shares that match and l, u their Wilson limits: `label_bias = p_1 - p_2`, from
    `p_1 - p_2 - sqrt((p_1 - l_1)² + (u_2 - p_2)²)` to `p_1 - p_2 + sqrt((u_1 - p_1)² + (p_2 - l_2)²)`;
    `matching = (p_1 + p_2) / 2`, whose limits are half the square-and-add distances of the sum.

    Args:
        first: Statements whose matching answer is the first label, as (that match, in all).
        second: Those whose matching answer is the second label.
        level: Confidence of the intervals.
        alpha: Level of the tests of what decides.

    Raises:
        DataError: There is no statement of one of the labels, or counts are impossible.

    Source: Newcombe, Statistics in Medicine 17 (1998), p. 873, method 10; Zou and Donner, Statistics in Medicine 27
    (2008), p. 1693, for sums.
    """
    one, two = (wilson_interval(*counts, level=level) for counts in (first, second))
    below = (one.value - one.low, two.value - two.low)
    above = (one.high - one.value, two.high - two.value)
    bias = one.value - two.value
    mean = (one.value + two.value) / 2
    high = [_tail_above(*counts) for counts in (first, second)]
    low = [_tail_above(counts[1] - counts[0], counts[1]) for counts in (first, second)]
    p_position = min(max(high[0], low[1]), max(low[0], high[1]))
    p_content = min(max(high), max(low))
    return LabelSplit(
        num_statements=first[1] + second[1],
        first=one,
        second=two,
        matching=Interval(mean, mean - math.hypot(*below) / 2, mean + math.hypot(*above) / 2),
        label_bias=Interval(bias, bias - math.hypot(below[0], above[1]), bias + math.hypot(above[0], below[1])),
        decided_by=_decide(p_content <= alpha, p_position <= alpha),
        p_position=p_position,
    )


def _is_told(codes_M: Codes) -> bool:
    """Return whether a share of these items has limits: one item, or several of more than one source."""
    return codes_M.size == 1 or np.unique(codes_M).size > 1


def _bound_share(values_M: Floats, codes_M: Codes, level: float) -> Interval:
    """Return a share of 0 and 1 with Wilson's limits, or Korn and Graubard's where items share sources."""
    if np.unique(codes_M).size == codes_M.size:
        return wilson_interval(int(values_M.sum()), values_M.size, level=level)
    return korn_graubard_interval(values_M, codes_M, level=level)


def _test_same(same_N: Any, codes_N: Codes, chance: float) -> float:
    """Return the p-value against a share of at most `chance`."""
    if np.unique(codes_N).size == same_N.size:
        return _tail_above(int(same_N.sum()), same_N.size, chance)
    return mean_test(same_N.astype(np.float64).tolist(), [str(code) for code in codes_N], chance).p_value


def _tail_above(successes: int, trials: int, chance: float = COIN) -> float:
    """Return the probability that chance, by itself a coin's, gives at least so many."""
    return float(bdtr(trials - successes, trials, 1 - chance))


def _decide(is_content: Any, is_position: Any) -> Decided:
    if is_content:
        return "content"
    return "position" if is_position else "undecided"
