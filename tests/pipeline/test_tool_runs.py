"""Stages and tasks with tools: what a policy calls is answered, trained around, and replayed after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.chat.calls import Call
from posttrain.chat.tool_turns import ToolTurn
from posttrain.core.errors import PosttrainError, RecipeError
from posttrain.models.artifacts import save_tokenizer
from posttrain.models.making import make_model
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.rollouts import environments
from tests.models.tiny_models import ARCHITECTURES, make_tokenizer
from tests.pipeline.tiny_runs import Workshop, recipe_values, task
from tests.stages.tiny_sft import StopAfter

OWN = """\
num_calls = 0


def again(text: str) -> str:
    global num_calls
    num_calls += 1
    return text[::-1]


def last(completions, transcripts=None, **columns):
    return [float(len(text)) for text in completions]
"""


def call_half(text: str, syntax: str) -> ToolTurn | None:
    """Take every text of even length for a call."""
    if len(text) % 2:
        return None
    call = {"type": "function", "function": {"name": "again", "arguments": {"text": text}}}
    return ToolTurn({"role": "assistant", "content": "", "tool_calls": [call]}, (Call("again", {"text": text}),))


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    settings = {**ARCHITECTURES["llama"], "max_position_embeddings": 1024, "initializer_range": 0.1}
    base = tmp_path / "base"
    make_model(settings, make_tokenizer(), 3).save_pretrained(base)
    save_tokenizer(make_tokenizer(), base, None)
    made = Workshop(tmp_path / "workshop", base)
    (made.folder / "own.py").write_text(OWN)
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(environments, "read_turn", call_half)
    return made


def rl(environment: Any, **changes: Any) -> dict[str, Any]:
    values = {
        "name": "rl",
        "type": "grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": "own.py:last",
        "steps": 2,
        "problems_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 12,
        "learning_rate": 3e-3,
        "dtype": "float32",
        "log_every_steps": 1,
        "checkpoint_every_steps": 1,
        "environment": environment,
    }
    return recipe_values({**values, **changes})


def run(workshop: Workshop, values: dict[str, Any], name: str, **arguments: Any) -> dict[str, Any]:
    path = workshop.folder / f"{name}.yaml"
    path.write_text(json.dumps({**values, "folder": f"runs/{name}"}))
    folder = run_recipe(read_recipe(path), override=["rollouts", "length_caps"], **arguments)
    return json.loads((folder / "run.json").read_text())


@pytest.mark.invariants
def test_a_stage_with_tools_ends_the_same_wherever_it_was_stopped(workshop: Workshop) -> None:
    # A policy of random weights stops now and then, so the cap is high.
    values = rl({"tools": ["own.py:again"], "max_turns": 3}, max_new_tokens=250)
    whole = run(workshop, values, "whole")["stages"][0]
    (path,) = (workshop.folder / "runs/whole/stages").glob("*/metrics.jsonl")
    line = json.loads(path.read_text().splitlines()[0])
    assert line["tools/turns"] > 1 and line["tools/errors"] == 0.0 and line["sampler_mismatch/max"] < 1e-4
    with pytest.raises(PosttrainError, match="stopped as asked"):
        run(workshop, values, "stopped", should_stop=StopAfter(1))
    assert run(workshop, values, "stopped")["stages"][0]["outputs"] == whole["outputs"]
    one_turn = run(workshop, rl(None, max_new_tokens=250), "one")["stages"][0]
    assert one_turn["outputs"] != whole["outputs"] and one_turn["key"] != whole["key"]


@pytest.mark.invariants
def test_every_key_of_an_environment_and_the_tools_source_name_what_a_stage_makes(workshop: Workshop) -> None:
    def find_key(environment: Any) -> str:
        return run(workshop, rl(environment, steps=0), "keys")["stages"][0]["key"]

    plain: dict[str, Any] = {"tools": ["own.py:again"]}
    others = [
        {**plain, "max_turns": 2},
        {**plain, "max_observation_tokens": 9},
        {**plain, "max_result_characters": 9},
        {"tools": ["own.py:again", "calculator"]},
        {"tools": [{"type": "function", "reference": "own.py:again", "timeout_seconds": 3.0}]},
    ]
    keys = {find_key(plain), *map(find_key, others)}
    assert len(keys) == 6
    (workshop.folder / "own.py").write_text(OWN.replace("[::-1]", "[::-2]"))
    assert find_key(plain) not in keys


@pytest.mark.invariants
def test_a_task_with_tools_keeps_what_was_said_in_its_items(workshop: Workshop) -> None:
    values = rl({"tools": ["own.py:again"]}, steps=0)
    environment = {"tools": ["own.py:again"], "max_turns": 2}
    asked = task(scorer="own.py:last", max_new_tokens=250, temperature=1.0, num_samples=4, environment=environment)
    run(workshop, {**values, "evaluate": [asked]}, "asked")
    paths = (workshop.folder / "runs/asked/evaluations").rglob("*.jsonl")
    items = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    seen = [item for item in items if "transcript" in item]
    cut = [item for item in items if item["outcome"]["status"] == "truncated"]
    assert seen and all([m["role"] for m in item["transcript"]] == ["assistant", "tool"] for item in seen)
    assert all(item["outcome"]["parts"]["stopped"] == 0.0 for item in cut)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"tools": ["calculater"]}, "did you mean 'calculator'?"),
        ({"tools": []}, "tools"),
        ({"tools": ["python"], "max_turn": 3}, "max_turns"),
        ({"tools": ["own.py:agian"]}, "did you mean 'again'?"),
        ({"tools": [{"type": "look_up"}]}, "knowledge_base"),
        ({"tools": [{"type": "python", "cpu": 3}]}, "cpu_seconds"),
        ({"tools": [{"type": "look_up", "knowledge_base": "../../away.json"}]}, "outside the declared roots"),
    ],
)
def test_tools_that_cannot_be_are_refused_with_what_was_meant(
    workshop: Workshop, environment: dict[str, Any], found: str
) -> None:
    path = workshop.folder / "bad.yaml"
    path.write_text(json.dumps(rl(environment)))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert found in f"{caught.value.found} {caught.value.expected} {caught.value.cure}"


def test_stop_strings_beside_tools_are_refused(workshop: Workshop) -> None:
    path = workshop.folder / "bad.yaml"
    path.write_text(json.dumps(rl({"tools": ["calculator"]}, stop=["x"])))
    with pytest.raises(RecipeError, match="stop"):
        read_recipe(path)


@pytest.mark.invariants
def test_the_labs_tools_are_trained_with_on_the_labs_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = rl({"tools": ["lab:tools"], "max_turns": 3}, data=[{"source": "lab:tools", "rows": 40}], scorer="lab")
    values["stages"][0] |= {"max_new_tokens": 64, "problems_per_step": 4, "learning_rate": 1e-5}
    Path("lab.yaml").write_text(json.dumps({**values, "model": "lab:base", "folder": "run"}))
    folder = run_recipe(read_recipe(Path("lab.yaml")), override=["rollouts", "length_caps"])
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    (path,) = (folder / "stages").glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 and all(line["tools/turns"] >= 1 for line in lines)
