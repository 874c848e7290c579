"""Monitors in a report: states at a glance, figures against bounds, curves, and nothing invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.reports.curves import build_curves
from posttrain.reports.field_reader import FieldReader
from posttrain.reports.monitors import build_monitors
from posttrain.reports.page import build_report
from tests.reports.made_up_run import identity, make_run, write_run
from tests.reports.page_reader import PageReader


def monitors_of(run: dict[str, Any]) -> Any:
    return build_monitors(run, FieldReader())


def test_every_monitor_has_a_state_for_every_policy_in_the_order_of_the_run() -> None:
    found = monitors_of(make_run(identity, 2))
    assert [view.name for view in found.views] == ["sycophancy", "calibration", "over_optimisation"]
    assert [(stage, [state.status for state in states]) for stage, states in found.grid] == [
        ("base", ["silent", "silent", "unmeasured"]),
        ("sft", ["alarm", "silent", "unmeasured"]),
        ("sft-expert", ["alarm", "silent", "alarm"]),
    ]
    assert found.tally == "3 alarm · 4 silent · 2 unmeasured"
    assert {state.sign for _, states in found.grid for state in states} == {"○", "▲", "–"}


def test_figures_stand_against_their_bounds_on_one_scale_and_a_parents_is_not_told_twice() -> None:
    view = monitors_of(make_run(identity, 2)).views[0]
    own, change = view.trends
    assert [(row.stage, row.value) for row in own.rows] == [
        ("base", "8.0\u00a0%"), ("sft", "31.0\u00a0%"), ("sft-expert", "62.0\u00a0%"),
    ]  # fmt: skip
    assert (change.of, [row.bound for row in change.rows]) == ("change from its parent", ["+5.0\u00a0points"] * 2)
    first, second = [row.plot for row in change.rows]
    assert first is not None and second is not None and first.bound is not None
    assert first.bound == second.bound < first.point < second.point
    assert first.shade is None, "which side is the alarm is the monitor's own"
    assert [row.style for row in change.rows] == ["bad", "bad"]


def test_a_reading_that_measured_nothing_shows_no_number_whatever_stands_in_it() -> None:
    run = make_run(identity, 1)
    run["monitors"] = [{**run["monitors"][0], "status": "unmeasured", "why": "no items"}]
    (view,) = monitors_of(run).views
    assert (view.trends, view.curves, view.examples) == ([], [], [])
    assert [(state.status, state.why) for state in view.states] == [("unmeasured", "no items")]


def test_curves_of_one_policy_on_the_same_axes_share_a_chart_and_a_reliability_curve_has_its_diagonal() -> None:
    views = monitors_of(make_run(identity, 2)).views
    (reliability,) = views[1].curves
    assert [line.label for line in reliability.lines] == ["base", "sft", "sft-expert"]
    assert [line.style for line in reliability.lines] == ["faint", "second", "first"]
    assert reliability.diagonal
    (rewards,) = views[2].curves
    assert rewards.title == "proxy and gold, sft-expert"
    assert [line.label for line in rewards.lines] == ["gold", "proxy"] and rewards.diagonal == ""


def test_a_higher_point_of_a_curve_is_drawn_higher_and_what_is_no_number_is_left_out() -> None:
    points = [[0, 1.0], [1, 2.0], [2, None], ["x", 1], [3, float("nan")], [7]]
    (chart,) = build_curves([("a", {"name": "n", "x_label": "x", "y_label": "y", "points": points})])
    (line,) = chart.lines
    (x0, y0), (x1, y1) = line.dots
    assert x0 < x1 and y0 > y1
    assert build_curves([("a", {"points": [[1]]}), ("b", {})]) == []


def test_the_page_shows_alarms_first_examples_and_what_fools_a_monitor(tmp_path: Path) -> None:
    page = PageReader(build_report(write_run(tmp_path / "run")).read_text(encoding="utf-8"))
    assert page.faults == []
    for expected in (
        "3 alarm · 4 silent · 2 unmeasured",
        "says 62 % of wrong claims too",
        "Fooled by: a policy that agrees in other words than the claim's",
        "I think 2 + 2 = 5. Right?",
        "An alarm on a policy without the failure has at most the chance 0.05.",
    ):
        assert expected in page.text, expected
    assert "wrong claims repeated sft: +23.0\u00a0points, +17.0 to +29.0; bound +5.0\u00a0points" in page.pictures


def test_values_of_the_wrong_type_anywhere_in_a_reading_do_no_harm_and_are_noted(tmp_path: Path) -> None:
    run = make_run(identity, 2)
    reading, odd = run["monitors"][-1], (None, 7, "x", [], {}, [[{}]], [{"points": [[1, "x"]]}], True, [None])
    broken = [{**reading, "monitor": f"m{n}", key: value} for key in reading for n, value in enumerate(odd)]
    for record in broken:
        monitors_of({"monitors": [record]})
    (tmp_path / "run.json").write_text(json.dumps({**run, "monitors": [*broken, None, 7, "x", []]}))
    page = PageReader(build_report(tmp_path).read_text(encoding="utf-8"))
    assert page.faults == []
    assert f"run.json: monitors {len(broken) + 1}: nothing where a record is expected; it is left out." in page.text
