"""The comparison of two policies: page, terminal lines and JSON say the same, and nothing in them is alive."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import pytest

from posttrain.reports.comparison import (
    Comparison,
    build_rows,
    count_verdicts,
    describe_verdicts,
    render_comparison,
    write_comparison,
)
from posttrain.reports.comparison_lines import list_comparison_lines
from posttrain.reports.page import build_report
from tests.reports.made_up_comparison import make_comparison
from tests.reports.made_up_run import write_run
from tests.reports.page_reader import PageReader
from tests.reports.payloads import PAYLOADS


def read(comparison: Comparison) -> PageReader:
    return PageReader(render_comparison(comparison), has_script=False)


def change(comparison: Comparison, index: int, **values: object) -> Comparison:
    """Return the comparison with one metric changed."""
    metrics = list(comparison.metrics)
    metrics[index] = dataclasses.replace(metrics[index], **values)  # type: ignore[arg-type]
    return dataclasses.replace(comparison, metrics=metrics)


def test_the_page_shows_differences_pairs_failures_settings_and_flips(tmp_path: Path) -> None:
    path = write_comparison(make_comparison(), tmp_path / "compare.html")
    page = PageReader(path.read_text(encoding="utf-8"), has_script=False)
    assert page.faults == []
    for expected in (
        "sft-expert against base",
        "Of 7 metrics, B is better on 3 and worse on 1; 2 undecided, 1 unmeasured.",
        "After Holm's correction for that many: better on 2, worse on 1.",
        "+36.0\u00a0points",
        "+28.1 to +43.6",
        "80 / 8 / 112",
        "truncated 97.0\u00a0%",
        "40 clusters",
        "harness 2, left out",
        "Holm 0.08",
        "undecided after Holm",
        "max new tokens 32 · greedy · stop ###",
        "bits_per_byte (bits/byte)",
        "31 lost, 9 gained; 2 and 1 of them are shown.",
        "11 lost, 14 gained.",
        "I think it is 18 because numbers go on",
        "A was asked with another chat template than B on facts.",
    ):
        assert expected in page.text, expected
    assert write_comparison(make_comparison(), tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_the_forest_draws_every_measured_difference_on_one_scale_for_each_unit() -> None:
    comparison = make_comparison()
    rows, forests = build_rows(comparison.metrics)
    assert [(forest.unit, len(forest.rows)) for forest in forests] == [("fraction", 6), ("bits/byte", 1)]
    better, worse = rows[0].plot, rows[1].plot
    assert better is not None and worse is not None
    assert better.low is not None and better.high is not None and worse.high is not None and better.zero is not None
    assert worse.point < worse.high < better.zero < better.low < better.point < better.high
    assert worse.zero == better.zero
    zeros = [tick for tick in forests[0].ticks if tick.is_zero]
    assert [(tick.label, tick.place) for tick in zeros] == [("0", better.zero)]
    page = read(comparison)
    assert len(page.pictures) == 6 and all(page.pictures)
    assert "facts exact_match: −11.0\u00a0points, interval −16.9 to −5.3, worse" in page.pictures


def test_what_is_unmeasured_has_no_difference_whatever_the_record_holds() -> None:
    comparison = make_comparison()
    row = build_rows(comparison.metrics)[0][5]
    assert comparison.metrics[5].difference == -0.35
    assert (row.verdict, row.difference, row.limits, row.p_value, row.changed) == ("unmeasured", "–", "", "–", "")
    assert (row.plot, row.adjusted_p_value, row.a.value, row.b.value) == (None, "", "35.0\u00a0%", "–")
    page = read(comparison)
    assert "unmeasured: no number" in page.text and "No difference: this was not measured." in page.text
    assert "−35.0" not in page.text and not any("citations" in picture for picture in page.pictures)


def test_verdicts_are_counted_before_and_after_holm() -> None:
    comparison = make_comparison()
    none = {"higher": 0, "lower": 0, "unmeasured": 1}
    assert count_verdicts(comparison, adjusted=False) == {"better": 3, "worse": 1, "undecided": 2, **none}
    assert count_verdicts(comparison, adjusted=True) == {"better": 2, "worse": 1, "undecided": 3, **none}
    alone = change(dataclasses.replace(comparison, metrics=comparison.metrics[:1]), 0, adjusted_verdict=None)
    assert describe_verdicts(alone) == ["Of 1 metric, B is better on 1 and worse on 0; 0 undecided, 0 unmeasured."]


def test_a_metric_without_a_direction_is_higher_or_lower_and_neither_good_nor_bad() -> None:
    told = {"verdict": "lower", "adjusted_verdict": "lower", "lower_is_better": None, "reason": ""}
    comparison = change(make_comparison(), 4, **told)
    rows, _ = build_rows(comparison.metrics)
    assert (rows[4].verdict, rows[4].style, rows[4].counted) == ("lower", "plain", "higher, lower, same")
    assert count_verdicts(comparison, adjusted=False)["lower"] == 1
    [sentence, corrected] = describe_verdicts(comparison)
    assert (
        "B is better on 3 and worse on 1, 0 higher and 1 lower where no direction is declared; 1 undecided" in sentence
    )
    assert "0 higher and 1 lower" in corrected
    lines = list_comparison_lines(comparison)
    assert next(line for line in lines if line.startswith("benign/refused")).endswith(" lower")
    assert any("1 / 2 / 197 higher, lower, same" in line for line in lines)
    page = read(comparison)
    assert "1 / 2 / 197" in page.text and page.text.count("higher, lower, same") == 1


def test_lines_for_a_terminal_are_aligned_and_say_what_the_page_says() -> None:
    lines = list_comparison_lines(make_comparison())
    head = next(line for line in lines if line.startswith("metric"))
    arithmetic = next(line for line in lines if line.startswith("arithmetic/exact_match"))
    strict = next(line for line in lines if line.startswith("instructions/strict"))
    assert arithmetic.split()[1:] == ["19.0", "%", "55.0", "%", "+36.0", "points", "<0.0001", "<0.0001", "better"]
    assert strict.endswith("better, undecided after Holm")
    for heading in ("B − A", "p", "Holm"):
        end = head.index(f" {heading} ") + len(heading) + 1
        assert arithmetic[end - 1] != " " and arithmetic[end] == " ", heading
    assert "    difference −3.4 to +6.4 (95 %); 14 / 11 / 175 better, worse, same; 200 items in 40 clusters; " \
        "harness 2, left out" in lines  # fmt: skip
    assert "    B has no items of this task" in lines
    assert "facts: 31 items lost, 9 gained" in lines


def test_json_holds_every_figure_and_no_value_that_json_has_not() -> None:
    comparison = change(make_comparison(), 0, p_value=math.nan, high=math.inf)
    plain = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    first = plain["metrics"][0]
    assert (first["p_value"], first["high"], first["difference"]) == (None, None, pytest.approx(0.36))
    assert (first["a"]["outcomes"]["truncated"], first["settings"]["temperature"]) == (194, 0)
    assert plain["verdicts"]["better"] == 3 and plain["adjusted"]["better"] == 2
    assert plain["flips"][0]["lost"][0]["score_a"] == 1 and plain["level"] == 0.05


def test_figures_that_are_not_finite_and_an_empty_comparison_are_shown_without_harm() -> None:
    odd = {"difference": math.nan, "low": -math.inf, "high": None, "p_value": math.nan, "adjusted_p_value": math.inf}
    page = read(change(make_comparison(), 0, **odd))
    assert page.faults == [] and not re.search(r"\b(nan|inf)\b", page.text)
    comparison = make_comparison()
    page = read(Comparison(comparison.a, comparison.b, metrics=[]))
    assert page.faults == []
    assert "No metric was measured on both." in page.text
    assert list_comparison_lines(Comparison(comparison.a, comparison.b, metrics=[]))[-1].startswith("Of 0 metrics")


@pytest.mark.parametrize("shift", range(3))
def test_thirty_script_injections_in_every_place_of_a_comparison_stay_text(shift: int) -> None:
    given = itertools.cycle(PAYLOADS[shift * 10 :] + PAYLOADS[: shift * 10])
    chosen: dict[str, str] = {}

    def poison(text: str) -> str:
        return chosen.setdefault(text, next(given) + f" {len(chosen)}")

    comparison = make_comparison(poison)
    assert len(chosen) > 30
    page, clean = read(comparison), read(make_comparison())
    assert page.faults == []
    assert page.text.count("alert(1)") > 60
    assert set(page.tags) == set(clean.tags) and "script" not in page.tags


def test_no_text_of_a_model_breaks_out_of_its_line_in_a_terminal() -> None:
    def poison(text: str) -> str:
        return f"{text}\n\x1b[2J\u202e\r{text}\u2028"

    lines = list_comparison_lines(make_comparison(poison))
    assert len(lines) == len(list_comparison_lines(make_comparison()))
    assert not any(set("\n\r\x1b\u202e\u2028") & set(line) for line in lines)


def test_every_table_of_both_pages_has_named_columns_and_every_drawing_that_is_read_out_has_a_title(
    tmp_path: Path,
) -> None:
    report = build_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    for page in (report, render_comparison(make_comparison())):
        tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
        assert len(tables) >= 2
        for table in tables:
            header = re.search(r"<thead.*?</thead>", table, re.DOTALL)
            assert header is not None and 'scope="col"' in header[0]
        for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
            assert 'aria-hidden="true"' in drawing or re.search(r"<title[^>]*>[^<]", drawing)
