"""run.json has a schema, and what reports are tested on keeps to it."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest

from tests.reports.made_up_run import identity, make_run

SCHEMA = json.loads(resources.files("posttrain.pipeline").joinpath("run_schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("num_finished", [0, 1, 2])
def test_the_made_up_run_keeps_to_the_schema(num_finished: int) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(make_run(identity, num_finished))] == []


def test_a_missing_key_an_unknown_key_and_a_wrong_value_are_found_at_every_level() -> None:
    run = make_run(identity, 2)
    for part in (run, run["stages"][0], run["metrics"][0], run["artifacts"][0]):
        for key in list(part):
            value = part.pop(key)
            assert not VALIDATOR.is_valid(run), key
            part[key] = ["wrong", {}]
            assert not VALIDATOR.is_valid(run), key
            part[key] = value
        part["surprise"] = 1
        assert not VALIDATOR.is_valid(run)
        del part["surprise"]
    assert VALIDATOR.is_valid(run)
