"""What the documents tell a user to write or to type exists and works."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.contracts.sources import PACKAGE, REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def name_of_document(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_recipe_in_the_readme_has_ten_lines_and_is_a_recipe(tmp_path: Path) -> None:
    from posttrain.pipeline.recipe import read_recipe

    (text,) = blocks(REPOSITORY / "README.md", "yaml")
    assert len(text.splitlines()) == 10
    (tmp_path / "my-assistant.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text("", encoding="utf-8")
    recipe = read_recipe(tmp_path / "my-assistant.yaml")
    assert (recipe.name, recipe.model.source) == ("my-assistant", "Qwen/Qwen2.5-0.5B")
    assert recipe.stages[0].config.learning_rate == 2e-5


def test_the_python_of_the_readme_imports_what_exists() -> None:
    (text,) = blocks(REPOSITORY / "README.md", "python")
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    assert len(imports) >= 2
    for node in imports:
        module = importlib.import_module(node.module or "")
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of_document)
def test_every_verb_that_a_document_types_is_a_command(path: Path) -> None:
    verbs = set(re.findall(r"bin/posttrain ([a-z]+)", path.read_text(encoding="utf-8")))
    assert [verb for verb in verbs if not (PACKAGE / "cli" / f"{verb}.py").is_file()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of_document)
def test_every_make_target_that_a_document_names_exists(path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"^make ([a-z]+)", "\n".join(blocks(path, "sh")), re.MULTILINE)
    named = set(commands) | set(re.findall(r"`make ([a-z]+)", text))
    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of_document)
def test_every_relative_link_of_a_document_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_make_target_is_listed_by_help() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    described = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    assert described == set(phony.split())


def test_pinned_versions_fit_what_the_project_asks_for() -> None:
    """Every dependency of pyproject.toml, extras for loggers aside, is pinned at a version that it allows."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        Requirement(r) for r in (*project["dependencies"], *extras["dev"], *extras["tensorboard"], *extras["trl"])
    ]
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {re.sub(r"[-_.]+", "-", n).lower(): v for n, v in (x.split("==") for x in lines if not x.startswith("#"))}
    unfit = [str(r) for r in wanted if not r.specifier.contains(pins[re.sub(r"[-_.]+", "-", r.name).lower()])]
    assert unfit == []
