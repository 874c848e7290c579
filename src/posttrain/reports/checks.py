"""What was checked before the run, and what it went on against: `preflight` and `overrides` of run.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.reports.field_reader import FieldReader, describe
from posttrain.reports.gates import GateView
from posttrain.reports.numbers import NO_VALUE, format_compact
from posttrain.reports.raw_values import mapping_of, number_of, text_of
from posttrain.reports.run_files import StageFiles

_STATUSES = {"refused": "bad", "overridden": "override", "skipped": "none", "passed": "good"}


@dataclass(frozen=True, slots=True)
class FindingView:
    """What one check found; `style` is how its status is drawn, `figures` are (name, number as text)."""

    stage: str
    check: str
    status: str
    style: str
    found: str
    expected: str
    cure: str
    figures: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ChecksView:
    """The findings of preflight: what stopped the run or should have, and the rest, which may be folded.

    `tally` counts all of them by status.
    """

    urgent: list[FindingView]
    others: list[FindingView]
    tally: str


def build_checks(run: Mapping[str, Any], reader: FieldReader) -> ChecksView | None:
    """Return the findings, the refused first, then the overridden; None where run.json has no preflight."""
    if run.get("preflight") is None:
        return None
    found = [_build_finding(values, reader, place) for place, values in reader.read_records(run, "preflight", "")]
    known = list(_STATUSES)
    found.sort(key=lambda finding: known.index(finding.status) if finding.status in known else 1.5)
    urgent = [finding for finding in found if finding.status not in ("skipped", "passed")]
    counts = {status: sum(finding.status == status for finding in found) for status in [*known, "unreadable"]}
    return ChecksView(
        urgent=urgent,
        others=found[len(urgent) :],
        tally=" · ".join(f"{count} {status}" for status, count in counts.items() if count),
    )


@dataclass(frozen=True, slots=True)
class OverridesView:
    """What the run went on against, as (name, what it says); and the overrides that were given and nothing needed."""

    used: list[tuple[str, str]]
    unused: list[str]


def build_overrides(
    run: Mapping[str, Any],
    checks: ChecksView | None,
    stages: Sequence[tuple[StageFiles, GateView]],
    reader: FieldReader,
) -> OverridesView:
    """Return the checks that were overridden, then the gates, then what else was given.

    An override is `mask` (a check of every stage), `polish:mask` (of one) or `gate:polish`.
    """
    used = [
        (f"{finding.stage}:{finding.check}" if finding.stage else finding.check, finding.found)
        for finding in (checks.urgent if checks else [])
        if finding.status == "overridden"
    ]
    used += [(f"gate:{stage.name}", gate.brief) for stage, gate in stages if ("overridden", "override") in gate.badges]
    given = [] if run.get("overrides") is None else reader.read_list(run, "overrides", "")
    for value in given:
        if not isinstance(value, str):
            reader.note("overrides", f"{describe(value)} where a name is expected.")
    covered = {name.split(" (round ")[0] for name, _ in used}  # an override names a stage with all its rounds
    covered |= {name.rpartition(":")[2] for name in covered if not name.startswith("gate:")}
    names = dict.fromkeys(text_of(value) for value in given)
    return OverridesView(used, [name for name in names if name not in covered])


def _build_finding(values: Mapping[str, Any], reader: FieldReader, place: str) -> FindingView:
    status = reader.read_word(values, "status", list(_STATUSES), place)
    figures = values.get("figures")
    if figures is not None and not isinstance(figures, dict):
        reader.note(place, f"figures is {describe(figures)}, not figures by name.")
    return FindingView(
        stage=reader.read_text(values, "stage", place, is_optional=True),
        check=reader.read_text(values, "name", place),
        status=status if status in _STATUSES else "unreadable",
        style=_STATUSES.get(status, "plain"),
        found=reader.read_text(values, "found", place, is_optional=True),
        expected=reader.read_text(values, "expected", place, is_optional=True),
        cure=reader.read_text(values, "cure", place, is_optional=True),
        figures=[(name.replace("_", " "), _write_figure(value)) for name, value in mapping_of(figures).items()],
    )


def _write_figure(value: Any) -> str:
    number = number_of(value)
    if number is None:
        return NO_VALUE if value is None else text_of(value)
    return format_compact(number)
