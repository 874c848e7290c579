"""What choosing among n answers gives: the record of a study, and the page that shows it.

Whoever judged the answers fills the record; nothing is computed here but places on charts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.core.durable import write_text
from posttrain.reports import charts
from posttrain.reports.numbers import NO_VALUE, format_compact, format_count
from posttrain.reports.rendering import render_page
from posttrain.reports.selection_charts import (
    LineChart,
    chart_by_kl,
    chart_by_n,
    chart_gold_gains,
    chart_kl,
    chart_over_optimisation,
    chart_own_gains,
)
from posttrain.reports.studies import build_study
from posttrain.statistics.gain_fits import GainCurve
from posttrain.statistics.over_optimisation import compute_best_of_n_kl
from posttrain.statistics.selection_curves import CurvePoint

Kind = Literal["random", "score", "verifier", "majority", "oracle"]
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Fall:
    """The first n at which a score is shown to be up and gold down, and the smaller n that they are held against.

    `kl` is that of `to_n`, nats; changes are from one to the other. Example: `Fall(8, 64, 0.4, -0.09, 3e-4, 3.1)`.
    """

    from_n: int
    to_n: int
    own_change: float
    gold_change: float
    p_value: float
    kl: float


@dataclass(frozen=True, slots=True)
class StudiedWay:
    """One way of choosing: what gold gives the chosen answer, and for a score what that score itself gives it.

    `own` is empty where the chooser has no score beside gold. `fitted` is the curve of gold's gains, None where the
    data say of none; `says` what it tells, or why there is none; `fall` what a paired test shows, and `turn` the
    same in words.

    Example: `StudiedWay("length", "score", points, own, None, "no gain at any n that differs from 0")`.
    """

    name: str
    kind: Kind
    points: Sequence[CurvePoint]
    own: Sequence[CurvePoint] = ()
    fitted: GainCurve | None = None
    says: str = ""
    turn: str = ""
    fall: Fall | None = None


@dataclass(frozen=True, slots=True)
class SelectionStudy:
    """Several ways of choosing among answers that were drawn once.

    Made by the pipeline, read by the command line and whoever opens the page. `gold` names the judge of all; `unit` is
    its standard deviation among a problem's answers, and `units` those of choosers' own scores, by the way's name.

    Example: 200 problems, 64 samples each, `ways` of random, oracle, majority and a reward.
    """

    model: str
    policy_hash: str
    gold: str
    num_problems: int
    num_sources: int
    num_samples: int
    ways: Sequence[StudiedWay]
    unit: float
    units: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the study for a program."""
        found = {"schema": SCHEMA, **dataclasses.asdict(self)}
        for way in found["ways"]:
            for point in (*way["points"], *way["own"]):
                point["kl_bound"] = compute_best_of_n_kl(point["n"])
        plain: dict[str, Any] = _plain(found)
        return plain


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    way: str
    n: str
    value: str
    limits: str
    gain: str
    gain_limits: str
    own: str
    kl: str
    bound: str


def list_rows(study: SelectionStudy) -> list[Row]:
    """Return the table of a study, a line for each way and n; what is the same for all n has one."""
    rows = []
    for way in study.ways:
        own = {point.n: point for point in way.own}
        for point in way.points:
            if way.kind == "random" and point.n > 1:
                continue
            rows.append(
                Row(
                    way.name,
                    "any" if way.kind == "random" else format_count(point.n),
                    format_compact(point.value),
                    write_limits(point.low, point.high),
                    NO_VALUE if point.n == 1 else f"{point.gain:+.3g}",
                    "" if point.n == 1 else write_limits(point.gain_low, point.gain_high),
                    format_compact(own[point.n].value) if own else NO_VALUE,
                    f"{point.kl:.3f}",
                    f"{compute_best_of_n_kl(point.n):.3f}",
                )
            )
    return rows


def write_limits(low: float | None, high: float | None) -> str:
    """Return limits as `0.41 to 0.47`, nothing where there are none."""
    return "" if low is None or high is None else f"{format_compact(low)} to {format_compact(high)}"


def write_selection_page(study: SelectionStudy, path: Path) -> None:
    """Write the page of a study.

    Raises:
        StorageError: It cannot be written.
    """
    drawn: list[LineChart] = [chart_by_n(study.ways, study.gold), chart_by_kl(study.ways, study.gold)]
    proxies = [way for way in study.ways if way.own]
    page = render_page(
        "selection.html",
        study=study,
        charts=[*drawn, chart_kl(study.ways)],
        summary=build_study(study.to_json(), ""),
        together=_chart_together(study, proxies),
        proxies=[(way, chart_over_optimisation(way, study.unit, study.units[way.name])) for way in proxies],
        rows=list_rows(study),
        fits=[(way.name, way.says, way.turn) for way in study.ways if way.says],
        settings=[(name.replace("_", " "), str(value)) for name, value in study.settings.items()],
        frame=charts,
    )
    write_text(path, page)


def _chart_together(study: SelectionStudy, proxies: Sequence[StudiedWay]) -> list[LineChart]:
    """Return the charts of several scores on one scale, none where there is one score."""
    if len(proxies) < 2:
        return []
    return [chart_gold_gains(proxies, study.unit), chart_own_gains(proxies, study.units)]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
