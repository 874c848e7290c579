"""Plug-ins: found and hashed by a plan without running a line of theirs, imported by a run and named by content."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.core.errors import RecipeError, RefusedError
from posttrain.pipeline import plugins
from posttrain.pipeline.plugins import find_plugin, load_object
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.roots import Roots
from tests.pipeline.recipes import GOOD, replaced, write_recipe

STAGE = """\
from pathlib import Path

from posttrain.core.config import Config
from pydantic import Field

Path(__file__).with_name("imported").write_text("yes")


class Config(Config):
    strength: float = Field(1.0, gt=0)


def tilt(config, inputs, parts, context):
    return {"policy": config.strength}
"""
RECIPE = GOOD + "  - {name: tilt, type: 'stages/tilt.py:tilt', strength: 0.5}\n"


@pytest.fixture(autouse=True)
def forget_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        if "posttrain_plugin" in name or name in ("beside", "late_package"):
            del sys.modules[name]
    sys.path[:] = path


def write_stage(folder: Path, source: str = STAGE) -> Path:
    path = folder / "stages" / "tilt.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


def roots_of(folder: Path) -> Roots:
    return Roots(base=folder, folders=(folder,))


def test_reading_a_recipe_runs_no_line_of_a_plug_in_and_a_run_does(tmp_path: Path) -> None:
    mark = write_stage(tmp_path).with_name("imported")
    entry = read_recipe(write_recipe(tmp_path, RECIPE)).stages[1]
    assert entry.config is None and entry.values == {"strength": 0.5}
    assert not mark.exists()
    config, run = entry.load_plugin()
    assert mark.exists()
    assert run(config, {}, None, None) == {"policy": 0.5}


def test_the_keys_of_a_plug_in_stage_are_checked_when_it_is_loaded(tmp_path: Path) -> None:
    write_stage(tmp_path)
    for change, word in (("strenght: 0.5", "did you mean 'strength'"), ("strength: -1", "greater than 0")):
        path = write_recipe(tmp_path, replaced("strength: 0.5", change, RECIPE))
        with pytest.raises(RecipeError, match=word) as caught:
            read_recipe(path).stages[1].load_plugin()
        assert caught.value.place.startswith(f"{path}:16:5")


def test_a_change_of_the_source_changes_the_hash_and_moving_the_folder_does_not(tmp_path: Path) -> None:
    hashes = []
    for name, source in (("a", STAGE), ("b", STAGE), ("c", STAGE + "# changed\n")):
        write_stage(tmp_path / name, source)
        recipe = read_recipe(write_recipe(tmp_path / name, RECIPE))
        hashes.append((recipe.hash, recipe.identity_hash(), recipe.plugin_hashes()["stages/tilt.py:tilt"]))
    assert hashes[0] == hashes[1]
    assert all(first != second for first, second in zip(hashes[0], hashes[2], strict=True))


def test_a_file_that_a_plug_in_imports_belongs_to_its_hash_and_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("from beside import WORTH\n\ndef reward(**_):\n    return WORTH\n")
    (tmp_path / "beside.py").write_text("WORTH = 7\n")
    before = find_plugin("scorer", "rewards.py:reward", roots_of(tmp_path), place="here")
    assert before is not None and load_object(before, place="here")() == 7
    (tmp_path / "beside.py").write_text("WORTH = 8\n")
    after = find_plugin("scorer", "rewards.py:reward", roots_of(tmp_path), place="here")
    assert after is not None and after.content_hash != before.content_hash


def test_a_source_that_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    path = write_stage(tmp_path)
    entry = read_recipe(write_recipe(tmp_path, RECIPE)).stages[1]
    path.write_text(STAGE + "# changed\n")
    with pytest.raises(RefusedError, match="has changed"):
        entry.load_plugin()
    assert not path.with_name("imported").exists()


def test_a_plug_in_outside_the_recipes_folder_is_refused_even_under_another_root(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "rewards.py").write_text("def reward(): ...\n")
    (tmp_path / "project" / "link.py").symlink_to(tmp_path / "rewards.py")
    roots = Roots(base=tmp_path / "project", folders=(tmp_path / "project", tmp_path))
    for reference in ("../rewards.py:reward", f"{tmp_path}/rewards.py:reward", "link.py:reward"):
        with pytest.raises(RecipeError, match="leads to"):
            find_plugin("scorer", reference, roots, place="here")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def other(): ...\n", "defines no 'reward'"),
        ("def reward(:\n", "is not Python"),
        ("x = '\x00'\n", "is not Python"),
        ("(" * 5000, "is not Python"),
        ("# -*- coding: nonsense -*-\n", "is not Python"),
        ("x = 1\n" * 300_000, "more than 1 MB"),
    ],
)
def test_a_file_that_cannot_be_a_plug_in_is_refused_without_running_it(tmp_path: Path, source: str, word: str) -> None:
    (tmp_path / "rewards.py").write_text(source)
    with pytest.raises(RecipeError, match=word):
        find_plugin("scorer", "rewards.py:reward", roots_of(tmp_path), place="here")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("reward = 1 / 0\n", "ZeroDivisionError"),
        ("raise SystemExit(0)\nreward = 1\n", "SystemExit"),
        ("import no_such_package\nreward = 1\n", "no_such_package"),
        ("if False:\n    reward = 1\n", "defines no 'reward' once imported"),
    ],
)
def test_a_plug_in_that_raises_is_an_error_that_names_its_line(tmp_path: Path, source: str, word: str) -> None:
    (tmp_path / "rewards.py").write_text(source)
    plugin = find_plugin("scorer", "rewards.py:reward", roots_of(tmp_path), place="here")
    assert plugin is not None
    for _ in range(2):  # a failed import leaves nothing behind that looks imported
        with pytest.raises(RecipeError, match=word) as caught:
            load_object(plugin, place="here")
    assert caught.value.place == "here"


def test_a_stage_file_without_a_config_is_refused_before_and_after_import(tmp_path: Path) -> None:
    write_stage(tmp_path, "def tilt(config, inputs, parts, context):\n    return {}\n")
    with pytest.raises(RecipeError, match="defines no 'Config'"):
        read_recipe(write_recipe(tmp_path, RECIPE))
    write_stage(tmp_path, "class Config: ...\n\ndef tilt(config, inputs, parts, context):\n    return {}\n")
    with pytest.raises(RecipeError, match="subclass"):
        read_recipe(write_recipe(tmp_path, RECIPE)).stages[1].load_plugin()


def test_a_name_bound_inside_if_try_or_by_assignment_is_found(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "try:\n    import json as first\nexcept ImportError:\n    first = None\nif first:\n    def second(): ...\n"
        "third: int = 3\nfourth, fifth = 4, 5\n"
    )
    for name in ("first", "second", "third", "fourth", "fifth"):
        assert find_plugin("scorer", f"rewards.py:{name}", roots_of(tmp_path), place="here") is not None


def install_package(site: Path, source: str = "def reward(): return 'installed'\n", name: str = "late") -> None:
    (site / "late_package").mkdir(parents=True, exist_ok=True)
    (site / "late_package" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / "late_package" / "rewards.py").write_text(source)
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    value = "late_package.rewards:reward" if name == "late" else "late_package.rewards:other"
    (metadata / "entry_points.txt").write_text(f"[posttrain.scorers]\nbrevity = {value}\n")


def test_an_entry_point_is_found_and_hashed_without_importing_it(tmp_path: Path) -> None:
    install_package(tmp_path / "site")
    sys.path.insert(0, str(tmp_path / "site"))
    assert plugins.list_plugin_names("scorer") == ["brevity"]
    recipe = write_recipe(tmp_path, replaced("exact_match", "brevity"))
    before = read_recipe(recipe).scorers["brevity"]
    assert "late_package" not in sys.modules
    with pytest.raises(RecipeError, match="RuntimeError"):
        load_object(before, place="here")
    (tmp_path / "site" / "late_package" / "__init__.py").write_text("")
    after = read_recipe(recipe).scorers["brevity"]
    assert after.content_hash != before.content_hash
    assert load_object(after, place="here")() == "installed"


def test_two_packages_that_offer_one_entry_point_are_refused(tmp_path: Path) -> None:
    install_package(tmp_path / "site")
    install_package(tmp_path / "site", name="later")
    sys.path.insert(0, str(tmp_path / "site"))
    with pytest.raises(RecipeError, match="several installed packages"):
        read_recipe(write_recipe(tmp_path, replaced("exact_match", "brevity")))


def test_callbacks_of_a_stage_are_found_and_count_in_its_identity(tmp_path: Path) -> None:
    text = GOOD + "    callbacks: ['watch.py:Watch']\n"
    identities = []
    for body in ("pass", "return"):
        (tmp_path / "watch.py").write_text(
            f"class Watch:\n    def on_step(self, step, metrics, policy):\n        {body}\n"
        )
        recipe = read_recipe(write_recipe(tmp_path, text))
        assert [plugin.reference for plugin in recipe.stages[0].callbacks] == ["watch.py:Watch"]
        identities.append(recipe.stages[0].identity())
    assert identities[0] != identities[1]
