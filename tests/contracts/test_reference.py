"""The pages of reference say what the code says: keys with range and default, types of rows, reasons to drop one."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from posttrain.data.importers import IMPORTERS, sniff_format
from posttrain.data.schemas import read_example
from posttrain.data.sources import SUFFIXES, DataSource
from posttrain.data.tokenized import NOT_TRAINED
from posttrain.data.truncation import TOO_LONG, TruncationPolicy
from posttrain.pipeline.plugins import GROUPS
from posttrain.pipeline.preflight.override_names import AUDIT, GATE, MONITOR, STAGE_CHECKS, TASK_CHECKS, name_task
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.recipe_checks import configs_in
from posttrain.pipeline.recipe_settings import RecipeHead, StageKeys
from posttrain.pipeline.scorer_settings import SCORERS, ComponentSettings
from posttrain.pipeline.stage_types import BUILT_IN_STAGES
from posttrain.stages.sft import SftConfig
from posttrain.stages.training_keys import TrainingKeys
from tests.contracts.reference import describe_key
from tests.contracts.sources import REPOSITORY, name_of, python_files, read_tree
from tests.contracts.test_documents import DOCUMENTS, blocks

DOCS = REPOSITORY / "docs"
HEAD = "schema: 1\nname: demo\nmodel: lab:seedling\nstages:\n"


def reachable_configs() -> list[type[BaseModel]]:
    """Return every configuration class that a recipe can hold."""
    found: list[type[BaseModel]] = []
    waiting: list[type[BaseModel]] = [RecipeHead, StageKeys, *BUILT_IN_STAGES.values()]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found.append(kind)
            waiting += [inner for field in kind.model_fields.values() for inner in configs_in(field.annotation)]
    return found


def read_tables(path: Path) -> dict[str, list[list[str]]]:
    """Return the rows of the tables that stand below a comment `<!-- keys: NAME -->`, by that name."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"<!-- keys: (\w+) -->\n((?:\|.*\n)+)", text)
    return {
        name: [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()[2:]]
        for name, table in found
    }


def recipe_tables() -> dict[str, list[list[str]]]:
    """Return the tables of every key of a recipe: gates and monitors have pages of their own."""
    pages = [read_tables(DOCS / name) for name in ("recipes.md", "gates.md", "monitors.md")]
    return {name: rows for tables in pages for name, rows in tables.items()}


def documented_fields(kind: type[BaseModel]) -> list[str]:
    """Return the fields that a class's own table has: what stages share stands in that of `sft`, unless it differs.

    What every source has stands in the table of sources.
    """
    if issubclass(kind, DataSource) and kind is not DataSource:
        return [name for name in kind.model_fields if name not in DataSource.model_fields]
    shared = {name: describe_key(name, field) for name, field in TrainingKeys.model_fields.items()}
    if not issubclass(kind, TrainingKeys) or kind is SftConfig:
        return list(kind.model_fields)
    return [name for name, field in kind.model_fields.items() if shared.get(name) != describe_key(name, field)]


def column(path: Path, title: str) -> list[str]:
    """Return the code words in the first column of the table that has this title there."""
    (table,) = re.findall(rf"^\| {re.escape(title)} \|.*\n\|[- |]+\n((?:\|.*\n)+)", path.read_text(), re.MULTILINE)
    return [word for line in table.splitlines() for word in re.findall(r"`([^`]+)`", line.split("|")[1])]


@pytest.mark.parametrize("kind", [*SCORERS.values(), ComponentSettings], ids=lambda kind: kind.__name__)
def test_every_key_of_a_scorer_is_documented_with_its_real_range_and_default(kind: type[BaseModel]) -> None:
    rows = read_tables(DOCS / "scorers.md").get(kind.__name__, [])
    expected = [list(describe_key(name, field)) for name, field in kind.model_fields.items() if name != "type"]
    assert [row[:3] for row in rows] == expected


def test_every_scorer_has_a_section() -> None:
    titles = re.findall(r"^## `(\w+)`$", (DOCS / "scorers.md").read_text(), re.MULTILINE)
    assert titles == list(SCORERS)


@pytest.mark.parametrize("kind", reachable_configs(), ids=lambda kind: kind.__name__)
def test_every_key_of_a_recipe_is_documented_with_its_real_range_and_default(kind: type[BaseModel]) -> None:
    rows = recipe_tables()[kind.__name__]
    expected = [list(describe_key(name, kind.model_fields[name])) for name in documented_fields(kind)]
    assert sorted(row[:3] for row in rows) == sorted(expected)
    assert [row[0] for row in rows if len(row) != 4 or not row[3]] == []


@pytest.mark.parametrize("kind", reachable_configs(), ids=lambda kind: kind.__name__)
def test_the_keys_that_change_no_result_are_marked(kind: type[BaseModel]) -> None:
    marked = [row[0].strip("`") for row in recipe_tables()[kind.__name__] if row[3].startswith("°")]
    extras = {name: kind.model_fields[name].json_schema_extra for name in documented_fields(kind)}
    assert marked == [name for name, extra in extras.items() if isinstance(extra, dict) and extra["identity"] is False]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_recipe_and_stage_in_a_document_is_one(path: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(path, "yaml")):
        file = tmp_path / f"{number}.yaml"
        indented = "".join(f"  {line}\n" for line in text.splitlines())
        file.write_text(text if text.startswith("schema:") else HEAD + indented, encoding="utf-8")
        assert read_recipe(file).stages


@pytest.mark.parametrize(
    "path", sorted([*REPOSITORY.glob("recipes/*.yaml"), *REPOSITORY.glob("examples/*.yaml")]), ids=name_of
)
def test_every_recipe_of_the_repository_can_be_read(path: Path) -> None:
    assert read_recipe(path).stages


def example_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for text in blocks(DOCS / "data.md", "json") for line in text.splitlines()]


def test_every_row_shown_can_be_read_and_every_type_and_form_is_shown() -> None:
    source = DataSource(source="rows.jsonl")
    kinds = {read_example(values, source, "rows.jsonl:1").kind for values in example_rows()}
    assert kinds == {"text", "messages", "prompt", "preference", "unpaired", "stepwise"}
    assert {sniff_format(values) for values in example_rows()} == {"trl", *IMPORTERS}
    assert column(DOCS / "data.md", "`format`") == list(IMPORTERS)


def reasons_in_the_code() -> set[str]:
    """Return the reasons that rows are dropped for, as they are written where rows are read."""
    place = {"RowError": 0, "BadRow": 2}
    calls = [
        node
        for path in python_files("src/posttrain/data")
        for node in ast.walk(read_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place
    ]
    words = [call.args[place[call.func.id]] for call in calls if len(call.args) > place[call.func.id]]
    return {word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)}


def test_every_reason_to_drop_a_row_is_documented() -> None:
    named_elsewhere = {"duplicate key", "lone surrogate"}  # found by the parser and by find_unusable
    assert set(column(DOCS / "data.md", "reason")) == reasons_in_the_code() | named_elsewhere
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    assert f"`{TOO_LONG}`" in text and f"`{NOT_TRAINED}`" in text


def test_every_kind_of_file_truncation_and_adapter_start_is_documented() -> None:
    assert column(DOCS / "data.md", "`truncation`") == list(get_args(TruncationPolicy))
    sources = column(DOCS / "data.md", "`source`")
    assert [suffix for suffix in SUFFIXES if suffix not in sources] == []
    starts = [part for part in get_args(SftConfig.model_fields["adapter_start"].annotation) if part is not type(None)]
    assert column(DOCS / "training.md", "`adapter_start`") == [word for part in starts for word in get_args(part)]


def test_every_check_of_preflight_and_every_form_of_override_is_documented() -> None:
    assert set(column(DOCS / "preflight.md", "check")) == {*STAGE_CHECKS, *TASK_CHECKS}
    shown = column(DOCS / "preflight.md", "name")
    parts = [name.rpartition(":")[::2] for name in shown]
    assert {check for place, check in parts if place not in (AUDIT, GATE, MONITOR)} <= {*STAGE_CHECKS, *TASK_CHECKS}
    assert [place.partition(".")[0] for place, _ in parts] == [
        "",
        "sft",
        name_task("").rstrip("."),
        GATE,
        AUDIT,
        MONITOR,
    ]


READ_AS_A_WHOLE = ("grpo_from_scratch.py",)
"""Examples that no document shows a part of."""


def test_the_code_that_a_document_shows_is_code_that_a_test_runs() -> None:
    files = [
        path.read_text(encoding="utf-8")
        for path in (REPOSITORY / "examples").glob("*.py")
        if path.name not in READ_AS_A_WHOLE
    ]
    shown = blocks(DOCS / "extending.md", "python")
    assert len(shown) == len(files)
    assert [text for text in shown if not any(text in file for file in files)] == []
    assert [group for group in GROUPS.values() if group not in (DOCS / "extending.md").read_text()] == []
