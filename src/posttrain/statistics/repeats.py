"""Metrics of several samples an item: pass@k, the majority's answer (cons@k), the best of k (best@k).

Each gives one value an item, so that everything made for items (pairs, intervals, gates) reads them too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from posttrain.core.errors import DataError
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, ItemResult, Outcome
from posttrain.statistics.pass_at_k import compute_best_of_k, compute_pass_at_k

_NAME = re.compile(r"(pass|cons|best)@([1-9]\d{0,5})")


class FoldError(DataError):
    """Too many problems that the harness left with too few samples."""


RIGHT = 1.0
"""A sample is right from this score on: pass@k counts no halves."""


def parse_repeated(name: str | None) -> tuple[str, int] | None:
    """Return `("pass", "cons" or "best", k)` of a name such as `pass@8`, None for any other metric."""
    match = _NAME.fullmatch(name or "")
    return (match[1], int(match[2])) if match else None


def fold_samples(items: Sequence[ItemResult], name: str) -> list[ItemResult]:
    """Return one item for each problem, whose value is pass@k, cons@k or best@k of its samples, in order.

    Samples that the harness failed on are left out; a problem left with fewer than k of them counts as the harness's
    failure. One of which no sample could be read keeps its failure's status and value. What does not apply to any
    sample does not apply.

    Args:
        items: All samples of one policy's evaluation of one task.
        name: `pass@k`, the unbiased estimate from all n samples (`pass_at_k`); `best@k`, the mean of the best score
            over all subsets of k; or `cons@k`, the score of the answer that most of the first k samples gave (`vote`).

    Raises:
        DataError: A problem has fewer than k samples, or faults of the harness leave over 1 % of them with fewer.
        ValueError: The name is of another kind.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1; Wang et al. 2022, "Self-Consistency Improves Chain of
    Thought Reasoning in Language Models" (arXiv 2203.11171), section 2.
    """
    kind = parse_repeated(name)
    if kind is None:
        raise ValueError(f"{name!r} is neither pass@k, cons@k nor best@k")
    samples: dict[str, list[ItemResult]] = {}
    for item in items:
        samples.setdefault(item.item_id, []).append(item)
    folded = [_fold(sorted(group, key=lambda item: item.sample_index), kind, name) for group in samples.values()]
    num_faults = sum(item.outcome.fault == "harness" for item in folded)
    if num_faults > MAX_HARNESS_FAULT_FRACTION * len(folded):
        raise FoldError(
            f"{name}: the harness failed on samples of {num_faults} of {len(folded)} problems, which have too few left",
            expected=f"at most {MAX_HARNESS_FAULT_FRACTION:.0%} of them, so that what is left out cannot decide",
            cure="mend the scorer or the sandbox and evaluate again, or ask for a smaller k",
        )
    return folded


def _fold(samples: list[ItemResult], kind: tuple[str, int], name: str) -> ItemResult:
    method, k = kind
    if len(samples) < k:
        raise DataError(
            f"{name} of {len(samples)} samples of item {samples[0].item_id!r}",
            expected=f"at least {k} samples of every item",
            cure=f"set num_samples of the task to {k} or more, or ask for a smaller k",
        )
    counted = [item for item in samples if item.outcome.is_counted]
    failed = [item for item in samples if item.outcome.fault == "harness"]
    if not counted and not failed:
        outcome = replace(samples[0].outcome, parts={})
    elif len(counted) < k:
        outcome = Outcome("errored", 0.0, why=(failed or samples)[0].outcome.why, fault="harness")
    elif method == "cons":
        outcome = vote([item.outcome for item in counted[:k]], [item.text for item in counted[:k]])
    else:
        outcome = _fold_all([item.outcome for item in counted], method, k)
    return replace(samples[0], sample_index=0, outcome=outcome)


def _fold_all(outcomes: Sequence[Outcome], method: str, k: int) -> Outcome:
    if not any(outcome.status == "scored" for outcome in outcomes):
        return replace(outcomes[0], parts={})
    if method == "best":
        values = [outcome.value for outcome in outcomes]
        return Outcome("scored", compute_best_of_k(values, k), why=f"{min(values):.3g} to {max(values):.3g}")
    num_right = sum(outcome.value >= RIGHT for outcome in outcomes)
    return Outcome("scored", compute_pass_at_k(len(outcomes), num_right, k), why=f"{num_right} of {len(outcomes)}")


def read_vote(outcome: Outcome, text: str) -> str | None:
    """Return what a sample votes for: its `answer`, its text where its scorer looks for none, None where not read."""
    if outcome.status != "scored":
        return None
    return outcome.answer if outcome.answer is not None else text.strip()


def vote(outcomes: Sequence[Outcome], texts: Sequence[str]) -> Outcome:
    """Return the outcome of the answer that most samples gave; ties share the score, as a fair draw would on average.

    What could not be read does not vote (`read_vote`); where nothing could, the first failure stands.

    Args:
        outcomes: At least one, all of one problem.
        texts: The completion of each.
    """
    read = [(read_vote(outcome, text), outcome.value) for outcome, text in zip(outcomes, texts, strict=True)]
    votes = [(answer, value) for answer, value in read if answer is not None]
    if not votes:
        return replace(outcomes[0], parts={})
    counts = Counter(answer for answer, _ in votes)
    most = max(counts.values())
    leading = [answer for answer, count in counts.items() if count == most]
    # One answer has one score; where a scorer disagrees with itself, its mean over the votes counts.
    scores = [sum(value for answer, value in votes if answer == name) / most for name in leading]
    why = f"{most} of {len(outcomes)} votes" + (f", {len(leading)} answers tie" if len(leading) > 1 else "")
    return Outcome("scored", sum(scores) / len(scores), why=why, answer=leading[0] if len(leading) == 1 else None)
