"""Choice items of which a question stands in both orders of its options: the pairs, and figures beside the accuracy.

So an accuracy does not stand alone where it may owe to the place of an option or to the name of a label. Figures are
made of items without their texts, so that what tells orders apart are parts of their outcomes (`describe_order`).
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.core.metrics import CONSISTENCY, LABEL_BIAS, POSITION_BIAS
from posttrain.core.records import ItemResult, Message
from posttrain.statistics.intervals import Interval
from posttrain.statistics.order_swaps import LabelSplit, OrderSwaps, compare_labels, compare_orders
from posttrain.statistics.pairing import cluster_name

RIGHT_PLACE = "right_place"
"""The part of a choice item that says where the right option stands, from 0."""
RIGHT_OPTION, CHOSEN_OPTION = "right_option", "chosen_option"
"""The parts that say which option is right, and which is chosen: numbers of the sorted texts, whatever their order."""
NUM_OPTIONS = "num_options"
"""The part that says among how many different options is chosen: a guesser keeps one of k in 1/k of the questions."""

MIN_PAIRED_FRACTION = 0.8
"""Below this share of clusters that hold a question in both orders a task is not asked in both."""
YES, NO = "Yes", "No"
_OPTION_MARK = re.compile(r"^[ \t]*(?:([A-Z])\.|\(([A-Z])\))[ \t]*", re.MULTILINE)
_CUE = re.compile(r"\n\s*Answer:?\s*$", re.IGNORECASE)
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


def describe_order(texts: Sequence[str], rights: Sequence[int], chosen: int) -> dict[str, float]:
    """Return the parts of an outcome by which the two orders of a question are told; none where several are right.

    Example: of the options `("b", "a")` with the first right and the second chosen: `right_place=0`, `right_option=1`,
    `chosen_option=0`, `num_options=2`; with the options turned around and the same answer `right_place=1`, and the rest
    as before.
    """
    if len(rights) != 1:
        return {}
    distinct = sorted({text.strip() for text in texts})
    right, said = (distinct.index(texts[place].strip()) for place in (rights[0], chosen))
    return {
        RIGHT_PLACE: float(rights[0]),
        RIGHT_OPTION: float(right),
        CHOSEN_OPTION: float(said),
        NUM_OPTIONS: float(len(distinct)),
    }


def read_option_texts(messages: Sequence[Message], choices: Sequence[str]) -> list[str]:
    """Return what the choices say: their own texts, or where they are letters what stands after these in the prompt.

    The options in a prompt are its last lines that begin with `A.`, `(B)` and so on, as many as there are choices.
    """
    listed = _list_options(messages)
    is_lettered = [choice.strip(" ().") for choice in choices] == list(string.ascii_uppercase[: len(choices)])
    return listed if is_lettered and len(listed) == len(choices) else list(choices)


def _list_options(messages: Sequence[Message]) -> list[str]:
    """Return the texts of the last options that a prompt lists from A on, none where letters are left out."""
    prompt = str(messages[-1].get("content") or "") if messages else ""
    marks = list(_OPTION_MARK.finditer(prompt))
    starts = [place for place, mark in enumerate(marks) if _letter(mark) == "A"]
    run = marks[starts[-1] :] if starts else []
    if not run or [_letter(mark) for mark in run] != list(string.ascii_uppercase[: len(run)]):
        return []
    ends = [mark.start() for mark in run[1:]] + [len(prompt)]
    return [_CUE.sub("", prompt[mark.end() : end]).strip() for mark, end in zip(run, ends, strict=True)]


def _letter(mark: re.Match[str]) -> str:
    return mark[1] or mark[2]


def find_order_pairs(items: Sequence[ItemResult]) -> list[OrderPair]:
    """Return the questions that stand in both orders, in the order of the items.

    Two items of a cluster are one question where the same option is right in another place; a question that stands
    there several times gives as many pairs. Where fewer than four of five clusters are such, they are clusters for
    another reason, and there is no pair; items that are alone in their cluster, or whose right option stands in the
    same place in both orders, are left out.
    """
    clusters: dict[str, list[ItemResult]] = {}
    for item in items:
        if item.outcome.is_counted and item.cluster_id:
            clusters.setdefault(item.cluster_id, []).append(item)
    several = [cluster for cluster in clusters.values() if len(cluster) > 1]
    found = [_read_pairs(cluster) for cluster in several]
    if sum(map(bool, found)) < MIN_PAIRED_FRACTION * len(several):
        return []
    return [pair for pairs in found for pair in pairs]


def _read_pairs(cluster: Sequence[ItemResult]) -> list[OrderPair]:
    parts = [item.outcome.parts for item in cluster]
    if not all({RIGHT_PLACE, RIGHT_OPTION, NUM_OPTIONS} <= one.keys() and one[NUM_OPTIONS] >= 2 for one in parts):
        return []
    if len({one[RIGHT_OPTION] for one in parts}) > 1 or any(item.outcome.value not in (0, 1) for item in cluster):
        return []
    places = sorted({one[RIGHT_PLACE] for one in parts})
    if len(places) != 2:
        return []
    early, late = ([item for item in cluster if item.outcome.parts[RIGHT_PLACE] == place] for place in places)
    return [OrderPair(*pair) for pair in zip(early, late, strict=True)] if len(early) == len(late) else []


def compare_item_orders(pairs: Sequence[OrderPair], *, alpha: float = 0.05) -> OrderSwaps | None:
    """Return what is owed to content and position, or None of fewer than two sources."""
    clusters = [cluster_name(pair.early) for pair in pairs]
    if len(set(clusters)) < 2:
        return None
    return compare_orders(
        [pair.early.outcome.value for pair in pairs],
        [pair.late.outcome.value for pair in pairs],
        [pair.is_same for pair in pairs],
        num_options_N=[pair.early.outcome.parts[NUM_OPTIONS] for pair in pairs],
        clusters_N=clusters,
        alpha=alpha,
    )


def compare_item_labels(items: Sequence[ItemResult], *, alpha: float = 0.05) -> LabelSplit | None:
    """Return what is owed to the labels Yes and No, or None where these are not what every item is answered with.

    The labels are those that the rows give (`choices: {text: [Yes, No], label: [Yes, No]}`); a letter is none. Of a
    source the first statement of either label counts, so that those that do are independent.
    """
    counts = {YES: [0, 0], NO: [0, 0]}
    counted: set[tuple[str, str]] = set()
    for item in items:
        if not item.outcome.is_counted:
            continue
        if item.outcome.answer not in counts:
            return None
        is_matching = item.outcome.value == 1
        right = item.outcome.answer if is_matching else (NO if item.outcome.answer == YES else YES)
        if (right, source := cluster_name(item)) not in counted:
            counted.add((right, source))
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

    A question counts once, the first of its source and of either word, and where both orders have the same answer: what
    the position decides is told elsewhere.
    """
    counts = {YES: [0, 0], NO: [0, 0]}
    counted: set[tuple[str, str]] = set()
    num_yes = 0
    for item in (pair.early for pair in pairs if pair.is_same):
        said, right = (_FIRST_WORD.match(text) for text in _read_texts(item))
        word = right[1].capitalize() if right else ""
        if said and (word, source := cluster_name(item)) not in counted and word:
            counted.add((word, source))
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


def _read_texts(item: ItemResult) -> tuple[str, str]:
    """Return what the chosen and the right option say, also where letters of options in the prompt were weighed."""
    texts = dict(zip(string.ascii_uppercase, _list_options(item.prompt), strict=False))
    said, right = (texts.get(text.strip(" ()."), text) for text in (item.text, item.reference))
    return said, right


def summarise_orders(task_name: str, items: Sequence[ItemResult]) -> list[dict[str, Any]]:
    """Return what stands beside the accuracy of a task whose answers may owe to more than their content.

    They are `consistency` and `position_bias` of questions in both orders, else `label_bias` where every answer is
    labelled Yes or No; of any other task nothing.
    """
    pairs = find_order_pairs(items)
    orders = compare_item_orders(pairs)
    if orders is not None:
        is_clustered = orders.num_clusters < len(pairs)
        sizes = (len(pairs), orders.num_clusters, 2 * len(pairs))
        return [
            _build(task_name, CONSISTENCY, orders.consistency, "korn_graubard" if is_clustered else "wilson", sizes),
            _build(task_name, POSITION_BIAS, orders.position_bias, "paired_score", sizes),
        ]
    labels = compare_item_labels(items)
    if labels is None:
        return []
    size = labels.num_statements
    return [_build(task_name, LABEL_BIAS, labels.label_bias, "newcombe", (size, size, size))]


def _build(task_name: str, name: str, interval: Interval, method: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Return one figure; `sizes` are its questions, their sources, and the items."""
    num_questions, num_clusters, num_items = sizes
    rest = ("unparsed", "timed_out", "truncated", "errored", "not_applicable", "harness")
    return {
        "task": task_name,
        "name": name,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": num_questions,
        "clusters": num_clusters,
        "method": method,
        "outcomes": {"scored": num_items, **dict.fromkeys(rest, 0)},
    }
