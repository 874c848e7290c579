"""The gates of a report: what was let through, every rule with its interval, and nothing of what cannot be read."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.reports.field_reader import MAX_NOTES, FieldReader, describe
from posttrain.reports.gates import GateView, build_gates
from posttrain.reports.page import build_report
from posttrain.reports.run_files import RunFiles, StageFiles
from tests.reports.made_up_gates import gate_of
from tests.reports.made_up_run import POLICIES, identity, make_run, write_run
from tests.reports.page_reader import PageReader

ODD: tuple[Any, ...] = (
    None,
    7,
    -1,
    -1e308,
    1e300,
    0.5,
    "</svg><script>alert(1)</script>",
    "",
    [],
    {},
    [[{}]],
    {"a": [None]},
    True,
    10**400,
)


def view(gate: Any, **entry: Any) -> tuple[GateView, list[str]]:
    """Return how a stage's gate is shown, and the notes on what is strange in it."""
    reader = FieldReader()
    stage = StageFiles(0, "sft", {"status": "finished", "gate": gate, **entry})
    (found,) = build_gates(RunFiles(Path(), {}, [stage], {}, "", {}, []), reader)
    return found, reader.notes


def rule(**values: Any) -> dict[str, Any]:
    """Return a keep of a gate that passed, with some of its values changed."""
    results = gate_of("sft")["attempts"][1]["decisions"][0]["results"]
    (found,) = (r for r in results if (r["metric"], r["against"]) == ("tools", "parent"))
    found["figures"] |= {key: value for key, value in values.items() if key in found["figures"]}
    return found | {key: value for key, value in values.items() if key in found}


def gate_with(result: dict[str, Any]) -> dict[str, Any]:
    gate = gate_of("sft")
    gate["attempts"] = gate["attempts"][1:]
    gate["attempts"][0]["decisions"][0]["results"] = [result]
    return gate


def read_page(root: Path, run: dict[str, Any]) -> PageReader:
    (root / "run.json").write_text(json.dumps(run))
    return PageReader(build_report(root).read_text(encoding="utf-8"))


def test_a_gate_is_a_line_of_words_near_the_top_for_every_stage(tmp_path: Path) -> None:
    run = make_run(identity, 2)
    back = copy.deepcopy(run["stages"][0]) | {"name": "dpo"}
    back["gate"] |= {"decision": "roll_back", "reason": "roll back: facts fell", "promoted": POLICIES["sft"]}
    run["stages"] += [
        back,
        back | {"name": "merge", "gate": None},
        back | {"name": "rl", "gate": None, "status": "pending"},
    ]
    page = read_page(tmp_path, run)
    assert page.faults == []
    top = page.text[
        page.text.index("What was let through") : page.text.index("Monitors", page.text.index("What was let through"))
    ]
    words = re.sub(r"\s+", " ", top)
    for line in (
        "sft promoted after repair interpolate promote: all 6 comparisons pass",
        "sft-expert overridden gate: hold hold: keep tools unmeasured",
        "dpo rolled back roll back: facts fell",
        "merge no gate",
        "rl no decision yet",
    ):
        assert line in words, line


def test_a_rule_shows_estimate_limits_bound_counts_clusters_power_and_reason() -> None:
    found, notes = view(gate_of("sft"))
    assert notes == []
    improve, keep, tools, baseline, floor, ceiling = found.attempts[1].decisions[0].rules
    figures = tools.figures
    assert figures is not None
    assert (tools.kind, tools.metric, tools.against, tools.state) == ("keep", "tools", "parent", "passed")
    assert (figures.estimate, figures.limits) == ("−0.4\u00a0points", "−3.4 to +2.6")
    assert (figures.interval, figures.bound, figures.changed) == ("96.67\u00a0%", "above −5.0\u00a0points", "14 / 16")
    assert (figures.num_items, figures.clusters) == ("550", "110 clusters, design effect 1.58")
    assert [words for words, _ in figures.power] == ["to pass", "to catch"]
    assert figures.before_after == "82.9\u00a0% → 82.5\u00a0%"
    assert "a loss of 0.05 or more is ruled out" in tools.reason
    assert baseline.against == "base" and baseline.figures and baseline.figures.bound == "above −10.0\u00a0points"
    assert floor.figures and (floor.figures.bound, floor.figures.changed) == ("at least 85.0\u00a0%", "")
    assert ceiling.figures and ceiling.figures.bound == "at most 10.0\u00a0%"
    assert improve.figures and (improve.figures.p_value, improve.figures.clusters) == ("0.0012", "")
    assert keep.figures and keep.figures.num_items == "550"


def test_intervals_are_drawn_in_order_with_the_bound_and_share_one_scale() -> None:
    found, _ = view(gate_of("sft"))
    failed = found.attempts[0].decisions[0].rules[2].figures
    passed = found.attempts[1].decisions[0].rules[2].figures
    ceiling = found.attempts[1].decisions[0].rules[5].figures
    assert failed and failed.plot and passed and passed.plot and ceiling and ceiling.plot
    plot = passed.plot
    assert plot.low is not None and plot.high is not None and plot.bound is not None and plot.zero is not None
    assert 0 < plot.bound < plot.low < plot.point < plot.zero < plot.high < 100
    assert plot.shade == (plot.bound, pytest.approx(100 - plot.bound))
    assert failed.plot.point < plot.point and failed.plot.bound == plot.bound  # the same margin, the same place
    assert ceiling.plot.shade == (0.0, ceiling.plot.bound) and ceiling.plot.zero is None


def test_every_drawing_is_named_in_words(tmp_path: Path) -> None:
    page = PageReader(build_report(write_run(tmp_path / "run")).read_text(encoding="utf-8"))
    assert all(page.pictures)
    assert "−0.4\u00a0points, 96.67\u00a0% interval −3.4 to +2.6; to pass: above −5.0\u00a0points" in page.pictures


def test_what_is_unmeasured_is_a_state_and_never_a_number(tmp_path: Path) -> None:
    found, notes = view(gate_of("sft-expert"))
    unmeasured = [rule for rule in found.attempts[0].decisions[-1].rules if rule.state == "unmeasured"]
    assert len(unmeasured) == 3 and notes == []
    assert [rule.figures for rule in unmeasured] == [None] * 3
    # Figures that stand there all the same are not shown.
    found, notes = view(gate_with(rule(state="unmeasured")))
    assert found.attempts[0].decisions[0].rules[0].figures is None
    assert "figures of a rule that is unmeasured; they are not shown." in notes[0]
    page = PageReader(build_report(write_run(tmp_path / "run")).read_text(encoding="utf-8"))
    assert page.text.count("No number: this was not measured.") == 6  # in each of two looks


def test_a_repair_shows_its_search_on_development_rows_and_what_was_chosen() -> None:
    found, notes = view(gate_of("sft"))
    own, repaired = found.attempts
    assert notes == []
    assert (own.search, own.is_passed_on, repaired.is_passed_on) == (None, False, True)
    assert own.heading == "The stage's own policy" and repaired.heading == "Repair 1: interpolate"
    assert own.decisions[0].action == "repair by interpolate"
    assert repaired.search is not None and repaired.search.split == "development"
    shown = [(c.settings, c.lowest, c.tally, c.is_chosen) for c in repaired.search.candidates]
    assert shown == [
        ("weight 0.25, towards parent", "+2.88", "6 passed", False),
        ("weight 0.5, towards parent", "+3.41", "6 passed", True),
        ("weight 0.75, towards parent", "+0.03", "5 passed · 1 failed", False),
    ]
    assert (found.promoted, found.origin) == (POLICIES["sft"], "repaired by interpolate")


def test_looks_are_counted_and_rows_that_were_decided_on_before_are_named() -> None:
    first, _ = view(gate_of("sft"))
    second, _ = view(gate_of("sft-expert"))
    assert "twice by this gate in this configuration, and never by another" in first.looks and not first.is_reused
    assert "3 times by other configurations before" in second.looks and second.is_reused
    looks = [dict(decision.facts)["look"] for decision in second.attempts[0].decisions]
    assert looks == ["1 of 2", "2 of 2"]
    power = dict(first.attempts[1].decisions[0].facts)["chance that all keeps pass where nothing has changed"]
    assert re.fullmatch(r"9\d\.\d\u00a0%, at least 9\d\.\d\u00a0%", power)


@pytest.mark.parametrize(
    ("changes", "origin"),
    [
        ({"promoted": None, "decision": "hold"}, "nothing was passed on"),
        ({"promoted": POLICIES["base"], "decision": "roll_back"}, "the parent's policy, unchanged"),
        ({"promoted": "f" * 32}, "a policy that no attempt names"),
    ],
)
def test_whose_policy_was_passed_on_is_said(changes: dict[str, Any], origin: str) -> None:
    found, notes = view(gate_of("sft") | changes, inputs={"policy": POLICIES["base"]})
    assert (found.origin, notes) == (origin, [])


def test_a_repair_that_came_to_nothing_is_shown_without_a_decision_and_not_as_what_was_passed_on() -> None:
    gate = gate_of("sft")
    gate["attempts"][1] |= {"policy": gate["attempts"][0]["policy"], "decisions": []}
    found, notes = view(gate | {"promoted": gate["attempts"][0]["policy"]})
    assert [attempt.is_passed_on for attempt in found.attempts] == [True, False]
    assert (found.origin, notes) == ("the stage's own policy", [])


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"state": "splendid"}, "state is 'splendid', none of passed, failed, inconclusive, unmeasured."),
        ({"kind": 7}, "kind is 7, not text."),
        ({"low": "much"}, "figures: low is 'much', not a number."),
        ({"num_items": -3}, "figures: num_items is -3, not a count."),
        ({"left_out": [1]}, "figures: left_out is a list of 1, not counts by reason."),
        ({"figures": None}, "figures is nothing, though the rule is passed."),
    ],
)
def test_a_strange_value_is_noted_with_its_place_and_what_was_found(values: dict[str, Any], note: str) -> None:
    _, notes = view(gate_with(rule(**values)))
    assert f"run.json: stage 1 (sft): gate: attempts 1: decisions 1: results 1: {note}" in notes


def test_a_missing_figure_is_noted_and_a_null_one_is_a_limit_that_is_not_finite() -> None:
    gone = rule()
    del gone["figures"]["high"]
    found, notes = view(gate_with(gone))
    assert any(note.endswith("figures: high is missing, not a number.") for note in notes)
    figures = found.attempts[0].decisions[0].rules[0].figures
    assert figures and figures.plot and figures.plot.high is None and figures.limits == "−3.4 to –"
    _, notes = view(gate_with(rule(high=None)))
    assert notes == []


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value inside a record; of a list, those of its last part."""
    if path:
        yield path
    parts = (
        value.items()
        if isinstance(value, dict)
        else [(len(value) - 1, value[-1])]
        if isinstance(value, list) and value
        else []
    )
    for key, part in parts:
        yield from list_paths(part, (*path, key))


def replace_at(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    changed = copy.copy(value)
    changed[path[0]] = replace_at(value[path[0]], path[1:], part) if path[1:] else part
    return changed


def test_any_value_of_the_wrong_type_anywhere_in_a_gate_does_no_harm() -> None:
    gate = gate_of("sft")
    paths = list(list_paths(gate))
    assert len(paths) > 60
    for path in paths:
        for odd in ODD:
            found, _ = view(replace_at(gate, path, odd))
            assert found.badges, path


def test_a_page_with_strange_gates_checks_and_overrides_is_whole_and_says_what_was_found(tmp_path: Path) -> None:
    run = make_run(identity, 2)
    paths = list(list_paths(run["stages"][0]["gate"]))
    leaves = [path for path in paths if not any(other[: len(path)] == path for other in paths if other != path)]
    for turn, odd in enumerate(ODD):
        changed = copy.deepcopy(run)
        for path in leaves[turn :: len(ODD)]:
            changed["stages"][0]["gate"] = replace_at(changed["stages"][0]["gate"], path, odd)
        changed["stages"][1]["gate"] = odd
        changed["preflight"] = [{**finding, key: odd} for finding in run["preflight"] for key in finding] + [odd]
        changed["overrides"] = [odd, "memory"]
        page = read_page(tmp_path, changed)
        assert page.faults == []
        assert "run.json: preflight " in page.text, odd


def test_notes_on_one_run_are_bounded_and_a_value_is_told_in_few_characters() -> None:
    reader = FieldReader()
    for number in range(1000):
        reader.read_number({"n": "x"}, "n", f"place {number}")
    assert len(reader.notes) == MAX_NOTES
    assert [describe(value) for value in (None, [1, 2], {"a": 1}, "x", 7, True)] == [
        "nothing", "a list of 2", "a record of 1", "'x'", "7", "true",
    ]  # fmt: skip
    assert len(describe("y" * 10_000)) < 70
