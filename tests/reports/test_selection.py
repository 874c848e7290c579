"""The page of a study: what is drawn and said, and names that are no markup."""

from __future__ import annotations

from pathlib import Path

from posttrain.reports.selection import Fall, SelectionStudy, StudiedWay, list_rows, write_selection_page
from posttrain.reports.selection_charts import (
    chart_by_kl,
    chart_by_n,
    chart_gold_gains,
    chart_kl,
    chart_over_optimisation,
    chart_own_gains,
)
from posttrain.statistics.gain_fits import GainCurve
from posttrain.statistics.intervals import Interval
from posttrain.statistics.over_optimisation import BootstrappedFit, GainFit
from posttrain.statistics.selection_curves import CurvePoint

RANDOM = [CurvePoint(n, 0.0, 0.5, 0.4, 0.6, 0.0, 0.0, 0.0) for n in (1, 2, 4)]
GOLD = [
    CurvePoint(1, 0.0, 0.5, 0.4, 0.6, 0.0, 0.0, 0.0),
    CurvePoint(2, 0.16, 0.6, 0.5, 0.7, 0.1, 0.05, 0.15),
    CurvePoint(4, 0.64, 0.45, 0.35, 0.55, -0.05, -0.1, 0.0),
]
OWN = [CurvePoint(n, kl, n, None, None, n - 1.0, None, None) for n, kl in ((1, 0.0), (2, 0.16), (4, 0.64))]
NAME = "<script>alert(1)</script>"


def make_study(**changes: object) -> SelectionStudy:
    ways = [
        StudiedWay("random", "random", RANDOM),
        StudiedWay(NAME, "score", GOLD, OWN, says="no curve is fitted: too few", turn="Gold falls"),
    ]
    values = {"model": NAME, "policy_hash": "00", "gold": "lab", "num_problems": 9, "num_sources": 8, "num_samples": 4}
    return SelectionStudy(**{**values, "ways": ways, "unit": 0.1, "units": {NAME: 2.0}, **changes})  # type: ignore[arg-type]


def test_the_axis_of_n_doubles_and_bands_go_around_their_line() -> None:
    chart = chart_by_n(make_study().ways, "lab")
    first, second, third = (tick.position for tick in chart.x_ticks)
    assert second - first == third - second
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "4"]
    line = chart.lines[1]
    assert line.band.startswith("M") and line.band.endswith("Z") and line.band.count("L") == 5
    # Higher is further up, where SVG has smaller numbers.
    assert line.dots[1][1] < line.dots[0][1] < line.dots[2][1]
    assert line.summary == "0.5 → 0.45"


def test_the_axis_of_distance_is_the_root_of_the_kl_and_chance_is_not_on_it() -> None:
    chart = chart_by_kl(make_study().ways, "lab")
    [line] = chart.lines
    start, middle, end = (x for x, _ in line.dots)
    assert abs((middle - start) / (end - start) - 0.5) < 0.01  # 0.4 of 0.8
    bound = chart_kl(make_study().ways).lines[-1]
    assert bound.style == "bound" and not bound.dots


def test_gains_are_in_standard_deviations() -> None:
    """Gold 0.1 / 0.1 at n = 2, the score 3 / 2 at n = 4."""
    own, gold = chart_over_optimisation(make_study().ways[1], 0.1, 2.0).lines
    assert own.summary == "0 → 1.5" and gold.summary == "0 → -0.5"
    assert own.band == "" and gold.band


def test_several_scores_share_two_charts_and_a_fitted_curve_has_its_scores_colour() -> None:
    """d (0.4 - 0.5 d) is 0.08 at d = 0.4, where gold's unit is 0.1: 0.8 deviations."""
    interval = Interval(0.4, 0.3, 0.5)
    fitted = BootstrappedFit(GainFit("best_of_n", 0.4, 0.5, 0.4, 0.0), interval, interval, interval, 1.0)
    first = StudiedWay("first", "score", GOLD, OWN, GainCurve(fitted, 0.4, True))
    second = StudiedWay("second", "score", GOLD, OWN)
    gold = chart_gold_gains([first, second], 0.1)
    assert [(line.label, line.style) for line in gold.lines] == [
        ("first", "score-1"),
        ("", "score-1 fitted"),
        ("second", "score-2"),
    ]
    assert [line.summary for line in gold.lines] == ["0 → -0.5", "0 → 0.8", "0 → -0.5"]
    assert not any(line.band for line in gold.lines)
    own = chart_own_gains([first, second], {"first": 2.0, "second": 3.0})
    assert [line.summary for line in own.lines] == ["0 → 1.5", "0 → 1"]


def test_a_page_of_several_scores_has_the_table_and_the_shared_charts(tmp_path: Path) -> None:
    fall = Fall(2, 4, 2.0, -0.15, 1e-4, 0.64)
    ways = [StudiedWay(name, "score", GOLD, OWN, says="bends", turn="ALARM", fall=fall) for name in ("one", "two")]
    write_selection_page(make_study(ways=ways, units={"one": 1.0, "two": 1.0}), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 7 and page.count("▲ from n = 4") == 2
    assert "What gold gains" in page and "What each score itself gains" in page


def test_rows_name_chance_once_and_say_what_the_bound_is() -> None:
    rows = list_rows(make_study())
    assert [(row.way, row.n) for row in rows] == [("random", "any"), (NAME, "1"), (NAME, "2"), (NAME, "4")]
    assert (rows[2].value, rows[2].gain, rows[2].gain_limits, rows[2].own) == ("0.6", "+0.1", "0.05 to 0.15", "2")
    assert (rows[2].kl, rows[2].bound) == ("0.160", "0.193")
    assert (rows[1].gain, rows[1].gain_limits) == ("–", "")


def test_the_page_is_self_contained_and_names_are_text(tmp_path: Path) -> None:
    write_selection_page(make_study(notes=["a <b>note</b>"]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert NAME not in page and "&lt;script&gt;" in page and "a &lt;b&gt;note" in page
    assert page.count("<svg") == 4
    assert "no curve is fitted: too few." in page and "Gold falls." in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_study_without_scores_says_nothing_of_over_optimisation(tmp_path: Path) -> None:
    write_selection_page(make_study(ways=[StudiedWay("random", "random", RANDOM)]), tmp_path / "page.html")
    assert "over-optimisation" not in (tmp_path / "page.html").read_text()
