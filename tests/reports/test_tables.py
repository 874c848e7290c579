"""The figures of a report: results, ledger, CSV, numbers, ticks."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from posttrain.reports.charts import BOTTOM, MAX_POINTS, TOP, build_charts, choose_ticks, thin_points
from posttrain.reports.item_tables import read_item_table
from posttrain.reports.numbers import format_change, format_compact, format_figure, format_seconds
from posttrain.reports.samples import build_samples
from posttrain.reports.tables import build_ledger, build_lineage, quote_cell, write_results_csv
from posttrain.reports.token_rows import build_token_rows
from posttrain.reports.visible_text import show_hidden, split_whitespace
from tests.reports.made_up_items import files_of, measure, write_table
from tests.reports.made_up_run import identity, make_ledger, make_run


def test_a_ledger_is_shown_whole_and_one_that_does_not_balance_says_so() -> None:
    ledger = make_ledger(0, identity)
    table = build_ledger(ledger)
    assert table.imbalance == ""
    assert [count for _, count, _, _ in table.parts] == ["7,955", "31", "12", "2"]
    assert sum(share for _, _, share, _ in table.parts) == pytest.approx(1.0)
    facts = dict(table.facts)
    assert facts["rows shortened: cut_completion"] == facts["stops cut"] == "1"
    assert facts["tokens lost"] == f"{31 * 290 + 12 * 20 + 40:,}"
    assert "conversations.jsonl:7 (after the second turn)" in dict(table.examples)["invalid UTF-8"]
    assert build_ledger({**ledger, "rows_in": 8001}).imbalance == "8,001 rows in, but 8,000 accounted for"


def test_lineage_marks_the_parents_that_are_in_the_run() -> None:
    rows = build_lineage(make_run(identity, 2))
    assert [row.stage for row in rows] == ["base", "sft", "sft-expert"]
    assert rows[1].parents == [(rows[0].hash, True)]
    assert rows[2].parents == [(rows[1].hash, True)]
    assert build_lineage({"artifacts": [{"hash": "a", "parents": ["elsewhere"]}]})[0].parents == [("elsewhere", False)]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", " =", "\n="])
def test_a_csv_cell_that_a_spreadsheet_would_compute_is_quoted(start: str) -> None:
    cell = quote_cell(start + "HYPERLINK(1)")
    assert cell == "'" + start + "HYPERLINK(1)"


def test_csv_keeps_numbers_and_survives_commas_quotes_and_line_breaks() -> None:
    metric = {**measure("base", -1.5, -2.0), "task": 'a,"b"\nc', "stage": "=1+1"}
    rows = list(csv.reader(io.StringIO(write_results_csv({"metrics": [metric]}))))
    assert rows[1] == ["'=1+1", 'a,"b"\nc', "exact_match", "-1.5", "-2.0", "", "50", ""]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.6, 1.02), (-3e-7, 2e-6), (0, 300), (1e12, 3e12), (-5, 5)])
def test_ticks_are_round_and_inside_and_three_to_eight(low: float, high: float) -> None:
    ticks = choose_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in ticks)
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)


def test_thinning_keeps_ends_and_spikes() -> None:
    points = [(float(step), 1.0) for step in range(10_000)]
    points[7777] = (7777.0, 99.0)
    points[123] = (123.0, -5.0)
    thin = thin_points(points)
    assert len(thin) <= MAX_POINTS + 2
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert points[7777] in thin
    assert points[123] in thin
    assert thin == sorted(thin)


def test_losses_share_one_chart_and_values_that_are_not_finite_are_counted() -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}]
    lines += [{"step": 4, "loss": 1.0}, {"step": 4, "validation/loss": 1.5}, {"loss": 9.0}, {"step": 4, "mine": 3}]
    primary, others = build_charts(0, lines)
    assert [chart.title for chart in primary] == ["Loss"]
    loss = primary[0]
    assert loss.note == "2 values not finite, left out"
    assert [(line.label, line.summary) for line in loss.series] == [
        ("training", "2.000 → 1.000"),
        ("validation", "1.500"),
    ]
    assert [[point[:2] for point in line["points"]] for line in loss.data["series"]] == [[[1, 2], [4, 1]], [[4, 1.5]]]
    assert [chart.title for chart in others] == ["mine"]


def test_shares_by_difficulty_stand_on_one_another_and_fill_the_whole() -> None:
    """Of 40 tokens 10, 20 and 10; of 50 then 0, 10 and 40. A step without tokens has no share and is left out."""
    steps = [(10, 20, 10), (0, 0, 0), (0, 10, 40)]
    lines = [
        {
            "step": step,
            "tokens_by_difficulty/never": never,
            "tokens_by_difficulty/hard": hard,
            "tokens_by_difficulty/easy": easy,
        }
        for step, (never, hard, easy) in enumerate(steps, 1)
    ]
    (chart,), others = build_charts(0, lines)
    assert chart.title == "Drawn tokens by difficulty" and not others
    assert [(line.label, line.style, line.summary) for line in chart.series] == [
        ("never", "area never", "25.0\u00a0% → 0.0\u00a0%"),
        ("hard", "area hard", "50.0\u00a0% → 20.0\u00a0%"),
        ("easy", "area easy", "25.0\u00a0% → 80.0\u00a0%"),
    ]
    tops = [[(step, y) for step, _, _, y in line["points"]] for line in chart.data["series"]]
    unit = (BOTTOM - TOP) / 100
    expected = [(25, 0), (75, 20), (100, 100)]
    assert tops == [[(1, round(BOTTOM - a * unit, 1)), (3, round(BOTTOM - b * unit, 1))] for a, b in expected]
    assert all(line.path.endswith("Z") for line in chart.series)


def test_how_problems_are_weighed_is_shown_first_only_where_they_are_not_weighed_alike() -> None:
    even = {"step": 1, "reward": 0.5, "weight_by_difficulty/hard": 1.0, "sampling/effective_problems": 1.0}
    primary, others = build_charts(0, [even])
    assert [chart.title for chart in primary] == ["Reward"] and len(others) == 2
    uneven = {**even, "step": 2, "weight_by_difficulty/hard": 1.5, "sampling/effective_problems": 0.8}
    primary, others = build_charts(0, [even, uneven])
    assert [chart.title for chart in primary] == ["Reward", "Weight of problems by difficulty", "Problems in effect"]
    assert not others and primary[1].series[0].style == "band hard"


def test_a_higher_value_is_drawn_higher_and_a_later_step_further_right() -> None:
    chart = build_charts(0, [{"step": 1, "loss": 2.0}, {"step": 5, "loss": 1.0}, {"step": 9, "loss": 3.0}])[0][0]
    first, second, third = chart.data["series"][0]["points"]
    assert first[2] < second[2] < third[2]
    assert third[3] < first[3] < second[3]


@pytest.mark.parametrize(
    ("value", "text"), [(6234, "6.234k"), (1.5e6, "1.5M"), (0.031, "0.031"), (1e-5, "1e-5"), (0, "0"), (-2e-7, "-2e-7")]
)
def test_compact_numbers(value: float, text: str) -> None:
    assert format_compact(value) == text


def test_figures_carry_their_unit() -> None:
    assert format_figure(0.875, "fraction") == "87.5\u00a0%"
    assert format_figure(3 << 30, "bytes") == "3\u00a0GiB"
    assert format_figure(None, "fraction") == "–"
    assert format_change(-0.031, "fraction") == "−3.1\u00a0points"
    assert [format_seconds(s) for s in (9.54, 59.7, 192, 3720, 90_000, None)] == [
        "9.5\u00a0s", "1\u00a0min 00\u00a0s", "3\u00a0min 12\u00a0s", "1\u00a0h 02\u00a0min", "1\u00a0d 1\u00a0h", "–",
    ]  # fmt: skip


def test_whitespace_in_a_token_is_drawn_and_keeps_its_effect() -> None:
    assert [(piece.text, piece.is_mark) for piece in split_whitespace(" of\n\tx")] == [
        ("·", True),
        ("of", False),
        ("↵\n", True),
        ("→\t", True),
        ("x", False),
    ]
    assert show_hidden("a\u202eb\x1b[31m\u200b") == "a⟨U+202E⟩b␛[31m⟨U+200B⟩"


def test_token_rows_tell_source_and_training_and_bear_odd_values() -> None:
    rows = build_token_rows([{"row_id": "r", "tokens": [["a\n", 5, 3, 1], ["b", 6, 99, 0], None, [7]]}, "x", {}])
    assert len(rows) == 1
    assert [(t.source, t.is_trained, t.ends_line) for t in rows[0].tokens] == [
        ("assistant", True, True),
        ("unknown", False, False),
        ("unknown", False, False),
        ("unknown", False, False),
    ]
    assert (rows[0].num_tokens, rows[0].num_trained) == (4, 1)


def test_samples_are_the_first_items_and_the_first_failures_and_pair_by_item_id(tmp_path: Path) -> None:
    changed = {2: {"status": "errored", "fault": "harness"}, 3: {"status": "not_applicable"}}
    base = write_table(tmp_path / "base.jsonl", [0.0] * 9, outcomes={3: changed[3]})
    values = [float(index not in (1, 5, 7, 8)) for index in range(9)]
    after = write_table(tmp_path / "sft.jsonl", values, outcomes=changed)
    lines = (tmp_path / "sft.jsonl").read_text().splitlines()
    (tmp_path / "sft.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    after = read_item_table(after.path, [], lambda said: None)
    run = {"metrics": [measure("base", 0.0), measure("sft", 0.5)]}
    task = build_samples(files_of(run, {"base": {"t": base}, "sft": {"t": after}}))[0]
    assert task.summary == "7 items paired with base: 3 better, 0 worse, 4 the same; 2 masked"
    assert [sample.item_id for sample in task.samples] == [f"item-{index}" for index in (8, 7, 6, 5, 2, 1)]
    answers = task.samples[4].answers
    assert [answer.mark for answer in answers] == ["bad", "masked"]
    assert "not the policy's fault" in answers[1].verdict
