"""Scorers from what a recipe says of them: settings checked, files by content, the user's own inside weighted ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError
from posttrain.pipeline.plugins import find_plugin
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.scorer_settings import SCORERS, FunctionSettings, list_parts, read_scorer
from posttrain.pipeline.scorers import ScorerContext, build_scorer, hash_scorer
from posttrain.sandbox.running import ProgramPool
from tests.models.reward_models import make_members, save_members
from tests.scorers.making import make_item

NEEDED: dict[str, dict[str, Any]] = {
    "facts": {"knowledge_base": "world.json"},
    "length": {"high": 5},
    "function": {"reference": "own.py:score"},
    "overlong": {"max_length": 9, "cache": 3},
    "cosine_length": {"max_length": 9, "correctness": "exact_match"},
    "learned": {"model": "judge"},
    "weighted": {"components": [{"name": "right", "scorer": {"type": "math", "answer_form": "integer"}}]},
}
WORLD = {"facts": [{"entity": "Aland", "attribute": "capital", "value": "Bton"}]}


@pytest.fixture
def context(tmp_path: Path) -> ScorerContext:
    (tmp_path / "world.json").write_text(json.dumps(WORLD))
    (tmp_path / "own.py").write_text(
        "import time\n\ndef score(completions, **columns):\n    time.sleep(0.2)\n    return [1.0] * len(completions)\n"
    )
    plugin = find_plugin("scorer", "own.py:score", Roots(tmp_path, (tmp_path,), tmp_path), place="scorer")
    assert plugin is not None
    here = tmp_path.joinpath
    return ScorerContext(here, {"own.py:score": plugin}, locate_model=here)


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_is_built_from_its_name_and_what_it_needs(
    name: str, context: ScorerContext, tmp_path: Path
) -> None:
    if name == "learned":
        save_members(tmp_path / "judge", make_members())
    value = {"type": name, **NEEDED.get(name, {})}
    scorer = build_scorer(value, context)
    assert scorer.name
    assert scorer.score([]) == []
    assert hash_scorer(value, context) == hash_scorer(dict(value), context)


def test_settings_reach_the_scorer(context: ScorerContext) -> None:
    item = make_item("The answer is 1,5.", {"answer": "3/2"})
    assert build_scorer("math", context).score([item])[0].value == 0.0
    assert build_scorer({"type": "math", "is_comma_decimal": True}, context).score([item])[0].value == 1.0
    hidden = make_item("<plan>5</plan>4", {"answer": "4"})
    assert build_scorer({"type": "short_answer"}, context).score([hidden])[0].value == 0.0
    assert build_scorer({"type": "short_answer", "reasoning_tag": "plan"}, context).score([hidden])[0].value == 1.0


def test_a_knowledge_base_counts_by_content(context: ScorerContext, tmp_path: Path) -> None:
    value = {"type": "facts", "knowledge_base": "world.json"}
    before = hash_scorer(value, context)
    assert build_scorer(value, context).score([make_item("The capital of Aland is Bton.")])[0].value == 1.0
    (tmp_path / "world.json").write_text(json.dumps(WORLD).replace("Bton", "Cton"))
    assert hash_scorer(value, context) != before
    nested = {"type": "weighted", "components": [{"name": "known", "scorer": value}]}
    assert hash_scorer(nested, context)[1] == hash_scorer(value, context)[1]


def test_a_weighted_scorer_keeps_the_parts_of_what_is_inside(context: ScorerContext) -> None:
    components = [
        {"name": "right", "scorer": "exact_match"},
        {"name": "short", "scorer": {"type": "length", "high": 3, "unit": "words"}, "role": "gate"},
    ]
    scorer = build_scorer({"type": "weighted", "components": components}, context)
    outcomes = scorer.score([make_item("b a", {"answer": "b a"}), make_item("b a c d", {"answer": "b a c d"})])
    assert [outcome.value for outcome in outcomes] == [1.0, 0.0]
    assert outcomes[1].parts == {"right": 1.0, "short": 0.0, "short.words": 4.0}


def test_the_references_of_the_users_own_scorers_are_found_at_any_depth() -> None:
    inner = {"type": "cosine_length", "max_length": 5, "correctness": "own.py:right"}
    value = {"type": "weighted", "components": [{"name": "a", "scorer": inner}, {"name": "b", "scorer": "b.py:f"}]}
    parts = list(list_parts(value, place="x"))
    assert [part.reference for part in parts if isinstance(part, FunctionSettings)] == ["own.py:right", "b.py:f"]
    kinds = [type(part).__name__ for part in parts]
    assert kinds == ["WeightedSettings", "CosineLengthSettings", "FunctionSettings", "FunctionSettings"]


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        ({"type": "mth"}, "did you mean 'math'"),
        ({"answer_form": "value"}, "known"),
        ({"type": "code", "scorng": "all"}, "did you mean 'scoring'"),
        ({"type": "code", "cpu_seconds": 0}, "correct the value"),
        ({"type": "facts"}, "add 'knowledge_base'"),
        ({"type": "weighted", "components": [{"name": "a", "scorer": {"type": "mth"}}]}, "did you mean 'math'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_cure(value: dict[str, Any], cure: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_scorer(value, place="evaluate.0.scorer")
    assert cure in caught.value.cure or cure in caught.value.describe()


@pytest.mark.parametrize(
    "value",
    [
        {"type": "math", "answer_form": "poem"},
        {"type": "length", "low": 5, "high": 4},
        {"type": "weighted", "components": [{"name": "g", "scorer": "exact_match", "role": "gate"}]},
        {"type": "overlong", "max_length": 3, "cache": 5},
    ],
)
def test_what_only_the_scorer_can_refuse_is_refused_by_name(value: dict[str, Any], context: ScorerContext) -> None:
    with pytest.raises(RecipeError):
        build_scorer(value, context)


def test_a_users_function_has_so_much_time_for_a_call(context: ScorerContext) -> None:
    item = make_item("x")
    value = {"type": "function", "reference": "own.py:score", "timeout_seconds": 0.05}
    (outcome,) = build_scorer(value, context).score([item])
    assert (outcome.status, outcome.fault) == ("errored", "harness")
    assert "did not return within 0.05 s" in outcome.why
    for patient in ("own.py:score", {**value, "timeout_seconds": 30}, {**value, "timeout_seconds": None}):
        assert build_scorer(patient, context).score([item])[0].value == 1.0


def test_programs_run_unsafely_only_where_that_is_allowed(
    context: ScorerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = ProgramPool.__init__

    def note(self: ProgramPool, *arguments: Any, **named: Any) -> None:
        asked.append(named["allow_unsafe"])
        original(self, *arguments, **named)

    monkeypatch.setattr(ProgramPool, "__init__", note)
    build_scorer("code", context)
    build_scorer("code", ScorerContext(allow_unsafe=True))
    assert asked == [False, True]
