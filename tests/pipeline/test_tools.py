"""Tools as a recipe names them: what they reply, and what names them by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.chat.calls import Call
from posttrain.chat.tool_turns import ToolTurn
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Problem
from posttrain.lab.source import lab_rows
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.scorers import build_context
from posttrain.pipeline.tool_settings import find_tool_plugins
from posttrain.pipeline.tools import build_environment, hash_environment
from posttrain.rollouts.environments import Environment, EnvironmentSettings
from tests.rollouts.scripted import make_renderer

BASE = {"facts": [{"entity": "Arden", "attribute": "river", "value": "Lune"}]}
OWN = """\
def weather(town: str, days: int = 1) -> str:
    'Tells the weather.'
    return f"rain in {town}" * days


number = 3
"""


def build(folder: Path, *tools: Any) -> Environment:
    roots = declare_roots(folder / "recipe.yaml")
    settings = EnvironmentSettings(tools=list(tools))
    context = build_context(roots, find_tool_plugins(settings, roots, "tools"))
    return build_environment(settings, make_renderer(), context)


def ask(environment: Environment, name: str, **arguments: Any) -> str:
    problem = environment.offer(Problem("p", [{"role": "user", "content": "x"}]))
    [message] = environment.answer(problem, ToolTurn({}, (Call(name, arguments),))).messages
    return message["content"]


def test_a_look_up_gives_the_values_of_a_knowledge_base_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps(BASE))
    environment = build(tmp_path, {"type": "look_up", "knowledge_base": "facts.json", "name": "world"})
    assert ask(environment, "world", entity="arden", attribute="River") == "Lune"
    assert ask(environment, "world", entity="Bern", attribute="river") == "error: nothing is known of 'Bern'"
    assert ask(environment, "world", entity="Arden", attribute="hill") == "error: there is no attribute 'hill'"


def test_the_labs_tools_answer_the_calls_that_its_questions_need(tmp_path: Path) -> None:
    environment = build(tmp_path, "lab:tools")
    row = next(row for row in lab_rows("tools", "held_out") if row["skill"] == "tool_stock")
    ((name, arguments),) = row["ground_truth"][0].items()
    assert ask(environment, name, **{key: values[0] for key, values in arguments.items()}) == row["answer"]
    assert ask(environment, "calculator", expression="2+2").startswith("error: write two numbers")


def test_a_function_of_the_users_own_is_called_by_name(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    environment = build(tmp_path, "own.py:weather", "calculator")
    described = environment.tools["weather"].schema["function"]
    assert described["description"] == "Tells the weather." and described["parameters"]["required"] == ["town"]
    assert ask(environment, "weather", town="Arden", days=2) == "rain in Ardenrain in Arden"
    assert ask(environment, "weather", town="Arden", days="2") == "error: weather.days is '2', not of type integer"
    given = {"type": "object", "properties": {"town": {"type": "string", "enum": ["Arden"]}}, "required": ["town"]}
    named = {"type": "function", "reference": "own.py:weather", "name": "rain", "parameters": given}
    assert ask(build(tmp_path, named), "rain", town="Bern") == "error: rain.town is 'Bern', none of those allowed"
    with pytest.raises(RecipeError, match="is 3"):
        build(tmp_path, "own.py:number")
    with pytest.raises(DataError, match="two tools are called 'calculator'"):
        build(tmp_path, "calculator", "lab:tools")


def test_an_environment_is_named_by_its_files_too(tmp_path: Path) -> None:
    settings = EnvironmentSettings(tools=[{"type": "look_up", "knowledge_base": "facts.json"}])
    context = build_context(declare_roots(tmp_path / "recipe.yaml"), {})
    (tmp_path / "facts.json").write_text(json.dumps(BASE))
    first = hash_environment(settings, context)
    assert hash_environment(settings, context) == first
    (tmp_path / "facts.json").write_text(json.dumps(BASE).replace("Lune", "Wye"))
    assert hash_environment(settings, context) != first
