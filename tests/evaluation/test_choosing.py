"""Which rows a smaller choice holds, and the limits that figures keep to."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from posttrain.core.hashing import hash_text
from posttrain.core.records import ItemResult, Message, Outcome, Problem
from posttrain.evaluation.figures import summarise_items
from posttrain.evaluation.runner import choose_problems


def test_a_choice_of_rows_keeps_pairs_together_and_is_part_of_every_larger_one() -> None:
    """Pairs of both orders stay whole; of ten rows of one template some are taken; rows alone are chosen as ever."""
    prompt: list[Message] = [{"role": "user", "content": "?"}]
    pairs = [Problem(f"r{n}", prompt, {}, cluster_id=f"c{n // 2}") for n in range(40)]
    chosen = [choose_problems("t", "hash", pairs, first).problems for first in range(2, 41, 2)]
    for problems in chosen:
        assert set(Counter(one.cluster_id for one in problems).values()) == {2}
    names = [{one.problem_id for one in problems} for problems in chosen]
    assert all(small < large for small, large in itertools.pairwise(names))
    singles = [replace(one, cluster_id="") for one in pairs]
    templates = [replace(one, cluster_id=f"c{n // 10}") for n, one in enumerate(pairs)]
    by_hash = sorted(sorted((one.problem_id for one in pairs), key=lambda name: hash_text("hash", name))[:6])
    for problems in (singles, templates):
        assert sorted(one.problem_id for one in choose_problems("t", "hash", problems, 6).problems) == by_hash


def test_an_interval_stays_within_what_its_metric_can_be() -> None:
    """Nine of ten sources say 1 and one -1: the mean 0.8 with a cluster-robust interval that would end above 1."""
    parts = [{"bias_ambiguous": -1.0 if source == 9 else 1.0} for source in range(10) for _ in range(2)]
    items = [
        ItemResult(str(n), str(n // 2), "t", 0, Outcome("scored", 1.0, parts=part), "p") for n, part in enumerate(parts)
    ]
    figures = summarise_items("t", "accuracy", items, ["bias_ambiguous"])[-1]
    assert (figures["value"], figures["high"]) == (pytest.approx(0.8), 1.0)
