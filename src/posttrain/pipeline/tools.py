"""From an environment's settings to the environment: built-in tools, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.config import Config
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.hashing import hash_file, hash_json
from posttrain.evaluation.task import GenerationTask
from posttrain.lab.skills.tools import TOOLS as LAB_TOOLS
from posttrain.lab.skills.tools import run_tool
from posttrain.lab.world import build_world
from posttrain.models.loading import read_context_tokens
from posttrain.pipeline import tool_settings as settings
from posttrain.pipeline.plugins import load_object
from posttrain.pipeline.scorers import ScorerContext
from posttrain.rollouts.calculator import CALCULATOR
from posttrain.rollouts.environments import ERROR_MARK, Environment, EnvironmentSettings
from posttrain.rollouts.tools import TimedFunction, Tool, ToolError, build_python_tool, describe_function, take_text
from posttrain.sandbox.programs import ProgramLimits
from posttrain.sandbox.running import ProgramPool
from posttrain.scorers.knowledge_base import load_knowledge_base


def build_environment(
    chosen: EnvironmentSettings, renderer: Renderer, context: ScorerContext, *, context_tokens: int | None = None
) -> Environment:
    """Return the environment that a recipe describes.

    Args:
        chosen: Its settings.
        renderer: The policy's.
        context: Where paths lead, the user's own tools (`plugins`), and whether a sandbox may be missing.
        context_tokens: The longest row that the policy takes.

    Raises:
        RecipeError: The settings do not fit, or the user's code cannot be imported or is no tool.
        DataError: A knowledge base cannot be read, or two tools have one name.
        TemplateError: The chat template cannot show tools.
    """
    tools = [
        tool
        for part in settings.list_tools(chosen, place=context.place)
        for tool in _BUILDERS[type(part)](part, context)
    ]
    return Environment(
        tools, chosen, renderer, content_hash=hash_environment(chosen, context), context_tokens=context_tokens
    )


def build_task_environment(
    task: GenerationTask, renderer: Renderer, context: ScorerContext, folder: Path
) -> Environment | None:
    """Return the environment of a task for the policy in a folder, None for a task of one turn.

    Raises:
        PosttrainError: See `build_environment`.
    """
    if task.environment is None:
        return None
    context = replace(context, place=f"evaluate: {task.name}: environment")
    return build_environment(task.environment, renderer, context, context_tokens=read_context_tokens(folder))


def hash_environment(chosen: EnvironmentSettings, context: ScorerContext) -> str:
    """Return the name by content of an environment: its settings, its files and the user's code by content."""
    parts = list(settings.list_tools(chosen, place=context.place))
    own = [
        [part.identity(), context.plugins[part.reference].content_hash]
        if isinstance(part, settings.FunctionToolSettings)
        else part.identity()
        for part in parts
    ]
    bases = [part.knowledge_base for part in parts if isinstance(part, settings.LookUpSettings)]
    bounds = {name: value for name, value in chosen.identity().items() if name != "tools"}
    return hash_json([own, [hash_file(context.locate(base)) for base in bases], bounds])


def _build_python(chosen: settings.PythonSettings, context: ScorerContext) -> list[Tool]:
    limits = ProgramLimits(
        cpu_seconds=chosen.cpu_seconds, wall_seconds=chosen.wall_seconds, memory_bytes=chosen.memory_mb << 20
    )
    return [build_python_tool(ProgramPool(limits=limits, allow_unsafe=context.allow_unsafe))]


def _build_look_up(chosen: settings.LookUpSettings, context: ScorerContext) -> list[Tool]:
    base = load_knowledge_base(context.locate(chosen.knowledge_base))

    def run(arguments: Mapping[str, Any]) -> str:
        entity, attribute = base.find_entity(arguments["entity"]), base.find_attribute(arguments["attribute"])
        if entity is None:
            raise ToolError(f"nothing is known of {arguments['entity'][:60]!r}")
        if attribute is None:
            raise ToolError(f"there is no attribute {arguments['attribute'][:60]!r}")
        values = base.find_values(entity, attribute)
        if not values:
            raise ToolError(f"no {arguments['attribute']} of {arguments['entity']} is known")
        return "; ".join(values)

    parameters = take_text(entity="whom or what it is about", attribute="what is asked of it")
    return [Tool(chosen.name, chosen.description, parameters, run)]


def _build_lab(chosen: settings.LabToolsSettings, context: ScorerContext) -> list[Tool]:
    world = build_world(chosen.world_seed)

    def build(name: str) -> Callable[[Mapping[str, Any]], str]:
        def run(arguments: Mapping[str, Any]) -> str:
            text = run_tool(world, name, arguments)
            if text.startswith(ERROR_MARK):
                raise ToolError(text.removeprefix(ERROR_MARK))
            return text

        return run

    described = [entry["function"] for entry in LAB_TOOLS]
    return [Tool(each["name"], "", each["parameters"], build(each["name"])) for each in described]


def _build_function(chosen: settings.FunctionToolSettings, context: ScorerContext) -> list[Tool]:
    plugin, place = context.plugins[chosen.reference], context.place
    function = load_object(plugin, place=place)
    if not callable(function):
        raise RecipeError(
            f"the tool {plugin.reference} is {function!r}"[:300], expected="a function of named parameters", place=place
        )
    about, parameters = ("", chosen.parameters) if chosen.parameters else describe_function(function, place)
    if chosen.parameters is not None and chosen.parameters.get("type") != "object":
        raise DataError(
            f"the parameters of {plugin.reference} are {chosen.parameters!r:.200}",
            expected="a JSON schema of the type object, with 'properties'",
            cure="leave 'parameters' out, so that they are read from the function's signature",
            place=place,
        )
    description = about if chosen.description is None else chosen.description
    run = TimedFunction(function, chosen.timeout_seconds)
    return [Tool(chosen.name or plugin.attribute, description, parameters or {}, run)]


_BUILDERS: dict[type[Config], Callable[[Any, ScorerContext], list[Tool]]] = {
    settings.CalculatorSettings: lambda chosen, context: [CALCULATOR],
    settings.PythonSettings: _build_python,
    settings.LookUpSettings: _build_look_up,
    settings.LabToolsSettings: _build_lab,
    settings.FunctionToolSettings: _build_function,
}
