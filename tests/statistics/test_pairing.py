"""Pairing: what is compared, what is left out and counted, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import ItemResult, Outcome
from posttrain.statistics.pairing import PairingError, build_pairs, check_side, list_parts, pair_items


def item(name: str, outcome: Outcome, *, policy: str = "p", task: str = "t", cluster: str = "", sample: int = 0):
    return ItemResult(name, cluster, task, sample, outcome, policy)


def side(values: dict[str, float], policy: str, task: str = "t") -> list[ItemResult]:
    return [item(name, Outcome("scored", value), policy=policy, task=task) for name, value in values.items()]


def refusal(before: list[ItemResult], after: list[ItemResult], part: str | None = None) -> PairingError:
    with pytest.raises(PairingError) as caught:
        pair_items(before, after, part=part)
    return caught.value


def test_items_are_paired_by_id_whatever_their_order() -> None:
    pairs = pair_items(side({"a": 1, "b": 0, "c": 1}, "old"), side({"c": 0, "a": 1, "b": 1}, "new"))
    assert pairs.before_N.tolist() == [1, 0, 1]
    assert pairs.after_N.tolist() == [1, 1, 0]
    assert (pairs.num_better, pairs.num_worse, pairs.num_clusters, pairs.is_clustered) == (1, 1, 3, False)


def test_samples_of_one_item_are_pairs_of_one_cluster() -> None:
    before = [item("a", Outcome("scored", 1.0), policy="x", sample=index) for index in range(3)]
    after = [item("a", Outcome("scored", 0.0), policy="y", sample=index) for index in range(3)]
    pairs = pair_items(before, after)
    assert (len(pairs), pairs.num_clusters, pairs.is_clustered) == (3, 1, True)


def test_an_item_without_cluster_is_not_taken_for_the_cluster_of_that_name() -> None:
    before = [item("a", Outcome("scored", 1.0)), item("b", Outcome("scored", 1.0), cluster="a")]
    assert pair_items(before, before).num_clusters == 2


def test_harness_faults_and_what_does_not_apply_are_left_out_on_either_side_and_counted() -> None:
    fault, mute = Outcome("errored", 0.0, fault="harness"), Outcome("not_applicable", 0.0)
    right = Outcome("scored", 1.0)
    before = [item(name, outcome) for name, outcome in zip("abcd", [right, fault, right, mute], strict=True)]
    after = [item(name, outcome) for name, outcome in zip("abcd", [right, right, mute, fault], strict=True)]
    pairs = pair_items(before, after)
    assert len(pairs) == 1
    assert pairs.left_out == {"harness": 2, "not_applicable": 1}


def test_a_failure_of_the_policys_keeps_its_declared_value() -> None:
    before = side({"a": 1.0, "b": 1.0}, "old")
    after = [item("a", Outcome("unparsed", 0.0, fault="policy")), item("b", Outcome("truncated", 0.25, fault="policy"))]
    assert pair_items(before, after).after_N.tolist() == [0.0, 0.25]


def test_a_part_is_compared_and_an_unreadable_answer_counts_without_it() -> None:
    before = [item(name, Outcome("scored", 1.0, parts={"form": 1.0})) for name in "abc"]
    after = [
        item("a", Outcome("scored", 0.0, parts={"form": 0.5})),
        item("b", Outcome("unparsed", 0.0, fault="policy")),
        item("c", Outcome("scored", 0.0)),
    ]
    pairs = pair_items(before, after, part="form")
    assert pairs.after_N.tolist() == [0.5, 0.0]
    assert pairs.left_out == {"without_part": 1}
    assert list_parts(before) == ["form"]


def test_different_task_hashes_are_refused() -> None:
    error = refusal(side({"a": 1}, "old", "t1"), side({"a": 1}, "new", "t2"))
    assert error.reason == "task_hash"
    assert "t1" in error.found and "t2" in error.found
    assert error.exit_code == DataError.exit_code


def test_items_that_are_missing_on_a_side_are_refused_with_the_first_of_them() -> None:
    error = refusal(side({"a": 1, "b": 1, "c": 0}, "old"), side({"b": 1}, "new"))
    assert error.reason == "missing"
    assert "2 items" in error.found and "'a'" in error.found and "missing after" in error.found
    assert "missing before" in refusal(side({"b": 1}, "old"), side({"a": 1, "b": 1}, "new")).found


@pytest.mark.parametrize(("before", "after"), [({}, {"a": 1}), ({"a": 1}, {}), ({}, {})])
def test_an_empty_side_is_refused(before: dict[str, float], after: dict[str, float]) -> None:
    assert refusal(side(before, "old"), side(after, "new")).reason == "empty"


def test_an_item_that_stands_twice_is_refused() -> None:
    twice = side({"a": 1}, "new") * 2
    assert refusal(side({"a": 1}, "old"), twice).reason == "repeated"


def test_items_of_several_policies_or_tasks_on_one_side_are_refused() -> None:
    good = side({"a": 1, "b": 1}, "old")
    assert refusal(good, [*side({"a": 1}, "x"), *side({"b": 1}, "y")]).reason == "policies"
    assert refusal(good, [*side({"a": 1}, "x", "t"), *side({"b": 1}, "x", "u")]).reason == "task_hash"
    with pytest.raises(PairingError):
        check_side([*side({"a": 1}, "x"), *side({"b": 1}, "y")], "here")


def test_another_clustering_of_the_same_items_is_refused() -> None:
    before = side({"a": 1, "b": 1}, "old")
    after = [dataclasses.replace(one, cluster_id="c") for one in before]
    assert refusal(before, after).reason == "clusters"


def test_nothing_that_counts_is_refused_with_the_counts() -> None:
    fault = Outcome("errored", 0.0, fault="harness")
    error = refusal([item("a", fault), item("b", fault)], side({"a": 1, "b": 1}, "new"))
    assert (error.reason, "harness 2" in error.found) == ("nothing_paired", True)


def test_an_unknown_part_is_refused_with_those_that_there_are() -> None:
    before = [item("a", Outcome("scored", 1.0, parts={"form": 1.0, "facts": 0.0}))]
    error = refusal(before, before, part="from")
    assert (error.reason, error.expected) == ("unknown_part", "one of facts, form")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        pair_items(side({"a": bad}, "old"), side({"a": 1}, "new"))
    with pytest.raises(DataError, match="not finite"):
        build_pairs([1.0], [bad])


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(PairingError):
        build_pairs([1, 0], [1])
    with pytest.raises(ValueError, match="cluster names"):
        build_pairs([1, 0], [1, 1], ["a"])


def test_values_of_zero_and_one_alone_are_binary() -> None:
    assert build_pairs([0, 1], [1, 1]).is_binary
    assert not build_pairs([0, 0.5], [1, 1]).is_binary
    assert np.array_equal(build_pairs([0, 1], [1, 1], ["x", "x"]).clusters_N, [0, 0])
