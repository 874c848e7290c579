"""The matrix: values by stage, what became of them, what gates decided on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.core.hashing import hash_text
from posttrain.reports.changes import Measured, compare_measured
from posttrain.reports.columns import list_columns
from posttrain.reports.matrix import Matrix, MatrixRow, build_matrix
from tests.reports.made_up_items import files_of, measure, write_table
from tests.reports.made_up_run import identity, make_run

EARLIER, LATER = hash_text("artifact", "earlier"), hash_text("artifact", "later")


def rows_of(matrix: Matrix) -> list[MatrixRow]:
    return [*matrix.objectives, *matrix.others]


def row_of(*metrics: dict[str, Any], **run: Any) -> MatrixRow:
    return rows_of(build_matrix(files_of({"metrics": list(metrics), **run})))[0]


def test_columns_follow_the_run_and_a_change_is_taken_from_the_stage_before() -> None:
    run = {
        "stages": [{"name": "sft"}, {"name": "rl"}, {"name": "later"}],
        "metrics": [measure("base", 0.2, 0.1, 0.3), measure("rl", 0.25, 0.2, 0.4), measure("sft", 0.6, 0.5, 0.7)],
    }
    matrix = build_matrix(files_of(run))
    assert [column.label for column in matrix.columns] == ["base", "sft", "rl"]
    row = rows_of(matrix)[0]
    base, sft, later = [cell for cell in row.cells if cell]
    assert [cell.value for cell in (base, sft, later)] == ["20.0\u00a0%", "60.0\u00a0%", "25.0\u00a0%"]
    assert base.change is None and sft.change is not None and later.change is not None and row.whole is not None
    assert (sft.change.amount, sft.change.word, sft.change.sign) == ("+40.0", "improved", "▲")
    assert (later.change.amount, later.change.word) == ("−35.0", "worse")
    assert (row.whole.amount, row.whole.word, row.whole.evidence) == ("+5.0", "undecided", "the two intervals overlap")


@pytest.mark.parametrize(
    ("name", "before", "after", "word", "amount"),
    [
        ("exact_match", 0.5, 0.3, "worse", "−20.0"),
        ("validation/loss", 2.0, 1.5, "improved", "−0.500"),
        ("validation/loss", 1.5, 2.0, "worse", "+0.500"),
        ("pass@8", 0.3, 0.5, "improved", "+20.0"),
        ("undeclared", 1.0, 3.0, "improved", "+2.000"),
    ],
)
def test_the_word_for_a_change_follows_what_is_better_for_the_metric(
    name: str, before: float, after: float, word: str, amount: str
) -> None:
    """A task's first metric is its score, which is better higher where nothing else is declared."""
    ends = [(value - 0.01, value + 0.01) for value in (before, after)]
    row = row_of(measure("base", before, *ends[0], name=name), measure("sft", after, *ends[1], name=name))
    assert row.whole is not None
    assert (row.whole.word, row.whole.amount) == (word, amount)


def test_a_part_without_a_declared_direction_is_higher_or_lower_and_neither_good_nor_bad() -> None:
    metrics = [measure("base", 0.5, 0.4, 0.6), measure("sft", 0.5, 0.4, 0.6)]
    metrics += [measure("base", 0.5, 0.4, 0.6, "shouted"), measure("sft", 0.1, 0.0, 0.2, "shouted")]
    row = rows_of(build_matrix(files_of({"metrics": metrics})))[1]
    assert row.whole is not None and (row.whole.word, row.whole.style) == ("lower", "level")


def test_pairs_decide_what_two_intervals_cannot(tmp_path: Path) -> None:
    """200 pairs, 12 better and none worse: the intervals of 50 % and 56 % overlap, the difference is above 0."""
    before = write_table(tmp_path / "a.jsonl", [1.0] * 100 + [0.0] * 100)
    after = write_table(tmp_path / "b.jsonl", [1.0] * 112 + [0.0] * 88)
    sides = [
        Measured(measure(stage, value, value - 0.07, value + 0.07), table, policy)
        for stage, value, table, policy in (("base", 0.5, before, EARLIER), ("sft", 0.56, after, LATER))
    ]
    paired = compare_measured(*sides, "exact_match", is_main=True)
    assert paired is not None and paired.interval is not None
    assert (paired.word, paired.amount) == ("improved", "+6.0")
    assert 0 < paired.interval[0] < 0.06 < paired.interval[1]
    assert paired.evidence == "200 pairs, 12 higher, 0 lower"
    bare = [Measured(side.entry, None, side.policy) for side in sides]
    alone = compare_measured(*bare, "exact_match", is_main=True)
    assert alone is not None and (alone.word, alone.limits) == ("undecided", "")


@pytest.mark.parametrize(
    ("num_items", "margin", "word"), [(400, None, "within"), (50, None, "undecided"), (50, 0.08, "within")]
)
def test_no_change_is_within_only_where_a_larger_one_than_the_margin_is_ruled_out(
    tmp_path: Path, num_items: int, margin: float | None, word: str
) -> None:
    """Where no pair differs, Tango's limits are -+ z^2 / (n + z^2): 0.95 points of 400 pairs, 7.1 of 50."""
    values = [float(index % 2) for index in range(num_items)]
    sides = [Measured(measure("x", 0.5, 0.4, 0.6), write_table(tmp_path / name, values), name) for name in ("a", "b")]
    found = compare_measured(*sides, "exact_match", is_main=True, margin=margin)
    z2 = 1.959964**2
    assert found is not None and found.interval == pytest.approx(
        (-z2 / (num_items + z2), z2 / (num_items + z2)), rel=1e-3
    )
    assert found.word == word


def test_the_loss_of_texts_is_paired_as_a_ratio_of_sums(tmp_path: Path) -> None:
    """By hand: 60 nats over 30 tokens are 2, 45 are 1.5; every text is half a nat a token better."""
    tables = [
        write_table(
            tmp_path / name,
            [0.1] * 30,
            parts=[{"nats": loss * (1 + index % 3), "tokens": 1.0 + index % 3} for index in range(30)],
        )
        for name, loss in (("a", 2.0), ("b", 1.5))
    ]
    sides = [Measured(measure("x", None), table, name) for name, table in zip("ab", tables, strict=True)]
    entries = [{**side.entry, "value": value} for side, value in zip(sides, (2.0, 1.5), strict=True)]
    sides = [Measured(entry, side.table, side.policy) for entry, side in zip(entries, sides, strict=True)]
    found = compare_measured(*sides, "nats_per_token", is_main=False)
    assert found is not None and found.value == pytest.approx(-0.5)
    assert (found.word, found.evidence) == ("improved", "30 pairs, 0 higher, 30 lower")


def test_one_policy_under_two_names_is_unchanged_and_other_rows_decide_nothing() -> None:
    entry = measure("base", 0.5, 0.4, 0.6)
    same = compare_measured(Measured(entry, None, EARLIER), Measured(entry, None, EARLIER), "exact_match", is_main=True)
    assert same is not None and (same.word, same.amount) == ("unchanged", "±0.0")
    moved = {**measure("sft", 0.9, 0.85, 0.95), "task_hash": "1" * 32}
    other = compare_measured(
        Measured({**entry, "task_hash": "0" * 32}, None, EARLIER),
        Measured(moved, None, LATER),
        "exact_match",
        is_main=True,
    )
    assert other is not None and (other.word, other.evidence) == ("undecided", "measured on other rows")


def test_what_was_rolled_back_stands_in_the_matrix_and_is_not_what_the_run_came_to() -> None:
    run = make_run(identity, 2)
    run["stages"][1]["gate"] |= {"decision": "roll_back", "is_overridden": False}
    run["metrics"] += [{**run["metrics"][0], "stage": "sft, as trained", "value": 0.9}]
    matrix = build_matrix(files_of(run))
    assert [column.label for column in matrix.columns] == ["base", "sft, as trained", "sft", "sft-expert"]
    assert [column.remark for column in matrix.columns] == ["", "replaced", "", "rolled back"]
    assert [column.before for column in matrix.columns] == [None, 0, 0, 2]
    assert matrix.columns[matrix.last].label == "sft"
    row = matrix.objectives[0]
    assert row.whole is not None and row.whole.amount == "+76.0"
    assert row.counted == "n\u00a0200 in 50 clusters"


def test_a_stage_after_a_roll_back_is_compared_with_the_policy_that_it_started_from() -> None:
    run = {
        "stages": [
            {"name": name, "inputs": {"policy": source}, "outputs": {"policy": name}, "gate": gate}
            for name, source, gate in (
                ("sft", "root", None), ("rl", "sft", {"decision": "roll_back"}), ("dpo", "sft", None),
            )
        ],
        "metrics": [measure(stage, 0.5) for stage in ("base", "sft", "rl", "dpo")],
        "artifacts": [{"stage": "base", "hash": "root"}],
    }  # fmt: skip
    assert [column.before for column in list_columns(run)] == [None, 0, 1, 1]


def test_marks_say_what_the_gate_found_on_each_metric_of_each_policy() -> None:
    """The first stage's own policy failed its keep of tools; its repair, which was passed on, keeps and improves."""
    run = make_run(identity, 2)
    first, second = run["stages"][0]["gate"]["attempts"]
    run["metrics"] = [
        {**measure("sft, as trained", 0.5), "task": "tools", "policy": first["policy"]},
        {**measure("sft", 0.6), "task": "tools", "policy": second["policy"]},
        {**measure("sft", 0.9, name="stop_rate"), "task": "tools", "policy": second["policy"]},
    ]
    matrix = build_matrix(files_of(run))
    score, stop = rows_of(matrix)
    assert [[mark.words for mark in cell.marks] for cell in score.cells[1:] if cell] == [
        ["keep: failed", "keep against base: passed"],
        ["keep: passed", "keep against base: passed"],
    ]
    assert stop in matrix.objectives, "what a gate speaks of is an objective"
    assert stop.cells[2] is not None and [mark.words for mark in stop.cells[2].marks] == ["floor: passed"]


def test_a_metric_of_which_no_answer_could_be_read_is_named_unread_and_has_no_number() -> None:
    run = make_run(identity, 1)
    for metric in run["metrics"]:
        if metric["stage"] == "sft" and metric["name"] == "exact_match":
            metric.update(value=None, low=None, high=None, method="unread")
    row = build_matrix(files_of(run)).objectives[0]
    cell = row.cells[1]
    assert cell is not None and (cell.value, cell.interval) == ("unread", "")
    assert (cell.change, cell.plot, row.whole) == (None, None, None)


def test_failures_stand_beside_a_value_and_harness_faults_are_no_part_of_its_denominator() -> None:
    outcomes = {"scored": 15, "unparsed": 4, "timed_out": 1, "truncated": 0, "not_applicable": 3, "harness": 20}
    cell = row_of({**measure("base", 0.2), "outcomes": outcomes}).cells[0]
    assert cell is not None
    assert cell.failures == (
        "unparsed 20.0\u00a0% · timed out 5.0\u00a0% · not applicable 3, left out · harness faults 20, left out"
    )


def test_objectives_are_scores_and_declared_parts_and_the_others_stand_below() -> None:
    metrics = [measure("base", 0.5, name=name) for name in ("exact_match", "stop_rate", "format")]
    matrix = build_matrix(files_of({"metrics": metrics}, evaluate=[{"name": "t", "parts": ["format"]}]))
    assert [row.name for row in matrix.objectives] == ["exact_match", "format"]
    assert [row.name for row in matrix.others] == ["stop_rate"]
