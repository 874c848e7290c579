"""What a recipe may say of a tool: a name, a reference, or a mapping with `type` and the keys of that type.

Every class here is the keys of one tool; `pipeline/tools.py` builds it. A reference to a user's own function
(`tools.py:weather`) may stand alone, or under the type `function`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from posttrain.core.config import Config, parse_config, suggest
from posttrain.core.errors import RecipeError
from posttrain.lab.world import WORLD_SEED
from posttrain.pipeline.plugins import Plugin, is_file_reference, list_plugin_names
from posttrain.pipeline.recipe_checks import require_plugin
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.yaml_reader import KeyPath, Positions
from posttrain.rollouts.environments import EnvironmentSettings


class CalculatorSettings(Config):
    """Exact arithmetic."""

    type: Literal["calculator"] = "calculator"


class PythonSettings(Config):
    """Programs in the sandbox."""

    type: Literal["python"] = "python"
    cpu_seconds: float = Field(2.0, gt=0, le=600)
    wall_seconds: float = Field(10.0, gt=0, le=3600)
    memory_mb: int = Field(512, ge=16, le=1 << 20)


class LookUpSettings(Config):
    """The values that a knowledge base gives an entity's attribute."""

    type: Literal["look_up"] = "look_up"
    knowledge_base: str = Field(min_length=1)
    name: str = Field("look_up", pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    description: str = "Returns what is known of an attribute of an entity."


class LabToolsSettings(Config):
    """The lab's own calculator and stock list."""

    type: Literal["lab:tools"] = "lab:tools"
    world_seed: int = Field(WORLD_SEED, ge=0)


class FunctionToolSettings(Config):
    """The user's own function, as `file.py:name` or an entry point; its reference alone will do.

    What is not given is read from the function: its name, its docstring's first paragraph, its signature.
    """

    type: Literal["function"] = "function"
    reference: str = Field(min_length=1)
    name: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    timeout_seconds: float = Field(10.0, gt=0, le=3600)


TOOLS: dict[str, type[Config]] = {
    kind.model_fields["type"].default: kind
    for kind in (CalculatorSettings, PythonSettings, LookUpSettings, LabToolsSettings, FunctionToolSettings)
}
"""The keys of every kind of tool, by its type."""


def read_tool(value: str | Mapping[str, Any], *, place: str) -> Config:
    """Return a tool's settings; a text that names no built-in tool is the reference of a user's own.

    Raises:
        RecipeError: No such type, an unknown key, or a value out of its range.
    """
    values = {"type": value} if isinstance(value, str) else dict(value)
    name = values.get("type")
    if (
        isinstance(value, str)
        and value not in TOOLS
        and (is_file_reference(value) or value in list_plugin_names("tool"))
    ):
        return FunctionToolSettings(reference=value)
    if not isinstance(name, str) or name not in TOOLS:
        raise RecipeError(
            f"a tool of the type {name!r}" if "type" in values else "a tool without a type",
            expected=f"{', '.join(TOOLS)}, an installed entry point, or file.py:name below the recipe's folder",
            cure=suggest(str(name), [*TOOLS, *list_plugin_names("tool")]),
            place=place,
        )
    return parse_config(TOOLS[name], values, place=place)


def describe_tools(positions: Positions, path: KeyPath) -> str:
    """Return where the tools of a stage or task stand, for messages."""
    return positions.describe(positions.nearest((*path, "environment", "tools")))


def list_tools(settings: EnvironmentSettings, *, place: str) -> Iterator[Config]:
    """Yield the settings of an environment's tools.

    Raises:
        RecipeError: See `read_tool`.
    """
    for value in settings.tools:
        yield read_tool(value, place=place)


def find_tool_plugins(settings: EnvironmentSettings | None, roots: Roots, place: str) -> dict[str, Plugin]:
    """Return the user's own tools of an environment, by reference.

    Raises:
        RecipeError: No tool of some name is known, settings do not fit, or a knowledge base lies outside the roots.
    """
    found = {}
    for tool in list_tools(settings, place=place) if settings is not None else ():
        if isinstance(tool, FunctionToolSettings):
            found[tool.reference] = require_plugin("tool", tool.reference, roots, place)
        elif isinstance(tool, LookUpSettings):
            roots.resolve(tool.knowledge_base, place=place)
    return found
