"""A good recipe: defaults, parents, hashes, overrides, and the paths it may name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.core.config import Config
from posttrain.core.errors import RecipeError
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.roots import declare_roots
from posttrain.stages.sft import SftConfig
from tests.pipeline.recipes import GOOD, replaced, with_line, write_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
SECOND_STAGE = "  - {name: polish, type: sft, data: [{source: lab:conversations}], steps: 5}\n"


def config_of(recipe: Recipe, index: int = 0) -> SftConfig:
    config = recipe.stages[index].config
    assert isinstance(config, SftConfig)
    return config


def test_a_good_recipe_is_typed_and_its_defaults_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(write_recipe(tmp_path / "recipes"))
    assert (recipe.name, recipe.seed, recipe.model.source) == ("demo", 17, "lab:seedling")
    assert recipe.chat.arguments == {"enable_thinking": False}
    assert recipe.evaluate[0].data.rows == 200 and recipe.evaluate[0].max_new_tokens == 128
    assert config_of(recipe).learning_rate == 1e-3 and config_of(recipe).batch_size == 32
    assert recipe.folder == tmp_path / "runs" / "demo"
    assert recipe.root == tmp_path / "recipes"


def test_a_stage_starts_from_the_one_before_it_unless_it_says_otherwise(tmp_path: Path) -> None:
    text = GOOD + SECOND_STAGE + SECOND_STAGE.replace("polish", "again").replace("steps", "from: sft, repeat: 3, steps")
    stages = read_recipe(write_recipe(tmp_path, text)).stages
    assert [(stage.name, stage.parent, stage.repeat) for stage in stages] == [
        ("sft", "base", 1),
        ("polish", "sft", 1),
        ("again", "sft", 3),
    ]


def test_the_resolved_recipe_reads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(
        write_recipe(tmp_path, GOOD + SECOND_STAGE), ["sft.adapter={rank: 4, alpha: 8}", "sft.epsilon=1e-7"]
    )
    with (tmp_path / "resolved.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(json.loads(json.dumps(recipe.resolved())), file)
    again = read_recipe(tmp_path / "resolved.yaml")
    assert again.resolved() == recipe.resolved()
    assert again.hash == recipe.hash and again.identity() == recipe.identity()


def leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict | list) and values:
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(value, (*path, str(key)))
    else:
        yield ".".join(path), values


OTHER_VALUE = {
    "model.source": "lab:other",
    "model.revision": "abc",
    "chat.template": "auto",
    "chat.date": "2025-01-01",
    "folder": "runs/elsewhere",
    "loggers.0": "wandb",
    "stages.0.type": None,
    "stages.0.from": None,
    "stages.0.mode": "full_text",
    "stages.0.train_on": "all",
    "stages.0.truncation": "drop",
    "stages.0.schedule": "linear",
    "stages.0.dtype": "float32",
    "stages.0.activation_checkpointing": "on",
    "stages.0.packing": "off",
    "stages.0.validation": [{"source": "lab:conversations", "split": "held_out"}],
    "stages.0.callbacks": None,
    "stages.0.epochs": 3,
    "stages.0.adapter": {"rank": 4, "alpha": 8},
}
COUPLED = {"stages.0.steps", "stages.0.validate_every_steps", "stages.0.keep", "stages.0.adapter_start"}


def change(key: str, value: Any) -> Any:
    """Return another value that is allowed at a key, or None where a test of its own is needed."""
    if key in OTHER_VALUE or key in COUPLED:
        return OTHER_VALUE.get(key)
    name = key.rsplit(".", 1)[-1]
    by_name = {"source": "lab:facts", "split": "development", "format": "trl", "columns": {"prompt": "question"}}
    if name in by_name:
        return by_name[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 2
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return {"name": "other", "max_length": 64, "proportion": 0.5, "ema_decay": 0.9, "rows": 7}.get(name)


def test_every_leaf_key_changes_the_hash_and_only_display_keys_leave_the_identity(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    recipe = read_recipe(path)
    display = {"name", "folder", "loggers.0", "stages.0.checkpoint_every_steps", "stages.0.log_every_steps"}
    changed = 0
    for key, value in leaves(recipe.resolved()):
        other = change(key, value)
        is_refused = key.endswith(".proportion") and key.startswith(("evaluate.", "stages.0.validation."))
        is_refused |= key.endswith(".num_samples")  # of one greedy answer there is but one
        is_refused |= key.endswith((".shots", ".shots_seed"))  # without rows to make them of; without shots
        if key == "schema" or other is None or is_refused:
            continue
        if key.startswith("model."):
            other = {"source": recipe.model.source, key.split(".")[1]: other}
            key = "model"
        after = read_recipe(path, [f"{key}={json.dumps(other)}"])
        assert after.hash != recipe.hash, key
        assert (after.identity() == recipe.identity()) == (key in display), key
        changed += 1
    assert changed >= 45


def test_another_run_folder_changes_neither_hash_nor_identity(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    moved = read_recipe(path, folder=tmp_path / "elsewhere")
    assert moved.folder == tmp_path / "elsewhere"
    assert moved.hash == read_recipe(path).hash


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("sft.learning_rate=1e-4", lambda r: config_of(r).learning_rate, 1e-4),
        ("stages.0.learning_rate=3e-4", lambda r: config_of(r).learning_rate, 3e-4),
        ("seed=3", lambda r: r.seed, 3),
        ("sft.data.0.rows=null", lambda r: config_of(r).data[0].rows, None),
        ("chat.date='2025-01-02'", lambda r: r.chat.date, "2025-01-02"),
        ("chat.date=2025-01-02", lambda r: r.chat.date, "2025-01-02"),
        ("sft.adapter.rank=4", lambda r: config_of(r).adapter.rank, 4),
        ("model={source: owner/name, revision: main}", lambda r: r.model.revision, "main"),
        ("evaluate.0.data.rows=5", lambda r: r.evaluate[0].data.rows, 5),
        ("evaluate.held_out.data.rows=5", lambda r: r.evaluate[0].data.rows, 5),
        ("loggers=[]", lambda r: r.loggers, []),
        (" seed = 4 ", lambda r: r.seed, 4),
    ],
)
def test_an_override_changes_one_value(tmp_path: Path, override: str, read: Any, value: Any) -> None:
    assert read(read_recipe(write_recipe(tmp_path), [override])) == value


def test_of_two_overrides_of_one_key_the_later_holds(tmp_path: Path) -> None:
    assert read_recipe(write_recipe(tmp_path), ["seed=3", "seed=4"]).seed == 4


def test_sources_are_paths_or_names_and_paths_stay_under_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, outside, data = tmp_path / "project", tmp_path / "outside", tmp_path / "data"
    for folder in (project / "recipes", outside, data / "math"):
        folder.mkdir(parents=True)
    (outside / "secret.jsonl").write_text("{}")
    (project / "recipes" / "link.jsonl").symlink_to(outside / "secret.jsonl")
    (project / "recipes" / "linked").symlink_to(outside, target_is_directory=True)
    (project / "recipes" / "loop").symlink_to(project / "recipes" / "loop")
    (project / "recipes" / "owner").mkdir()
    (project / "recipes" / "owner" / "name").write_text("{}")
    monkeypatch.chdir(project)
    monkeypatch.delenv("POSTTRAIN_DATA", raising=False)
    roots = declare_roots(project / "recipes" / "demo.yaml")
    assert roots.locate("lab:base", place="") is roots.locate("hub:a/b", place="") is None
    assert roots.locate("someone/model", place="") is roots.locate("someone/set:subset", place="") is None
    assert roots.locate("owner/name", place="") == project / "recipes" / "owner" / "name"
    assert roots.locate("../data/x.jsonl", place="") == project / "data" / "x.jsonl"
    for escape in (
        "../../outside/secret.jsonl", str(outside / "secret.jsonl"), "link.jsonl", "linked/secret.jsonl", "loop",
        "./link.jsonl", "recipes/../../../outside", "/etc/passwd", "/dev/zero", "/proc/self/environ",
        "~/../../../../../../../etc/passwd",
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=r"outside|without loops"):
            roots.locate(escape, place="here")
    with pytest.raises(RecipeError, match="POSTTRAIN_DATA"):
        roots.locate("posttrain-data:math/x.jsonl", place="here")
    monkeypatch.setenv("POSTTRAIN_DATA", str(data))
    roots = declare_roots(project / "recipes" / "demo.yaml")
    assert roots.locate("posttrain-data:math/x.jsonl", place="") == data / "math" / "x.jsonl"
    assert roots.locate("posttrain-data:/math/x.jsonl", place="") == data / "math" / "x.jsonl"
    with pytest.raises(RecipeError, match="outside"):
        roots.locate("posttrain-data:../outside/secret.jsonl", place="here")


def test_variables_in_a_recipe_are_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_TEST_FOLDER", "/etc")
    recipe = read_recipe(
        write_recipe(tmp_path, replaced("lab:conversations, rows", '"$POSTTRAIN_TEST_FOLDER/x", rows'))
    )
    assert recipe.locate(config_of(recipe).data[0].source) == tmp_path / "$POSTTRAIN_TEST_FOLDER" / "x"


def test_a_path_that_the_user_types_is_declared_by_typing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    monkeypatch.chdir(write_recipe(tmp_path / "project").parent)
    path = tmp_path / "project" / "demo.yaml"
    assert read_recipe(path, [f"model={model}"]).locate(str(model)) == model
    with pytest.raises(RecipeError, match="outside"):
        read_recipe(write_recipe(tmp_path / "project", replaced("lab:seedling", str(model)), "other.yaml"))


def test_a_chat_template_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    recipe = read_recipe(write_recipe(tmp_path, replaced("template: plain", "template: chat.jinja")))
    assert recipe.chat_template_file == tmp_path / "chat.jinja"


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read_recipe(path).hash == read_recipe(write_recipe(tmp_path, name="plain.yaml")).hash


def test_comments_and_key_order_do_not_change_the_hash(tmp_path: Path) -> None:
    moved = replaced("seed: 17\n", "") + "seed: 17  # the seed\n"
    assert read_recipe(write_recipe(tmp_path, moved)).hash == read_recipe(write_recipe(tmp_path, name="b.yaml")).hash


def test_every_shipped_recipe_is_read() -> None:
    paths = sorted((REPOSITORY / "recipes").rglob("*.yaml"))
    assert all(read_recipe(path).stages for path in paths)


def test_reading_a_recipe_does_not_import_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from posttrain.pipeline.recipe import read_recipe; "
        "read_recipe(Path(sys.argv[1])); print([name for name in sys.argv[2:] if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(write_recipe(tmp_path)), "torch", "transformers", "peft", "datasets"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_misplaced_key_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(tmp_path, with_line("learning_rate: 1e-3")))
    assert caught.value.cure.startswith("'learning_rate' is a key of a stage of type sft and of a stage of type grpo")
    assert caught.value.cure.endswith(": move it there")
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(tmp_path, GOOD + "    rank: 8\n"))
    assert "'adapter' in a stage of type sft" in caught.value.cure


def test_stage_configs_are_the_class_that_their_type_names(tmp_path: Path) -> None:
    assert all(isinstance(stage.config, Config) for stage in read_recipe(write_recipe(tmp_path)).stages)
