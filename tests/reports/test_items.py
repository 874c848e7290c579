"""What a report reads of items: tables, pairs, what was lost and gained, components, the three gaps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from posttrain.reports import item_tables
from posttrain.reports.components import build_components
from posttrain.reports.flips import NUM_SHOWN, build_flips
from posttrain.reports.gaps import MEASURE_GOLD, MEASURE_SAMPLES, MEASURE_TEXTS, build_gaps
from posttrain.reports.item_tables import compute_problem_passes, hash_item, match_items, pair_tables, read_item_table
from tests.reports.made_up_items import files_of, measure, write_table

POLICY = {"status": "truncated", "fault": "policy", "value": 0.0, "parts": {}}
HARNESS = {"status": "errored", "fault": "harness", "value": 0.0}


def test_a_table_leaves_out_what_is_not_the_policys_and_stands_in_for_a_part_that_a_failure_lacks(
    tmp_path: Path,
) -> None:
    table = write_table(
        tmp_path / "x.jsonl",
        [1.0, 0.0, 1.0, 0.5],
        parts=[{"form": 1.0}, {"form": 0.5}, {"form": 1.0}, {"other": 1.0}],
        outcomes={1: POLICY, 2: HARNESS},
    )
    np.testing.assert_equal(table.read_values(), [1.0, 0.0, np.nan, 0.5])
    np.testing.assert_equal(table.read_values("form"), [1.0, 0.0, np.nan, np.nan])
    values, _ = table.read_part("form")
    assert values.tolist() == [1.0], "a mean of a part is over the items that have it"
    assert table.read_item(3)["text"] == "answer 3"


def test_of_an_item_that_stands_twice_the_first_counts_and_bad_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_table(path, [1.0, 0.0])
    first = path.read_text()
    path.write_text(first + first.replace('"value": 1.0', '"value": 0.0') + "nonsense\n" + '{"item_id": "torn')
    said: list[str] = []
    table = read_item_table(path, [], said.append)
    assert table.read_values().tolist() == [1.0, 0.0]
    assert said == ["1 unreadable line left out.", "the last line is half written and left out."]


def test_of_a_file_that_is_too_long_the_first_items_are_read_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_tables, "MAX_ITEMS", 3)
    write_table(tmp_path / "x.jsonl", [1.0] * 5)
    said: list[str] = []
    assert len(read_item_table(tmp_path / "x.jsonl", [], said.append)) == 3
    assert said == ["more than 3 items; those beyond are left out."]


def test_only_the_same_items_are_paired_and_only_those_that_count_on_both_sides(tmp_path: Path) -> None:
    before = write_table(tmp_path / "a.jsonl", [1.0, 0.0, 1.0], clusters=["x", "x", "y"], outcomes={0: HARNESS})
    after = write_table(tmp_path / "b.jsonl", [1.0, 1.0, 0.0])
    pairs = pair_tables(before, after)
    assert pairs is not None
    assert (pairs.before_N.tolist(), pairs.after_N.tolist(), pairs.num_clusters) == ([0.0, 1.0], [1.0, 0.0], 2)
    fewer = write_table(tmp_path / "c.jsonl", [1.0, 1.0])
    assert pair_tables(before, fewer) is None
    assert [places.tolist() for places in match_items(before, fewer)] == [[0, 1], [0, 1]]


def test_pass_at_k_of_each_problem_is_chens_estimate(tmp_path: Path) -> None:
    """4 samples of which 1 is right: pass@1 is 1/4, pass@2 is 1 - C(3, 2) / C(4, 2) = 1/2; of none, 0."""
    table = write_table(tmp_path / "x.jsonl", [1.0, 0.0, 0.5, 0.0] + [0.0] * 4, samples=4)
    assert compute_problem_passes(table, 1)[0].tolist() == [0.25, 0.0]
    assert compute_problem_passes(table, 2)[0].tolist() == [0.5, 0.0]
    assert compute_problem_passes(table, 5)[0].size == 0


RUN = {"stages": [{"name": "sft"}], "metrics": [measure("base", 0.5), measure("sft", 0.5)]}


def test_lost_and_gained_items_are_all_counted_and_some_are_shown_by_the_hash_of_their_names(tmp_path: Path) -> None:
    before = write_table(tmp_path / "a.jsonl", [1.0] * 8 + [0.0] * 8)
    after = write_table(tmp_path / "b.jsonl", [0.0] * 5 + [1.0] * 3 + [1.0] + [0.0] * 7, outcomes={15: HARNESS})
    (stage,) = build_flips(files_of(RUN, {"base": {"t": before}, "sft": {"t": after}}))
    (task,) = stage.tasks
    assert (stage.label, stage.against, task.num_lost, task.num_gained) == ("after sft", "base", 5, 1)
    assert task.counts == "5 lost, 1 gained, 9 the same; 1 masked"
    keys = {f"item-{index}": hash_item({"item_id": f"item-{index}", "sample_index": 0}) for index in range(5)}
    ranked = sorted(keys, key=lambda name: hashlib.sha256(keys[name]).digest())
    assert [card.item_id for card in task.lost] == ranked[:NUM_SHOWN]
    (card,) = task.gained
    assert (card.item_id, card.reference, card.prompt) == ("item-8", "reference 8", [("user", "question 8")])
    assert [(answer.label, answer.verdict) for answer in card.answers] == [("base", "wrong"), ("after sft", "correct")]


def test_a_policy_that_was_measured_twice_has_lost_nothing(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.jsonl", [1.0, 0.0])
    assert build_flips(files_of(RUN, {"base": {"t": table}, "sft": {"t": table}})) == []


def test_components_show_means_and_the_shares_of_the_weighted_terms(tmp_path: Path) -> None:
    """Means 0.5 (weight 3) and 1.0 (weight 1): 1.5 and 1.0 of 2.5, that is 60 % and 40 %."""
    parts = [{"right": float(index % 2), "form": 1.0, "length": -0.2} for index in range(20)]
    table = write_table(tmp_path / "a.jsonl", [0.5] * 20, parts=parts)
    components = [
        {"name": "right", "weight": 3.0, "role": "term"},
        {"name": "form", "weight": 1.0},
        {"name": "length", "weight": -0.1, "role": "shaping"},
        {"name": "never", "role": "gate"},
    ]
    settings = {"scorer": {"type": "weighted", "components": components}}
    run = {"metrics": [{**measure("base", 0.5), "settings": settings}]}
    (shown,) = build_components(files_of(run, {"base": {"t": table}}))
    assert [row.role for row in shown.rows] == [
        "term, weight 3", "term, weight 1", "shaping, weight -0.1", "gate: multiplies",
    ]  # fmt: skip
    cells = [row.cells[0] for row in shown.rows]
    assert [cell and (cell.mean, cell.share) for cell in cells] == [
        ("0.500", "60.0\u00a0%"), ("1.000", "40.0\u00a0%"), ("-0.200", ""), None,
    ]  # fmt: skip


def test_gaps_are_read_from_texts_samples_and_pairs_and_name_what_is_missing(tmp_path: Path) -> None:
    """By hand: of 4 samples 1 is right on every second problem, so pass@4 is 1/2, pass@1 1/8, the headroom 3/8."""
    values = ([1.0, 0.0, 0.0, 0.0] + [0.0] * 4) * 20
    before = write_table(tmp_path / "a.jsonl", [0.0] * 160, samples=4)
    after = write_table(tmp_path / "b.jsonl", values, samples=4)
    metrics = [measure(stage, value, name=name) for stage, value, name in (
        ("base", 0.0, "exact_match"), ("sft", 0.125, "exact_match"), ("base", 0.0, "pass@4"), ("sft", 0.5, "pass@4"),
        ("sft", 0.125, "pass@1"),
    )]  # fmt: skip
    view = build_gaps(files_of({**RUN, "metrics": metrics}, {"base": {"t": before}, "sft": {"t": after}}))
    coverage, alignment, elicitation = view.gaps
    assert [row.name for row in coverage.rows] == ["t: pass@4"] and coverage.missing == [MEASURE_TEXTS]
    headroom, wins = alignment.rows
    assert headroom.cells[1] is not None and headroom.cells[1].value == "+37.5\u00a0points"
    # 20 of 160 samples win, none loses, 140 tie: (20 + 70) / 160.
    assert wins.cells[0] is None and wins.cells[1] is not None and wins.cells[1].value == "56.2\u00a0%"
    assert alignment.missing == [] and (elicitation.rows, elicitation.missing) == ([], [MEASURE_GOLD])


def test_a_run_without_samples_or_texts_says_how_to_measure_them() -> None:
    view = build_gaps(files_of(RUN))
    assert not view.has_figures
    assert view.gaps[0].missing == [MEASURE_TEXTS, MEASURE_SAMPLES]
