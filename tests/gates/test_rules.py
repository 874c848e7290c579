"""The gate's configuration: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError
from posttrain.gates.rules import (
    CeilingRule,
    FloorRule,
    GateRules,
    ImproveRule,
    KeepRule,
    check_names,
    list_baselines,
    list_tasks,
    split_metric,
)
from tests.contracts.reference import describe_key
from tests.contracts.sources import REPOSITORY

KEEP = {"metric": "facts", "margin": 0.08}
DOCUMENT = REPOSITORY / "docs" / "gates.md"


def parse(**values: Any) -> GateRules:
    return parse_config(GateRules, values, place="stages.sft.gate")


def refusal(**values: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(**values)
    return caught.value


def test_a_whole_gate_is_read() -> None:
    rules = parse(
        improve=[{"metric": "arithmetic", "by": 0.02}],
        keep=[KEEP, {"metric": "tools/format", "margin": 0.03, "baseline": "base", "cumulative_margin": 0.06}],
        floor=[{"metric": "citations", "at_least": 0.5}],
        ceiling=[{"metric": "benign/refused", "at_most": 0.1}],
        on_fail=["interpolate", "replay"],
        max_attempts=1,
    )
    assert (rules.keep[1].baseline, rules.num_attempts, rules.level, rules.looks) == ("base", 1, 0.05, 1)
    assert list_tasks(rules) == ["arithmetic", "benign", "citations", "facts", "tools"]
    assert list_baselines(rules) == ["base"]


def test_an_integer_stands_for_a_fraction_where_it_is_one() -> None:
    assert parse(improve=[{"metric": "facts", "by": 0}]).improve[0].by == 0.0


def test_each_repair_is_tried_once_unless_said_otherwise() -> None:
    assert parse(keep=[KEEP], on_fail=["interpolate", "replay"]).num_attempts == 2
    assert parse(keep=[KEEP]).num_attempts == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"keep": [{"metric": "facts", "margn": 0.08}]}, "'margin'"),
        ({"keeps": [KEEP]}, "'keep'"),
        ({"floor": [{"metric": "facts", "at_leest": 0.5}]}, "'at_least'"),
        ({"ceiling": [{"metric": "facts", "at_mots": 0.5}]}, "'at_most'"),
    ],
)
def test_a_misspelt_key_is_refused_with_what_was_meant(values: dict[str, Any], said: str) -> None:
    assert f"did you mean {said}" in refusal(**values).cure


@pytest.mark.parametrize("points", [8, 8.0, 1, 100])
def test_points_are_refused_with_the_fraction(points: float) -> None:
    error = refusal(keep=[{"metric": "facts", "margin": points}])
    assert f"did you mean {points / 100:g}" in error.found
    assert error.place == "stages.sft.gate"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "without a rule"),
        ({"on_fail": ["replay"]}, "without a rule"),
        ({"keep": [{"metric": "facts"}]}, "'keep.0.margin' is missing"),
        ({"keep": [{"metric": "facts", "margin": 0}]}, "greater than 0"),
        ({"keep": [{"metric": "facts", "margin": -0.1}]}, "greater than 0"),
        ({"keep": [{"metric": "facts", "margin": "0.08"}]}, "valid number"),
        ({"keep": [{"metric": "facts", "margin": True}]}, "valid number"),
        ({"keep": [{"metric": "facts", "margin": float("nan")}]}, "finite"),
        ({"keep": [KEEP, KEEP]}, "twice"),
        ({"keep": [KEEP | {"cumulative_margin": 0.1}]}, "needs a 'baseline'"),
        ({"keep": [{"metric": "Facts!", "margin": 0.1}]}, "pattern"),
        ({"keep": [{"metric": "facts/", "margin": 0.1}]}, "pattern"),
        ({"keep": [KEEP], "max_attempts": 2}, "without 'on_fail'"),
        ({"keep": [KEEP], "on_fail": ["replay"], "max_attempts": 0}, "greater than or equal to 1"),
        ({"keep": [KEEP], "on_fail": ["replay", "replay"]}, "twice"),
        ({"keep": [KEEP], "on_fail": ["pray"]}, "'interpolate'"),
        ({"keep": [KEEP], "level": 0}, "greater than 0"),
        ({"keep": [KEEP], "looks": 0}, "greater than or equal to 1"),
        ({"improve": [{"metric": "facts", "by": -0.1}]}, "greater than or equal to 0"),
        (
            {"floor": [{"metric": "a", "at_least": 0.5}], "ceiling": [{"metric": "a", "at_most": 0.5}]},
            "nothing can pass",
        ),
        ({"floor": [{"metric": "a", "at_least": 0}]}, "greater than 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], said: str) -> None:
    assert said in refusal(**values).found


def test_one_metric_may_be_kept_against_the_parent_and_a_baseline() -> None:
    assert len(parse(keep=[KEEP, KEEP | {"baseline": "base"}]).keep) == 2


def test_a_configuration_is_frozen_and_only_power_changes_no_result() -> None:
    rules = parse(keep=[KEEP])
    with pytest.raises(ValueError, match="frozen"):
        rules.level = 0.1  # type: ignore[misc]
    assert rules.identity_hash() == parse(keep=[KEEP], power=0.8).identity_hash()
    assert rules.identity_hash() != parse(keep=[KEEP], level=0.1).identity_hash()
    assert rules.identity_hash() != parse(keep=[KEEP | {"margin": 0.07}]).identity_hash()


def test_unknown_tasks_and_baselines_are_refused_with_what_was_meant() -> None:
    rules = parse(keep=[KEEP | {"baseline": "stf"}])
    for tasks, said in ((["fact", "tools"], "did you mean 'fact'?"), (["facts"], "did you mean 'sft'?")):
        with pytest.raises(RecipeError) as caught:
            check_names(rules, tasks=tasks, stages=["base", "sft"], place="stages.dpo.gate")
        assert caught.value.cure == said
        assert caught.value.place == "stages.dpo.gate"
    check_names(parse(keep=[KEEP]), tasks=["facts"], stages=[], place="")


def test_a_metric_is_a_task_or_a_part_of_its_outcomes() -> None:
    assert split_metric("facts") == ("facts", None)
    assert split_metric("tools/format") == ("tools", "format")
    assert split_metric("tools/format/json") == ("tools", "format/json")


@pytest.mark.parametrize("kind", [GateRules, ImproveRule, KeepRule, FloorRule, CeilingRule])
def test_every_key_is_documented_with_its_real_range_and_default(kind: type) -> None:
    found = re.findall(rf"<!-- keys: {kind.__name__} -->\n((?:\|.*\n)+)", DOCUMENT.read_text(encoding="utf-8"))
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in found[0].splitlines()[2:]]
    assert [row[:3] for row in rows] == [list(describe_key(name, field)) for name, field in kind.model_fields.items()]
    assert all(len(row) == 4 and row[3] for row in rows)


def test_the_gate_that_the_document_shows_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(schema:.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert parse_config(GateRules, YAML(typ="safe").load(text)["stages"][1]["gate"], place="").num_attempts == 2
