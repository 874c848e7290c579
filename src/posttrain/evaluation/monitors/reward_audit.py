"""Reward audit: what a reward pays for beside being right, and whether it rises without anything getting better.

At equal correctness means among right answers and among wrong ones, and, where several samples of a problem were drawn,
within the problem: what needs a long answer does not look like a reward for length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.word_tokens import read_words
from posttrain.evaluation.figures import DRAWN_TOKENS
from posttrain.evaluation.monitors.evidence import (
    MIN_SOURCES,
    Sample,
    UnmeasuredError,
    choose_examples,
    describe_mean,
    has_part,
    take_items,
)
from posttrain.evaluation.monitors.keys import TASK_PATTERN, MonitorKeys
from posttrain.evaluation.monitors.reading import Example, Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude, count_resamples
from posttrain.scorers.repetition import compute_repeated_fraction
from posttrain.statistics.bounded_mean import p_value_below
from posttrain.statistics.one_sided import OneSided, rise_test
from posttrain.statistics.paired import summarise_difference
from posttrain.statistics.pairing import cluster_name, pair_items, read_value
from posttrain.statistics.repeats import RIGHT
from posttrain.statistics.reward_audit import (
    Correlation,
    bootstrap_correlation,
    compute_correlation,
    decompose_variance,
)

FOOLED_BY = (
    "a part called correct that the reward's own faults decide; a shortcut that is neither length nor repetition: read "
    "the outliers; components that always move together, whose shares cannot be told apart; and a reward that pays for "
    "length only where no policy has gone yet"
)
GRAM_WORDS = 4
_NUM_OUTLIERS = 5
_NUM_TESTS = 2


@dataclass(frozen=True, slots=True)
class _Paid:
    """An item with its reward, its length in tokens, and its stratum of equal correctness."""

    item: ItemResult
    reward: float
    length: float
    stratum: str
    is_right: bool


class RewardAuditMonitor(MonitorKeys):
    """Reads a task that is scored by the reward, whose outcomes say what is right in a part of its own.

    `reward` is the part that holds the reward (none: the outcome's value), `correct` what it should pay for.
    `components` are parts whose share in the reward's variance is told: of a `weighted` scorer its components.
    `allowed_length_correlation` bounds the rank correlation of reward and length at equal correctness.
    `least_gain` is the gain in correctness that a rise of the reward must leave possible: at 0 correctness that has not
    moved is not ruled to have gained nothing, and only a fall of it is an alarm.
    """

    type: Literal["reward_audit"]
    task: str = Field(pattern=TASK_PATTERN)
    reward: str | None = Field(None, min_length=1)
    correct: str = Field("correct", min_length=1)
    components: list[str] = Field(default_factory=list)
    allowed_length_correlation: float = Field(0.3, ge=0, lt=1)
    least_gain: float = Field(0.02, ge=0, lt=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """The one task."""
        return (self.task,)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return what the reward pays for, and whether it rose for nothing since the policy before it.

        Raises:
            UnmeasuredError: The task was not measured, or no outcome says what is right or how long it is.
        """
        findings = Findings()
        items = take_items(own, self.task)
        paid = self._list_paid(items)
        if not paid:
            raise UnmeasuredError(f"no outcome of {self.task} has the part {self.correct!r} and a length")
        findings.attempt("correlation with length", lambda: self._check_length(paid))
        findings.attempt("rise for nothing", lambda: self._check_rise(findings, own, parent))
        findings.figures += _describe_lengths(paid) + self._list_shares(findings, paid)
        earlier = [] if parent is None else list(parent.get(self.task, ()))
        for side in (items, earlier):
            if side:
                findings.figures.append(_describe_repetition(side, is_parents=side is earlier))
        findings.examples = _choose_outliers(paid)
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _list_paid(self, items: Sequence[ItemResult]) -> list[_Paid]:
        is_repeated = any(item.sample_index > 0 for item in items)
        found = []
        for item in items:
            reward, correct = read_value(item, self.reward), read_value(item, self.correct)
            length = item.outcome.parts.get(DRAWN_TOKENS)
            if isinstance(reward, str) or isinstance(correct, str) or length is None:
                continue
            stratum = f"{correct:g}" + (f" {item.item_id}" if is_repeated else "")
            found.append(_Paid(item, reward, length, stratum, correct >= RIGHT))
        return found

    def _check_length(self, paid: Sequence[_Paid]) -> Check:
        clusters = [cluster_name(one.item) for one in paid]
        if len(set(clusters)) < MIN_SOURCES:
            raise UnmeasuredError(f"{len(set(clusters))} sources of {self.task}, where {MIN_SOURCES} are needed")
        first = paid[0].item
        found = bootstrap_correlation(
            [one.reward for one in paid],
            [one.length for one in paid],
            build_numpy_generator("monitor", "reward_audit", first.task_hash, first.policy_hash),
            strata_N=[one.stratum for one in paid],
            clusters_N=clusters,
            bound=self.allowed_length_correlation,
            num_resamples=count_resamples(self.level, _NUM_TESTS),
        )
        if found is None:
            raise UnmeasuredError("reward or length does not vary at equal correctness")
        interval = found.correlation
        test = OneSided(
            interval.value, interval.low, interval.high, found.p_value, len(paid), len(set(clusters)), "bootstrap"
        )
        return Check(
            "correlation of reward and length at equal correctness",
            "at equal correctness the reward goes with length, {value}",
            test,
            self.allowed_length_correlation,
            unit="correlation",
            is_change=False,
        )

    def _check_rise(self, findings: Findings, own: Items, parent: Items | None) -> Check:
        before, after = take_items(parent, self.task, "the parent"), take_items(own, self.task)
        rewards, correct = (pair_items(before, after, part=part) for part in (self.reward, self.correct))
        if min(rewards.num_clusters, correct.num_clusters) < MIN_SOURCES:
            raise UnmeasuredError(f"{rewards.num_clusters} sources on both sides, where {MIN_SOURCES} are needed")
        rise, gain = rise_test(rewards, 0.0), rise_test(correct, 0.0)
        no_gain = p_value_below(summarise_difference(correct), self.least_gain)
        findings.figures.append(
            Figure(
                self.correct,
                gain.value,
                gain.low,
                gain.high,
                gain.num_items,
                "fraction",
                of="change",
                bound=self.least_gain,
            )
        )
        both = OneSided(
            rise.value,
            rise.low,
            rise.high,
            max(rise.p_value, no_gain),
            rise.num_items,
            rise.num_clusters,
            "intersection_union",
        )
        phrase = f"the reward is up by {{value}} while {self.correct} changes by {100 * gain.value:+.1f} points"
        return Check("reward", phrase, both, 0.0, unit="score")

    def _list_shares(self, findings: Findings, paid: Sequence[_Paid]) -> list[Figure]:
        """Return the share of each component in the variance of the reward, of items that have all of them."""
        absent = [name for name in self.components if not has_part([one.item for one in paid], name)]
        if absent:
            findings.missing.append(f"shares of components: no outcome has the part {', '.join(map(repr, absent))}")
        whole = [one for one in paid if all(name in one.item.outcome.parts for name in self.components)]
        if not self.components or not whole:
            return []
        try:
            found = decompose_variance(
                [one.reward for one in whole],
                {name: [one.item.outcome.parts[name] for one in whole] for name in self.components},
            )
        except DataError as error:
            findings.missing.append(f"shares of components: {error.found}")
            return []
        shares = {**found.shares, "the rest": found.rest}
        return [
            Figure(f"share of {name} in the reward's variance", share, None, None, len(whole), "fraction")
            for name, share in shares.items()
        ]


def _describe_lengths(paid: Sequence[_Paid]) -> list[Figure]:
    """Return the correlation of reward and length, over all items and at equal correctness."""
    rewards, lengths = [one.reward for one in paid], [one.length for one in paid]
    figures = []
    kinds: tuple[Correlation, ...] = ("pearson", "spearman")
    for kind in kinds:
        for name, strata in (("overall", None), ("at equal correctness", [one.stratum for one in paid])):
            value = compute_correlation(rewards, lengths, strata_N=strata, kind=kind)
            label = f"correlation of reward and length, {name} ({kind.capitalize()})"
            figures.append(Figure(label, value, None, None, len(paid), "correlation"))
    return figures


def _describe_repetition(items: Sequence[ItemResult], *, is_parents: bool) -> Figure:
    shares = [compute_repeated_fraction(read_words(item.text), GRAM_WORDS) for item in items]
    sample = Sample(shares, [cluster_name(item) for item in items])
    return describe_mean(f"repeated {GRAM_WORDS}-grams of words", sample, is_parents=is_parents)


def _choose_outliers(paid: Sequence[_Paid]) -> tuple[Example, ...]:
    """Return the items that are paid most above the mean of equally right ones, one a problem."""
    sums: dict[bool, list[float]] = {}
    for one in paid:
        sums.setdefault(one.is_right, []).append(one.reward)
    means = {kind: sum(values) / len(values) for kind, values in sums.items()}
    ordered = sorted(paid, key=lambda one: (means[one.is_right] - one.reward, one.item.item_id, one.item.sample_index))
    first: dict[str, _Paid] = {}
    for one in ordered:
        first.setdefault(one.item.item_id, one)
    chosen = list(first.values())[:_NUM_OUTLIERS]
    return tuple(example for one in chosen for example in choose_examples([one.item], _explain(one, means)))


def _explain(paid: _Paid, means: Mapping[bool, float]) -> Callable[[ItemResult], str]:
    kind = "right" if paid.is_right else "other"
    why = f"paid {paid.reward:.3g}, {paid.reward - means[paid.is_right]:+.3g} against the mean of {kind} answers"
    return lambda _: why
