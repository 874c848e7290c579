"""run.json has a schema, and what reports are tested on keeps to it."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from typing import Any

import jsonschema
import pytest

from posttrain.gates.results import Decision, Figures, RuleResult
from tests.reports.made_up_run import identity, make_run

SCHEMA = json.loads(resources.files("posttrain.pipeline").joinpath("run_schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("num_finished", [0, 1, 2])
def test_the_made_up_run_keeps_to_the_schema(num_finished: int) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(make_run(identity, num_finished))] == []


OPTIONAL = {"run": {"preflight", "overrides"}, "metric": {"policy", "task_hash", "template", "settings", "clusters"}}


def list_records(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one record of every kind that the schema describes."""
    attempt = run["stages"][0]["gate"]["attempts"][1]
    decision, candidate = attempt["decisions"][0], attempt["search"]["candidates"][0]
    rule = next(rule for rule in decision["results"] if rule["figures"])
    records = [run, run["stages"][0], run["metrics"][0], run["artifacts"][0], run["preflight"][0]]
    records += [run["stages"][0]["gate"], attempt, attempt["search"], candidate, candidate["results"][0], decision]
    return [*records, decision["joint_power"], rule, rule["figures"]]


def test_a_missing_key_an_unknown_key_and_a_wrong_value_are_found_at_every_level() -> None:
    run = make_run(identity, 2)
    run["metrics"][0]["policy"] = run["artifacts"][0]["hash"]
    for part in list_records(run):
        kind = "run" if part is run else "metric" if part is run["metrics"][0] else ""
        for key in list(part):
            value = part.pop(key)
            assert VALIDATOR.is_valid(run) == (key in OPTIONAL.get(kind, ())), key
            part[key] = ["wrong", {}]
            assert not VALIDATOR.is_valid(run), key
            part[key] = value
        part["surprise"] = 1
        assert not VALIDATOR.is_valid(run)
        del part["surprise"]
    assert VALIDATOR.is_valid(run)


def test_figures_of_a_rule_that_is_unmeasured_are_refused_and_so_is_a_measured_rule_without_any() -> None:
    run = make_run(identity, 2)
    results = run["stages"][1]["gate"]["attempts"][0]["decisions"][0]["results"]
    unmeasured = next(rule for rule in results if rule["state"] == "unmeasured")
    measured = next(rule for rule in results if rule["state"] == "passed")
    figures = measured["figures"]
    for rule, wrong in ((unmeasured, figures), (measured, None)):
        kept = rule["figures"]
        rule["figures"] = wrong
        assert not VALIDATOR.is_valid(run)
        rule["figures"] = kept
    assert VALIDATOR.is_valid(run)


@pytest.mark.parametrize(("name", "record"), [("decision", Decision), ("rule", RuleResult), ("figures", Figures)])
def test_the_schema_names_every_field_of_what_a_gate_writes_and_no_other(name: str, record: type) -> None:
    described = SCHEMA["$defs"][name]
    fields = [field.name for field in dataclasses.fields(record)]
    assert list(described["properties"]) == fields
    assert described["required"] == fields
