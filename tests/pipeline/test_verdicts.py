"""Verdicts of comparisons: their direction, what two tokenizers share, and that test and interval must agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.records import ItemResult, Outcome
from posttrain.evaluation.items import write_items
from posttrain.pipeline.comparing import compare_sides
from posttrain.pipeline.measured_sides import Side
from posttrain.reports.comparison import ComparedMetric, Comparison

NUM_ITEMS = 60


def make_side(folder: Path, name: str, outcome: Callable[[int], Outcome], metric: str = "correct", **card: Any) -> Side:
    """Write the items of one policy."""
    policy = hash_text(name)
    items = [ItemResult(f"p{n}", "", "task", 0, outcome(n), policy, text=str(n)) for n in range(NUM_ITEMS)]
    write_items(folder / policy / "held_out.jsonl", items)
    whole = {"task": "held_out", "task_hash": "task", "metric": metric, "parts": [], "template": "t", "settings": {}}
    return Side(name, policy, {"held_out": {**whole, "file": "held_out", **card}}, folder / policy)


def compare(folder: Path, a: Callable[[int], Outcome], b: Callable[[int], Outcome], **card: Any) -> Comparison:
    return compare_sides(make_side(folder, "a", a, **card), make_side(folder, "b", b, **card))


def find(comparison: Comparison, name: str) -> ComparedMetric:
    return next(metric for metric in comparison.metrics if metric.name == name)


def scored(value: float, **parts: float) -> Outcome:
    return Outcome("scored", value, parts=parts)


@pytest.mark.parametrize(
    ("metric", "verdict", "changed"),
    [
        ("correct", "better", (60, 0)),
        ("claimed", "worse", (0, 60)),
        ("refused", "higher", (60, 0)),
        ("my_own_score", "better", (60, 0)),
    ],
)
def test_a_verdict_is_of_the_direction_that_its_metric_declares(
    tmp_path: Path, metric: str, verdict: str, changed: tuple[int, int]
) -> None:
    found = find(compare(tmp_path, lambda n: scored(0.0), lambda n: scored(1.0), metric=metric), metric)
    assert (found.verdict, found.adjusted_verdict) == (verdict, verdict)
    assert (found.num_better, found.num_worse) == changed and found.difference == 1.0
    found = find(compare(tmp_path, lambda n: scored(1.0), lambda n: scored(0.0), metric=metric), metric)
    assert found.verdict == {"better": "worse", "worse": "better", "higher": "lower"}[verdict]


def test_a_part_of_no_declared_direction_is_higher_or_lower(tmp_path: Path) -> None:
    found = compare(tmp_path, lambda n: scored(1.0, words=0.0), lambda n: scored(1.0, words=1.0), parts=["words"])
    assert (find(found, "words").verdict, find(found, "correct").verdict) == ("higher", "undecided")


def test_no_verdict_is_given_where_the_test_and_the_interval_disagree(tmp_path: Path) -> None:
    """A small steady change: every sign is the same, and the interval of values in [0, 1] is too wide to exclude 0."""
    found = find(compare(tmp_path, lambda n: scored(0.5), lambda n: scored(0.5 + 0.001 * (1 + n % 3))), "correct")
    assert found.p_value is not None and found.p_value <= 0.05
    assert found.low is not None and found.high is not None and found.low <= 0 <= found.high
    assert (found.verdict, found.adjusted_verdict) == ("undecided", "undecided")
    assert "the interval does not exclude 0" in found.reason


def weighed(factor: float) -> Callable[[int], Outcome]:
    """Texts of 20 tokens and 80 bytes, at about `factor` nats a token."""

    def outcome(n: int) -> Outcome:
        nats = 20 * factor * (1 + 0.1 * (n % 5))
        return Outcome("scored", math.exp(-nats / 20), parts={"nats": nats, "tokens": 20.0, "bytes": 80.0})

    return outcome


def test_bits_per_byte_are_paired_as_ratios_and_less_is_better(tmp_path: Path) -> None:
    found = find(compare(tmp_path, weighed(2.0), weighed(1.5), metric="token_probability"), "bits_per_byte")
    mean = 1 + 0.1 * np.mean(np.arange(NUM_ITEMS) % 5)
    expected = 20 * (1.5 - 2.0) * mean / math.log(2) / 80
    assert found.difference == pytest.approx(expected)
    assert found.low is not None and found.high is not None and found.low < expected < found.high < 0
    assert (found.verdict, found.num_better, found.num_worse, found.unit) == ("better", 60, 0, "bits/byte")
    same = find(compare(tmp_path, weighed(2.0), weighed(2.0), metric="token_probability"), "bits_per_byte")
    assert (same.verdict, same.p_value, same.difference) == ("undecided", 1.0, 0.0)


def test_probabilities_of_tokens_are_unmeasured_where_tokenizers_differ_and_bits_per_byte_are_not(
    tmp_path: Path,
) -> None:
    a = make_side(tmp_path, "a", weighed(2.0), metric="token_probability", tokenizer="x", context_tokens=64)
    b = make_side(tmp_path, "b", weighed(1.5), metric="token_probability", tokenizer="y", context_tokens=128)
    found = compare_sides(a, b)
    by_token = find(found, "token_probability")
    assert (by_token.verdict, by_token.difference) == ("unmeasured", None) and "tokenizers" in by_token.reason
    assert find(found, "bits_per_byte").verdict == "better"
    assert any("64 tokens for A and 128 for B" in note for note in found.notes)
    assert json.dumps(found.to_json())


def test_items_that_lack_what_a_ratio_is_made_of_are_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'nats' of an item is None") as caught:
        compare(tmp_path, lambda n: scored(0.5), weighed(1.0), metric="token_probability")
    assert "measure the policy again" in caught.value.cure
    with pytest.raises(DataError, match="nats a token"):
        compare(
            tmp_path, lambda n: scored(0.0, nats=1e9, tokens=1.0, bytes=1.0), weighed(1.0), metric="token_probability"
        )
