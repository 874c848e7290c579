"""The JSON Schema of a recipe, for editors that complete and check YAML; the reader itself does not use it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from posttrain.evaluation.monitors.settings import MONITORS
from posttrain.pipeline.recipe_settings import RecipeHead, StageKeys
from posttrain.pipeline.stage_types import BUILT_IN_STAGES

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def build_recipe_schema() -> dict[str, Any]:
    """Return the schema of a recipe with every built-in stage; a plug-in's own keys are not known and may be any."""
    kinds: list[type[BaseModel]] = [RecipeHead, StageKeys, *BUILT_IN_STAGES.values()]
    _, schemas = models_json_schema([(kind, "validation") for kind in kinds], by_alias=True)
    definitions: dict[str, Any] = schemas["$defs"]
    head = definitions.pop(RecipeHead.__name__)
    common = definitions.pop(StageKeys.__name__)
    stages = []
    for name, kind in BUILT_IN_STAGES.items():
        own = definitions.pop(kind.__name__)
        properties = {**own["properties"], **common["properties"], "type": {"const": name}}
        required = sorted({*own.get("required", []), *common["required"]})
        stages.append({"type": "object", "properties": properties, "required": required, "additionalProperties": False})
    plugin_type = {"type": "string", "not": {"enum": list(BUILT_IN_STAGES)}}
    plugin = {"type": "object", "properties": {**common["properties"], "type": plugin_type}}
    stages.append({**plugin, "required": common["required"]})
    head["properties"]["model"] = {"anyOf": [{"type": "string", "minLength": 1}, head["properties"]["model"]]}
    monitors = head["properties"]["monitors"]
    monitors["items"] = {"anyOf": [{"enum": list(MONITORS)}, monitors["items"]]}
    head["properties"]["monitors"] = {"anyOf": [{"enum": list(MONITORS)}, monitors]}
    return {
        "$schema": SCHEMA_DIALECT,
        "title": "A posttrain recipe",
        "type": "object",
        "properties": {
            "schema": {"const": 1},
            **head["properties"],
            "stages": {"type": "array", "minItems": 1, "items": {"anyOf": stages}},
        },
        "required": ["schema", *head["required"], "stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }
