"""From names to parts: the right rows, problems, scorers and policies, or an error that says what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError, ModelError, RecipeError
from posttrain.core.progress import SilentProgress
from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.measure import choose_dtype, read_measure_settings
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.previews import preview_rows
from posttrain.pipeline.scorers import build_scorer
from posttrain.pipeline.task_rows import read_problems
from posttrain.pipeline.wiring import StageData, fingerprint_sources, fingerprint_values, load_stage_data
from posttrain.scorers.exact_match import ExactMatch
from posttrain.stages.sft import SftConfig
from tests.pipeline.tiny_runs import Workshop, make_rows, sft, task


def load(workshop: Workshop, **changes: Any) -> StageData:
    """The rows of a recipe's one stage."""
    recipe = workshop.read(sft(**changes))
    config = recipe.stages[0].config
    assert isinstance(config, SftConfig)
    with open_renderer(recipe, find_base(recipe)) as renderer:
        return load_stage_data(recipe, config, renderer, 256, SilentProgress())


def test_rows_and_validation_rows_are_tokenized_apart_and_once(workshop: Workshop) -> None:
    sources = [{"source": "rows.jsonl", "rows": 4}, {"source": "rows.jsonl", "skip": 4}]
    first = load(workshop, data=sources, validation=[{"source": "held_out.jsonl"}])
    assert [len(rows) for rows in first.train.rows] == [4, 6] and first.train.num_tokenized == 10
    assert first.validation is not None and len(first.validation.rows[0]) == 5
    assert first.train.rows[1].row_ids[0] == "rows.jsonl:5"
    assert first.train.ledger.rows_in == 10  # what is measured is no part of what is trained on
    second = load(workshop, data=sources, validation=[{"source": "held_out.jsonl"}])
    assert second.validation is not None
    assert (second.train.num_tokenized, second.validation.num_tokenized) == (0, 0)
    assert second.train.rows[0].content_hash == first.train.rows[0].content_hash


def test_a_row_may_be_as_long_as_the_models_context_where_no_length_is_given(workshop: Workshop) -> None:
    path = make_rows(workshop.folder / "long.jsonl", 1)
    row = json.loads(path.read_text())
    row["messages"][0]["content"] = "x" * 300
    path.write_text(json.dumps(row) + "\n" + (workshop.folder / "rows.jsonl").read_text())
    with pytest.raises(DataError, match="256"):
        load(workshop, data=[{"source": "long.jsonl"}])
    kept = load(workshop, data=[{"source": "long.jsonl"}], truncation="drop", max_affected_fraction=1.0)
    assert len(kept.train.rows[0]) == 10 and kept.train.ledger.rows_dropped == 1


def test_a_problem_is_what_comes_before_the_last_answer_with_every_column(workshop: Workshop) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "second"},
    ]
    rows = [
        {"messages": turns, "answer": "second", "level": 3},
        {"prompt": "three", "completion": "third", "answer": "third", "level": 4},
    ]
    (workshop.folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = workshop.read(evaluate=[task(data={"source": "problems.jsonl"})])
    first, second = read_problems(recipe.roots, recipe.evaluate[0].data)
    assert first.messages == turns[:4] and first.columns == {"answer": "second", "level": 3}
    assert [message["content"] for message in second.messages] == ["three"]
    assert second.columns["answer"] == "third" and first.problem_id != second.problem_id
    assert isinstance(build_scorer("exact_match", read_measure_settings(recipe).scorer_context), ExactMatch)


def test_a_source_counts_by_content_wherever_it_lies(workshop: Workshop) -> None:
    (workshop.folder / "deep").mkdir()
    make_rows(workshop.folder / "deep" / "rows.jsonl", 10)

    def hashes(name: str) -> list[str]:
        recipe = workshop.read(sft(data=[{"source": name}]))
        config = recipe.stages[0].config
        assert isinstance(config, SftConfig)
        return fingerprint_sources(recipe, config.data)

    assert hashes("rows.jsonl") == hashes("deep/rows.jsonl") == hashes(str(workshop.folder / "rows.jsonl"))
    before = hashes("rows.jsonl")
    make_rows(workshop.folder / "rows.jsonl", 9)
    assert hashes("rows.jsonl") != before


def test_the_sources_in_a_plug_ins_values_are_found_at_any_depth(workshop: Workshop) -> None:
    recipe = workshop.read()
    values = {"a": [{"source": "rows.jsonl"}, {"b": {"source": "base"}}], "source": "lab:conversations", "c": 1}
    found = fingerprint_values(recipe, values)
    assert len(found) == 2 and len(set(found)) == 2
    make_rows(workshop.folder / "rows.jsonl", 3)
    assert fingerprint_values(recipe, values)[0] != found[0]
    (workshop.folder / "base" / "config.json").open("a").write(" ")
    assert fingerprint_values(recipe, values)[1] != found[1]
    with pytest.raises(DataError, match="cannot be read"):
        fingerprint_values(recipe, {"source": "./gone.jsonl"})


def test_rows_are_previewed_token_by_token_from_each_source_in_turn(workshop: Workshop) -> None:
    make_rows(workshop.folder / "more.jsonl", 3, start=7)
    recipe = workshop.read(sft(data=[{"source": "rows.jsonl"}, {"source": "more.jsonl", "rows": 1}]))
    shown = preview_rows(recipe, "sft", 3)
    assert [row["row_id"] for row in shown] == ["rows.jsonl:1", "more.jsonl:1", "rows.jsonl:2"]
    trained = ["".join(text for text, _, _, is_trained in row["tokens"] if is_trained) for row in shown]
    assert trained == ["ant<|endoftext|>", "cow<|endoftext|>", "bee<|endoftext|>"]
    assert "".join(token[0] for token in shown[0]["tokens"]).count("ant 0?") == 1


def test_a_plug_ins_rows_cannot_be_previewed(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text("class Config: ...\ndef run(): ...\n")
    with pytest.raises(RecipeError, match="plug-in"):
        preview_rows(workshop.read({"name": "own", "type": "own.py:run"}), "own", 3)


def test_a_base_that_is_not_there_is_named(workshop: Workshop) -> None:
    (workshop.folder / "file").write_text("")
    for source, kind, word in (
        ("lab:seedlin", RecipeError, "did you mean 'lab:seedling'"),
        ("./gone", ModelError, "no such folder"),
        ("file", ModelError, "no such folder"),
        ("hub:no/such-model", ModelError, "no/such-model"),
    ):
        with pytest.raises(kind, match=word):
            find_base(workshop.read(model=source))


def test_the_labs_model_lies_in_the_cache_and_depends_on_the_seed(workshop: Workshop) -> None:
    recipe = workshop.read(model="lab:seedling")
    folder = find_base(recipe)
    assert folder.is_relative_to(RunFolder(recipe.folder).cache)
    assert find_base(recipe) == folder
    other = find_base(workshop.read(model="lab:seedling", seed=18))
    first, second = ((Path(place) / "model.safetensors").read_bytes() for place in (folder, other))
    assert folder != other and first != second


def test_policies_are_measured_in_the_precision_that_any_stage_computes_in(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text("class Config: ...\ndef run(): ...\n")
    own = {"name": "own", "type": "own.py:run"}
    assert choose_dtype(workshop.read(sft(), own)) == "float32"
    assert choose_dtype(workshop.read(sft(), sft(name="half", dtype="bfloat16"))) == "bfloat16"
    assert choose_dtype(workshop.read(own)) == "float32"
