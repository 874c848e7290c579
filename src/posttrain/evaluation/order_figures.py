"""Choice items of which a question stands in both orders of its options: the pairs, and figures beside the accuracy.

So an accuracy does not stand alone where it may owe to the place of an option or to the name of a label. Figures are
made of items without their texts, so that what tells orders apart are parts of their outcomes (`describe_order`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.metrics import CONSISTENCY, LABEL_BIAS, POSITION_BIAS
from posttrain.core.records import ItemResult
from posttrain.statistics.intervals import Interval
from posttrain.statistics.order_swaps import LabelSplit, OrderSwaps, compare_labels, compare_orders

RIGHT_PLACE = "right_place"
"""The part of a choice item that says where the right option stands, from 0."""
RIGHT_OPTION, CHOSEN_OPTION = "right_option", "chosen_option"
"""The parts that say which option is right, and which is chosen: numbers of the sorted texts, whatever their order."""

YES, NO = "Yes", "No"
_FIRST_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OrderPair:
    """A question in both orders: where its right option stands nearer the front, and where nearer the end."""

    early: ItemResult
    late: ItemResult

    @property
    def is_same(self) -> bool:
        """Whether the same option is chosen in both."""
        return self.early.outcome.parts[CHOSEN_OPTION] == self.late.outcome.parts[CHOSEN_OPTION]


def describe_order(choices: Sequence[str], right: int, chosen: int) -> dict[str, float]:
    """Return the parts of an outcome by which the two orders of a question are told.

    Example: of the options `("b", "a")` with the first right and the second chosen: `right_place=0`, `right_option=1`,
    `chosen_option=0`; with the options turned around and the same answer `right_place=1`, and the rest as before.
    """
    ranks = sorted(range(len(choices)), key=lambda place: choices[place])
    options = {RIGHT_OPTION: ranks.index(right), CHOSEN_OPTION: ranks.index(chosen)}
    return {RIGHT_PLACE: float(right), **{name: float(rank) for name, rank in options.items()}}


def find_order_pairs(items: Sequence[ItemResult]) -> list[OrderPair]:
    """Return the questions that stand in both orders, in the order of the items.

    Two items are one question where they are all of their cluster, and the same option is right in another place. A
    task of which some cluster holds anything else has clusters for another reason, and so no such question; items that
    are alone in their cluster are left out.
    """
    clusters: dict[str, list[ItemResult]] = {}
    for item in items:
        if item.outcome.is_counted and item.cluster_id:
            clusters.setdefault(item.cluster_id, []).append(item)
    pairs = []
    for cluster in clusters.values():
        if len(cluster) == 1:
            continue
        pair = _read_pair(cluster)
        if pair is None:
            return []
        pairs.append(pair)
    return pairs


def _read_pair(cluster: Sequence[ItemResult]) -> OrderPair | None:
    parts = [item.outcome.parts for item in cluster]
    if len(cluster) != 2 or not all(RIGHT_PLACE in found and RIGHT_OPTION in found for found in parts):
        return None
    if parts[0][RIGHT_OPTION] != parts[1][RIGHT_OPTION] or parts[0][RIGHT_PLACE] == parts[1][RIGHT_PLACE]:
        return None
    early, late = sorted(cluster, key=lambda item: item.outcome.parts[RIGHT_PLACE])
    return OrderPair(early, late)


def compare_item_orders(pairs: Sequence[OrderPair], *, alpha: float = 0.05) -> OrderSwaps | None:
    """Return what is owed to content and position, or None of fewer than two questions."""
    if len(pairs) < 2:
        return None
    return compare_orders(
        [pair.early.outcome.value for pair in pairs],
        [pair.late.outcome.value for pair in pairs],
        [pair.is_same for pair in pairs],
        alpha=alpha,
    )


def compare_item_labels(items: Sequence[ItemResult], *, alpha: float = 0.05) -> LabelSplit | None:
    """Return what is owed to the labels Yes and No, or None where these are not what every item is answered with.

    The labels are those that the rows give (`choices: {text: [Yes, No], label: [Yes, No]}`); a letter is none.
    """
    counts = {YES: [0, 0], NO: [0, 0]}
    for item in items:
        if not item.outcome.is_counted:
            continue
        if item.outcome.answer not in counts:
            return None
        is_matching = item.outcome.value == 1
        right = item.outcome.answer if is_matching else (NO if item.outcome.answer == YES else YES)
        counts[right][0] += is_matching
        counts[right][1] += 1
    (yes, num_yes), (no, num_no) = counts[YES], counts[NO]
    return compare_labels((yes, num_yes), (no, num_no), alpha=alpha) if num_yes and num_no else None


@dataclass(frozen=True, slots=True)
class WordSplit:
    """Questions that keep their option, where options begin with Yes and with No.

    `labels` is None where the matching option always begins with the same word, `only`, which `share` of the answers
    begin with: a policy that says that word to everything matches too.
    """

    num_questions: int
    labels: LabelSplit | None
    only: str | None
    share: float


def compare_option_words(pairs: Sequence[OrderPair], *, alpha: float = 0.05) -> WordSplit | None:
    """Return what is owed to the words Yes and No, of items with their texts; None where options begin otherwise.

    A question counts once, and where both orders have the same answer: what the position decides is told elsewhere.
    """
    counts = {YES: [0, 0], NO: [0, 0]}
    num_yes = 0
    for item in (pair.early for pair in pairs if pair.is_same):
        said, right = (_FIRST_WORD.match(text) for text in (item.text, item.reference))
        if said and right:
            word = right[1].capitalize()
            counts[word][0] += item.outcome.value == 1
            counts[word][1] += 1
            num_yes += said[1].capitalize() == YES
    (yes, all_yes), (no, all_no) = counts[YES], counts[NO]
    size = all_yes + all_no
    if not size:
        return None
    labels = compare_labels((yes, all_yes), (no, all_no), alpha=alpha) if all_yes and all_no else None
    only = None if labels is not None else YES if all_yes else NO
    return WordSplit(size, labels, only, (num_yes if only == YES else size - num_yes) / size)


def summarise_orders(task_name: str, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
    """Return what stands beside the accuracy of a task whose answers may owe to more than their content.

    They are `consistency` and `position_bias` of questions in both orders, else `label_bias` where every answer is
    labelled Yes or No; of any other task nothing.
    """
    pairs = find_order_pairs(items)
    orders = compare_item_orders(pairs)
    if orders is not None:
        return [
            _build(task_name, CONSISTENCY, orders.consistency, "wilson", len(pairs), 2 * len(pairs)),
            _build(task_name, POSITION_BIAS, orders.position_bias, "paired_score", len(pairs), 2 * len(pairs)),
        ]
    labels = compare_item_labels(items)
    if labels is None:
        return []
    size = labels.num_statements
    return [_build(task_name, LABEL_BIAS, labels.label_bias, "newcombe", size, size)]


# many parameters: the fields of one figure
def _build(
    task_name: str, name: str, interval: Interval, method: str, num_questions: int, num_items: int
) -> dict[str, Any]:
    rest = ("unparsed", "timed_out", "truncated", "errored", "not_applicable", "harness")
    return {
        "task": task_name,
        "name": name,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": num_questions,
        "clusters": num_questions,
        "method": method,
        "outcomes": {"scored": num_items, **dict.fromkeys(rest, 0)},
    }
