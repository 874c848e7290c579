"""The JSON Schema for editors accepts what the reader accepts and refuses its commonest mistakes."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from posttrain.pipeline.recipe_schema import build_recipe_schema
from posttrain.pipeline.yaml_reader import read_yaml
from tests.pipeline.recipes import GOOD, replaced


def is_valid(text: str) -> bool:
    schema = build_recipe_schema()
    Draft202012Validator.check_schema(schema)
    return bool(Draft202012Validator(schema).is_valid(read_yaml(text, "demo.yaml")[0]))


def test_the_schema_accepts_a_good_recipe_and_a_plug_in_stage() -> None:
    assert is_valid(GOOD)
    assert is_valid(GOOD + "  - {name: tilt, type: 'tilt.py:run', from: sft, strength: 3}\n")
    assert is_valid(replaced("lab:seedling", "{source: a/b, revision: main}"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("learning_rate", "learning_rte"),
        ("seed: 17", "sed: 17"),
        ("1e-3", "-1e-3"),
        ("rows: 100", "rwos: 100"),
        ("[tensorboard]", "[tensorbord]"),
        ("schema: 1", "schema: 2"),
        ("name: sft", "name: S/F/T"),
        ("    epochs: 1", "    repeat: 0"),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(before: str, after: str) -> None:
    assert not is_valid(replaced(before, after))
