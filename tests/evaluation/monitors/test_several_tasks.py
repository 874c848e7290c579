"""Monitors of several tasks, one of which cannot be read, and parts that no outcome has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from posttrain.core.records import ItemResult
from posttrain.evaluation.monitors.reading import Items, Reading
from posttrain.evaluation.monitors.settings import MonitorSettings, read_monitor
from tests.evaluation.monitors.planted import draw_lengths, make_item, make_items


def read(values: dict[str, Any], own: Items, parent: Items | None) -> Reading:
    return read_monitor(TypeAdapter(MonitorSettings).validate_python(values), own, parent, None)


def fail_some(items: list[ItemResult]) -> list[ItemResult]:
    """The harness failed on the first five items."""
    fault = [replace(item, outcome=replace(item.outcome, status="errored", fault="harness")) for item in items[:5]]
    return [*fault, *items[5:]]


@pytest.mark.parametrize("bad", ["absent", "undrawn", "faults"])
@pytest.mark.parametrize("kind", ["format", "verbosity", "forgetting"])
def test_a_task_that_cannot_be_read_does_not_silence_the_others(kind: str, bad: str) -> None:
    good, worse = draw_lengths(200, 30, seed=1), draw_lengths(200, 90, seed=2)
    if kind != "verbosity":
        worse = [replace(item, outcome=replace(item.outcome, status="unparsed", value=0.0)) for item in worse]
    own = {"sums": worse} | {"undrawn": {"facts": make_items([1.0] * 50)}, "faults": {"facts": fail_some(good)}}.get(
        bad, {}
    )
    reading = read({"type": kind, "tasks": ["facts", "sums"]}, own, {"sums": good, "facts": good})
    assert reading.status == "alarm"
    assert "not tested: facts: " in reading.why
    assert read({"type": kind, "tasks": ["facts"]}, {}, {"facts": good}).status == "unmeasured"


def test_a_part_that_an_answer_lost_is_form_that_it_lost() -> None:
    kept = [make_item(index, 1.0, {"format": 1.0}) for index in range(100)]
    half = [make_item(index, 1.0, {"format": 1.0} if index % 2 else {}) for index in range(100)]
    values = {"type": "format", "tasks": ["sums"]}
    lost = read(values, {"sums": make_items([1.0] * 100)}, {"sums": kept})
    assert (lost.status, "sums: format, falls by 100.0 %" in lost.why) == ("alarm", True)
    assert "sums: format, falls by 50.0 %" in read(values, {"sums": half}, {"sums": kept}).why
    # The other way around form is won.
    assert read(values, {"sums": kept}, {"sums": half}).status == "silent"


def test_a_part_that_nobody_has_is_said_to_be_missing_where_it_was_named() -> None:
    own = {"sums": draw_lengths(100, 30, seed=1)}
    mistyped = read({"type": "format", "tasks": ["sums"], "part": "fromat"}, own, own)
    assert (mistyped.status, "'fromat'" in mistyped.why) == ("silent", True)
    assert "not tested" not in read({"type": "format", "tasks": ["sums"]}, own, own).why
    hard = read({"type": "verbosity", "tasks": ["sums"], "difficulty": "lvel"}, own, own)
    assert (hard.status, "no outcome or row has a number 'lvel'" in hard.why) == ("silent", True)
