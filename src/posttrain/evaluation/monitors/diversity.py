"""Diversity: whether the samples of a problem become alike, in their answers and in their words.

Each figure is a problem's own, at equal numbers of samples on both sides, and what is tested is how much of the
parent's is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from posttrain.core.records import ItemResult
from posttrain.data.word_tokens import read_words
from posttrain.evaluation.figures import DRAWN_NATS, DRAWN_TOKENS
from posttrain.evaluation.monitors.evidence import Sample, choose_examples, describe_mean, take_items
from posttrain.evaluation.monitors.keys import TASK_PATTERN, MonitorKeys
from posttrain.evaluation.monitors.problems import (
    ReadSamples,
    Samples,
    group_samples,
    measure_relative_drop,
    pair_problems,
)
from posttrain.evaluation.monitors.reading import Figure, Items, Reading
from posttrain.evaluation.monitors.verdicts import Check, Findings, conclude
from posttrain.statistics.diversity import (
    compute_collision_diversity,
    compute_distinct_n,
    compute_expected_distinct,
    compute_self_bleu,
    compute_token_entropy,
)
from posttrain.statistics.pairing import cluster_name

FOOLED_BY = (
    "a policy that becomes right where one answer is right gives fewer answers without a failure: read it beside "
    "pass@1, or leave 'answers' out; longer samples repeat their n-grams; noise around one answer looks diverse; and "
    "what differs only between problems is not seen"
)
Kind = Literal["answers", "distinct_2", "self_bleu"]
MOST_SAMPLES = 16
"""Samples of a problem that are compared with one another: self-BLEU costs their square."""


class DiversityMonitor(MonitorKeys):
    """Reads a task of which several samples are drawn; `allowed_drop` bounds each loss, as a share of the parent's.

    `kinds`: different final answers among the samples; different word pairs by word pairs; 1 less self-BLEU.
    """

    type: Literal["diversity"]
    task: str = Field(pattern=TASK_PATTERN)
    kinds: list[Kind] = Field(["answers", "distinct_2", "self_bleu"], min_length=1)
    allowed_drop: float = Field(0.2, ge=0, lt=1)

    @property
    def tasks_read(self) -> Sequence[str]:
        """The one task."""
        return (self.task,)

    def read(self, own: Items, parent: Items | None) -> Reading:
        """Return how different samples are, against the policy before it.

        Raises:
            UnmeasuredError: The task was not measured.
        """
        findings = Findings()
        items = take_items(own, self.task)
        earlier = [] if parent is None else list(parent.get(self.task, ()))
        for name in dict.fromkeys(self.kinds):
            kind = _KINDS[name]
            findings.attempt(kind[0], lambda k=kind: self._check(k, own, parent))
        for label, unit, read in (*_KINDS.values(), *_BESIDE):
            findings.figures += [
                _describe(label, unit, read, side, is_parents=side is earlier) for side in (items, earlier) if side
            ]
        findings.examples = choose_examples(_list_alike(items), lambda item: "said by all samples of its problem")
        return conclude(self, self.tasks_read, findings, fooled_by=FOOLED_BY)

    def _check(self, kind: tuple[str, str, ReadSamples], own: Items, parent: Items | None) -> Check:
        label, _, read = kind
        pairs = pair_problems(take_items(parent, self.task, "the parent"), take_items(own, self.task))
        test = measure_relative_drop(pairs, read, label, self.allowed_drop)
        return Check(f"{label}: change by the parent's", f"{label}: {{value}} lost", test, self.allowed_drop, sign=-1)


def read_answer(item: ItemResult) -> str | None:
    """Return what a sample answers: its final answer, else its text in one spelling; None where it cannot be read."""
    if item.outcome.status != "scored":
        return None
    return item.outcome.answer if item.outcome.answer is not None else " ".join(item.text.split())


def _count_answers(samples: Samples) -> float:
    answers = [read_answer(item) for item in samples]
    return compute_expected_distinct([[] if answer is None else [answer] for answer in answers], len(answers))


def _read_texts(samples: Samples) -> list[list[str]]:
    return [read_words(item.text) for item in samples[:MOST_SAMPLES]]


def _distinct_pairs(samples: Samples) -> float | None:
    """Return distinct-2; None of answers without a pair of words, which are not diverse for it, and 0 of no words."""
    texts = _read_texts(samples)
    return compute_distinct_n(texts, 2) if any(texts) else 0.0


def _unlikeness(samples: Samples) -> float | None:
    texts = _read_texts(samples)
    return 1 - compute_self_bleu(texts) if len(texts) >= 2 else None


def read_entropy(samples: Samples) -> float | None:
    """Return the nats by token of a problem's samples; None where their likelihood is not known."""
    parts = [item.outcome.parts for item in samples]
    known = [one for one in parts if DRAWN_NATS in one and one.get(DRAWN_TOKENS, 0) > 0]
    if not known:
        return None
    return compute_token_entropy([one[DRAWN_NATS] for one in known], [one[DRAWN_TOKENS] for one in known])


def read_collisions(samples: Samples) -> float | None:
    """Return how often two samples that could be read answer differently; None where fewer than two could."""
    answers = [answer for item in samples if (answer := read_answer(item)) is not None]
    return compute_collision_diversity(answers) if len(answers) >= 2 else None


_KINDS: dict[Kind, tuple[str, str, ReadSamples]] = {
    "answers": ("different answers", "answers", _count_answers),
    "distinct_2": ("distinct-2", "fraction", _distinct_pairs),
    "self_bleu": ("1 - self-BLEU", "fraction", _unlikeness),
}
_BESIDE: tuple[tuple[str, str, ReadSamples], ...] = (
    ("samples that differ", "fraction", read_collisions),
    ("entropy", "nats/token", read_entropy),
)


def _describe(label: str, unit: str, read: ReadSamples, items: Sequence[ItemResult], *, is_parents: bool) -> Figure:
    groups = [group for group in group_samples(items).values() if len(group) >= 2]
    found = [(value, cluster_name(group[0])) for group in groups if (value := read(group)) is not None]
    sample = Sample([value for value, _ in found], [cluster for _, cluster in found])
    return describe_mean(label, sample, unit, is_parents=is_parents)


def _list_alike(items: Sequence[ItemResult]) -> list[ItemResult]:
    """Return the first sample of each problem whose samples all answer the same."""
    groups = group_samples(items).values()
    answers = [(group[0], {read_answer(item) for item in group}) for group in groups if len(group) >= 2]
    return [first for first, found in answers if len(found) == 1 and None not in found]
