"""Position bias: whether choices are answered by where an option stands, or by what a label is called.

Of a task whose questions stand in both orders it compares the answers of each question; of statements with the right
answers Yes and No it asks whether one label is said to both kinds. Where the position decides more than the content,
what the policy matches is not measured, and the figure has no value.

| status | orders | labels |
| --- | --- | --- |
| `alarm` | fewer questions than a guesser's keep their option | one label is likelier to both kinds of statement |
| `silent` | more do | both kinds match, or fail, more often than not |
| `unmeasured` | neither can be told from guessing | the same |

A guesser among k options keeps 1/k. Each is a one-sided test at `level` (`statistics.order_swaps`), exact where every
question is of a source of its own, by source where not, so that guessing raises the alarm at most that often. A policy
that says Yes to everything keeps its option too: where most options begin with Yes or No, the labels are held against
it as well, and where what matches always begins with the same word the reading says so, since nothing can tell then.
What fools it: a policy that is biased and knows the answers too is consistent on the questions it is sure of; its bias
then shows in the figure alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.evidence import read_sample, take_items
from posttrain.evaluation.monitors.keys import TASK_PATTERN, MonitorKeys
from posttrain.evaluation.monitors.reading import Example, Figure, Items, Reading, Status
from posttrain.evaluation.order_figures import (
    OrderPair,
    WordSplit,
    compare_item_labels,
    compare_item_orders,
    compare_option_words,
    find_order_pairs,
)
from posttrain.statistics.intervals import Interval
from posttrain.statistics.order_swaps import COIN, Decided, LabelSplit, OrderSwaps

_FOOLED_BY = "a policy that is biased and consistent where it is sure: the bias shows in its figure alone"
_STATUS: dict[Decided, Status] = {"content": "silent", "position": "alarm", "undecided": "unmeasured"}
_MAX_EXAMPLES = 3


class PositionBiasMonitor(MonitorKeys):
    """Reads the items of one choice task."""

    type: Literal["position_bias"]
    task: str = Field(pattern=TASK_PATTERN)

    @property
    def tasks_read(self) -> Sequence[str]:
        """The one task."""
        return (self.task,)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return what decides the policy's answers: content, position, or it cannot be told.

        Raises:
            UnmeasuredError: The task was not measured, the harness failed on too many, or sources are too few.
        """
        items = take_items(own, self.task)
        pairs = find_order_pairs(items)
        what = "questions in both orders" if pairs else f"items of {self.task}"
        read_sample([pair.early for pair in pairs] or items, lambda item: item.outcome.value).check(what)
        orders = compare_item_orders(pairs, alpha=self.level)
        if orders is not None:
            return self._read_orders(orders, pairs, compare_option_words(pairs, alpha=self.level))
        labels = compare_item_labels(items, alpha=self.level)
        if labels is not None:
            return self._read_labels(labels)
        why = "no question of the task stands in both orders, and its right answers are not Yes and No"
        return Reading(self.label, (self.task,), "unmeasured", why, level=self.level, fooled_by=_FOOLED_BY)

    def _read_orders(self, orders: OrderSwaps, pairs: Sequence[OrderPair], words: WordSplit | None) -> Reading:
        kept, size = orders.consistency.value, orders.num_questions
        labels = words.labels if words is not None else None
        is_about_words = words is not None and 2 * words.num_questions > sum(pair.is_same for pair in pairs)
        decided_by = orders.decided_by
        if decided_by == "content" and labels is not None and is_about_words:
            decided_by = "position" if labels.decided_by == "position" else "content"
        is_measured = decided_by == "content"
        why = {
            "content": f"the same option is chosen in both orders of {kept:.0%} of {size:,} questions",
            "position": f"the position decides: the same option is chosen in both orders of only {kept:.0%} of "
            f"{size:,} questions, where guessing keeps {orders.chance:.0%}, so that what the policy matches is "
            "not measured",
            "undecided": f"the same option is chosen in both orders of {kept:.0%} of {size:,} questions, which cannot "
            f"be told from guessing, {orders.chance:.0%}: what the policy matches is not measured",
        }[orders.decided_by]
        if labels is not None and not is_measured and orders.decided_by == "content":
            why += f", but the word decides: {_say_labels(labels)}, so that what the policy matches is not measured"
        elif words is not None and labels is None and is_measured and is_about_words:
            why += f"; what matches always begins with {words.only}, as {words.share:.0%} of all answers do"
        figures = [
            _build_figure("share_matching", orders.matching, size, is_measured=is_measured),
            _build_figure("consistency", orders.consistency, size, bound=orders.chance),
            _build_figure("position_bias", orders.position_bias, size),
        ]
        if orders.matching_if_consistent is not None:
            num_same = sum(pair.is_same for pair in pairs)
            figures.append(_build_figure("share_matching_if_consistent", orders.matching_if_consistent, num_same))
        if words is not None and labels is not None:
            figures.append(_build_figure("label_bias", labels.label_bias, words.num_questions))
        moved = [pair for pair in pairs if not pair.is_same]
        examples = [_build_example(item) for pair in moved[:_MAX_EXAMPLES] for item in (pair.early, pair.late)]
        return self._build(decided_by, why, figures, examples)

    def _read_labels(self, labels: LabelSplit) -> Reading:
        size, shown = labels.num_statements, _say_labels(labels)
        why = {
            "content": f"answers follow the statements: {shown}",
            "position": f"the label decides: {shown}, so that what the policy matches is not measured",
            "undecided": f"whether labels or statements decide cannot be told: {shown}",
        }[labels.decided_by]
        figures = [
            _build_figure("share_matching", labels.matching, size, is_measured=labels.decided_by != "position"),
            _build_figure("label_bias", labels.label_bias, size),
            _build_figure("share_matching_yes", labels.first, size, bound=COIN),
            _build_figure("share_matching_no", labels.second, size, bound=COIN),
        ]
        return self._build(labels.decided_by, why, figures, [])

    def _build(self, decided_by: Decided, why: str, figures: Sequence[Figure], examples: Sequence[Example]) -> Reading:
        return Reading(
            self.label,
            (self.task,),
            _STATUS[decided_by],
            why,
            figures=tuple(figures),
            level=self.level,
            fooled_by=_FOOLED_BY,
            examples=tuple(examples),
        )


def _say_labels(labels: LabelSplit) -> str:
    yes, no = labels.first.value, labels.second.value
    return f"{yes:.0%} match where that is Yes and {no:.0%} where it is No, of {labels.num_statements:,}"


def _build_figure(
    name: str, interval: Interval, size: int, *, is_measured: bool = True, bound: float | None = None
) -> Figure:
    if not is_measured:
        return Figure(name, None, None, None, size, "fraction", bound=bound)
    return Figure(name, interval.value, interval.low, interval.high, size, "fraction", bound=bound)


def _build_example(item: ItemResult) -> Example:
    prompt = str(item.prompt[-1].get("content") or "") if item.prompt else ""
    where = f"answered {item.outcome.answer}: {item.text!r}, and another option in the other order"
    return Example(item.item_id, prompt, item.text, where)
