"""Bad recipes: each is refused with its place, in a message and with exit code 2, never with a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.core.errors import EXIT_USAGE, RecipeError
from posttrain.pipeline.recipe import read_recipe
from tests.pipeline.recipes import GOOD, replaced, with_line, write_recipe

STAGE = "  - {name: second, type: sft, data: [{source: lab:conversations}], steps: 1}\n"

# (what is wrong, the recipe, a word of the message, the beginning of the place after the file's name)
BAD = [
    ("empty file", "", "empty file", ""),
    ("only a comment", "# nothing\n", "empty file", ""),
    ("a list at the top", "- a\n- b\n", "a list", ""),
    ("a text at the top", "just words\n", "a str", ""),
    ("a tab", GOOD + "\tseed: 1\n", "tab", ":16"),
    ("a duplicate key", with_line("seed: 3"), "twice", ":16:1 (seed)"),
    ("a duplicate key of a stage", GOOD + "    epochs: 2\n", "twice", ":16:5 (stages.0.epochs)"),
    ("an anchor", replaced("seed: 17", "seed: &s 17"), "anchor", ":3:7 (seed)"),
    ("an alias", replaced("seed: 17", "seed: *s"), "alias", ":3:7 (seed)"),
    ("a merge key", with_line("<<: {seed: 1}"), "merge key", ":16:1"),
    ("a python tag", replaced("seed: 17", "seed: !!python/object/apply:os.getpid []"), "tag", ":3:7 (seed)"),
    ("a local tag", replaced("seed: 17", "seed: !seed 17"), "tag", ":3:7 (seed)"),
    ("two documents", GOOD + "---\n" + GOOD, "second document", ":16"),
    ("a YAML 1.1 directive", "%YAML 1.1\n---\n" + GOOD, "directive", ":2"),
    ("an open bracket", replaced("loggers: [tensorboard]", "loggers: [tensorboard"), "expected", ":7"),
    ("no schema", replaced("schema: 1\n", ""), "'schema' is missing", ":1:1 (schema)"),
    ("a misspelt schema", replaced("schema: 1\n", "shcema: 1\n"), "unknown key 'shcema'", ":1:1"),
    ("a later schema", replaced("schema: 1\n", "schema: 2\n"), "schema: 2", ":1:1 (schema)"),
    ("a schema that is true", replaced("schema: 1\n", "schema: true\n"), "schema: True", ":1:1 (schema)"),
    ("no name", replaced("name: demo\n", ""), "'name' is missing", ":1:1 (name)"),
    ("a name with a slash", replaced("name: demo", "name: ../demo"), "pattern", ":2:1 (name)"),
    ("a name that is null", replaced("name: demo", "name: null"), "valid string", ":2:1 (name)"),
    ("a name with a line break", replaced("name: demo", 'name: "demo\\n"'), "pattern", ":2:1 (name)"),
    ("a seed that is a text", replaced("seed: 17", "seed: '17'"), "valid integer", ":3:1 (seed)"),
    ("a seed that is true", replaced("seed: 17", "seed: true"), "valid integer", ":3:1 (seed)"),
    ("a seed that is no integer", replaced("seed: 17", "seed: 1.5"), "valid integer", ":3:1 (seed)"),
    ("a negative seed", replaced("seed: 17", "seed: -1"), "greater than or equal to 0", ":3:1 (seed)"),
    ("a seed beyond 64 bits", replaced("seed: 17", f"seed: {10**30}"), "64 bits", ":3:7 (seed)"),
    ("a seed that is a mapping", replaced("seed: 17", "seed: {a: 1}"), "valid integer", ":3:1 (seed)"),
    ("no model", replaced("model: lab:seedling\n", ""), "'model' is missing", ":1:1 (model)"),
    ("a model that is a list", replaced("model: lab:seedling", "model: [a]"), "model", ":4:1 (model)"),
    ("an unknown key of the model", replaced("lab:seedling", "{sauce: a}"), "sauce", ":4:9 (model.sauce)"),
    ("a model outside", replaced("lab:seedling", "../../../../../../etc"), "outside", ":4:1 (model)"),
    ("a misspelt top-level key", with_line("evalute: []"), "unknown key 'evalute'", ":16:1 (evalute)"),
    ("a misplaced stage key", with_line("epochs: 1"), "unknown key 'epochs'", ":16:1 (epochs)"),
    ("a misplaced top-level key", GOOD + "    seed: 1\n", "unknown key 'seed'", ":16:5 (stages.0.seed)"),
    ("a misspelt chat key", replaced("template: plain", "tempalte: plain"), "tempalte", ":5:8 (chat.tempalte)"),
    ("an unknown template", replaced("template: plain", "template: plian"), "plian", ":5:8 (chat.template)"),
    ("a template outside", replaced("template: plain", "template: /etc/passwd"), "outside", ":5:8 (chat.template)"),
    ("a date that is none", replaced('"2024-07-26"', '"2024-02-31"'), "YYYY-MM-DD", ":5:25 (chat.date)"),
    (
        "a template argument that is a list",
        replaced("enable_thinking: false", "a: []"),
        "valid",
        ":5:57 (chat.arguments.a)",
    ),
    ("an unknown logger", replaced("[tensorboard]", "[tensorbord]"), "tensorbord", ":6:11 (loggers.0)"),
    ("a logger twice", replaced("[tensorboard]", "[wandb, wandb]"), "once", ":6:1 (loggers)"),
    ("loggers that are a text", replaced("[tensorboard]", "tensorboard"), "valid list", ":6:1 (loggers)"),
    ("a folder outside", with_line("folder: /etc/runs"), "outside", ":16:1 (folder)"),
    ("an unknown scorer", replaced("scorer: exact_match", "scorer: exact_mach"), "exact_mach", ":8"),
    ("a misspelt key of a task", replaced("scorer: exact", "scroer: exact"), "scroer", ":8:85 (evaluate.0.scroer)"),
    (
        "a misspelt key of a task's data",
        replaced("split: held", "spilt: held"),
        "spilt",
        ":8:56 (evaluate.0.data.spilt)",
    ),
    (
        "a task's rows that are zero",
        replaced("rows: 200", "rows: 0"),
        "greater than or equal to 1",
        ":8:73 (evaluate.0.data.rows)",
    ),
    (
        "two tasks of one name",
        replaced("stages:", "  - {name: held_out, data: {source: lab:x}}\nstages:"),
        "two tasks",
        ":9:6",
    ),
    ("no stage list", GOOD[: GOOD.index("stages:")], "'stages' is missing", ":1:1 (stages)"),
    ("an empty stage list", GOOD[: GOOD.index("stages:")] + "stages: []\n", "found []", ":9:1 (stages)"),
    ("stages that are null", GOOD[: GOOD.index("stages:")] + "stages:\n", "found None", ":9:1 (stages)"),
    ("stages that are a mapping", GOOD[: GOOD.index("stages:")] + "stages: {sft: {}}\n", "found {", ":9:1 (stages)"),
    ("a stage that is a text", GOOD + "  - sft\n", "found 'sft'", ":16:5 (stages.1)"),
    ("a stage without a type", replaced("    type: sft\n", ""), "'type' is missing", ":10:5 (stages.0.type)"),
    ("a stage without a name", replaced("name: sft\n    ", ""), "'name' is missing", ":10:5 (stages.0.name)"),
    ("a misspelt type key", replaced("type: sft", "tpye: sft"), "unknown key 'tpye'", ":11:5 (stages.0.tpye)"),
    ("an unknown type", replaced("type: sft", "type: stf"), "no stage is called 'stf'", ":11:5 (stages.0.type)"),
    ("a type that is a number", replaced("type: sft", "type: 1"), "valid string", ":11:5 (stages.0.type)"),
    ("two stages of one name", GOOD + STAGE.replace("second", "sft"), "two stages", ":16:6 (stages.1.name)"),
    ("a stage called base", replaced("name: sft", "name: base"), "something else", ":10:5 (stages.0.name)"),
    ("a stage called like a key", replaced("name: sft", "name: model"), "something else", ":10:5 (stages.0.name)"),
    ("a stage that starts from itself", GOOD + "    from: sft\n", "no stage before", ":16:5 (stages.0.from)"),
    ("a stage that starts from a later one", GOOD + "    from: second\n" + STAGE, "no stage before", ":16:5"),
    ("a stage that starts from nothing known", GOOD + "    from: bse\n", "'bse'", ":16:5 (stages.0.from)"),
    ("zero rounds", GOOD + "    repeat: 0\n", "greater than or equal to 1", ":16:5 (stages.0.repeat)"),
    ("rounds that are true", GOOD + "    repeat: true\n", "valid integer", ":16:5 (stages.0.repeat)"),
    (
        "a misspelt stage key",
        replaced("learning_rate", "learning_rte"),
        "learning_rte",
        ":15:5 (stages.0.learning_rte)",
    ),
    ("a misspelt nested key", replaced("rows: 100", "rwos: 100"), "rwos", ":13:37 (stages.0.data.0.rwos)"),
    ("a learning rate that is a text", replaced("1e-3", "'1e-3'"), "valid number", ":15:5 (stages.0.learning_rate)"),
    ("a negative learning rate", replaced("1e-3", "-1e-3"), "greater than 0", ":15:5 (stages.0.learning_rate)"),
    ("a learning rate that is no number", replaced("1e-3", ".nan"), "not finite", ":15:20 (stages.0.learning_rate)"),
    ("a learning rate that is infinite", replaced("1e-3", "1e400"), "too large", ":15:20 (stages.0.learning_rate)"),
    ("a learning rate that is true", replaced("1e-3", "true"), "valid number", ":15:5 (stages.0.learning_rate)"),
    ("a learning rate that is null", replaced("1e-3", "null"), "valid number", ":15:5 (stages.0.learning_rate)"),
    ("both epochs and steps", GOOD + "    steps: 3\n", "not both", ":10:5 (stages.0)"),
    (
        "no data",
        replaced("    data:\n      - {source: lab:conversations, rows: 100}\n", ""),
        "'data' is missing",
        ":10:5",
    ),
    ("data that is one mapping", replaced("- {source", "{source"), "valid list", ":12:5 (stages.0.data)"),
    ("data outside", replaced("lab:conversations, rows", "../../../../../../etc/passwd, rows"), "outside", ":13:10"),
    ("absolute data outside", replaced("lab:conversations, rows", "/proc/self/mem, rows"), "outside", ":13:10"),
    ("a missing plug-in", replaced("type: sft", "type: stage.py:run"), "cannot be read", ":11:5 (stages.0.type)"),
    ("a plug-in outside", replaced("type: sft", "type: ../../stage.py:run"), "", ":11:5 (stages.0.type)"),
    ("a plug-in without a name", replaced("type: sft", "type: stage.py"), "stage.py", ":11:5 (stages.0.type)"),
    ("a module path as type", replaced("type: sft", "type: os:system"), "os:system", ":11:5 (stages.0.type)"),
    ("a missing callback", GOOD + "    callbacks: [nothing.py:Watch]\n", "cannot be read", ":16:17"),
    ("more than 32 levels", with_line("chat2: " + "[" * 40 + "]" * 40), "32 levels", ":16"),
    ("more than 256 kB", GOOD + "# " + "x" * 300_000, "256 kB", ""),
]


@pytest.mark.parametrize(("text", "word", "place"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_recipe_is_refused_with_its_place(tmp_path: Path, text: str, word: str, place: str) -> None:
    path = write_recipe(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    error = caught.value
    assert word in error.found
    assert error.place.startswith(f"{path}{place}")
    assert error.exit_code == EXIT_USAGE
    assert "Traceback" not in error.describe()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("", "path=value"),
        ("seed", "path=value"),
        ("=3", "path=value"),
        (".seed=3", "path=value"),
        ("sft..epochs=3", "path=value"),
        ("sft/epochs=3", "path=value"),
        ("seed=", "a value"),
        ("seed=  ", "a value"),
        ("seed=[1", "YAML"),
        ("seed=1\n---\n2", "YAML"),
        ("seed=!!python/name:os.system x", "YAML"),
        ("seed=&a 1", "YAML"),
        ("sed=3", "begins with"),
        ("schema=1", "begins with"),
        ("learning_rate=3", "begins with"),
        ("sft=3", "a key of the stage"),
        ("sft.learning_rte=3", "a stage of type sft"),
        ("sft.learning_rate='1e-3'", "a stage of type sft"),
        ("sft.adapter.rnak=3", "a stage of type sft"),
        ("sft.epochs.x=3", "a mapping"),
        ("model.revision=main", "a mapping"),
        ("stages.1.epochs=3", "a number from 0 to 0"),
        ("stages.-1.epochs=3", "a number from 0 to 0"),
        ("stages.x.epochs=3", "a number from 0 to 0"),
        ("sft.data.0.source=../../../../../etc/passwd", "a path below"),
        ("folder=../../../../../etc", "a path below"),
        ("seed=true", "top level"),
        ("seed=" + "9" * 40, "YAML"),
    ],
)
def test_a_bad_override_is_refused_and_named(tmp_path: Path, override: str, word: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(tmp_path), [override])
    assert caught.value.place.startswith("--set ")
    assert word in caught.value.expected


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        ("sft.learning_rte=3", "'learning_rate'"),
        ("sft.form=base", "'from'"),
        ("sff.epochs=3", "'sft'"),
        ("modle=x", "'model'"),
        ("sft.data.0.sauce=x", "'source'"),
        ("sft.adapter={rnak: 3}", "'rank'"),
        ("sft.type=sftt", "'sft'"),
        ("sft.from=bsae", "'base'"),
    ],
)
def test_a_misspelling_is_answered_with_what_was_meant(tmp_path: Path, wrong: str, cure: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(tmp_path), [wrong])
    assert f"did you mean {cure}?" in caught.value.cure


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\x7fELF\x00\x01\x02")
    (tmp_path / "latin.yaml").write_bytes(GOOD.replace("demo", "d\xe9mo").encode("latin-1"))
    (tmp_path / "utf16.yaml").write_bytes(GOOD.encode("utf-16"))
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    words = {
        "folder": "folder", "binary": "binary", "latin": "not UTF-8", "utf16": "binary", "loop": "cannot be read",
        "pipe": "not a regular file", "missing": "cannot be read",
    }  # fmt: skip
    for name, word in words.items():
        with pytest.raises(RecipeError, match=word) as caught:
            read_recipe(tmp_path / f"{name}.yaml")
        assert caught.value.place.startswith(str(tmp_path / f"{name}.yaml"))
    for device in ("/dev/zero", "/dev/stdin", "\x00"):
        with pytest.raises(RecipeError):
            read_recipe(Path(device))


def test_a_missing_recipe_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    write_recipe(tmp_path, name="tulu.yaml")
    with pytest.raises(RecipeError) as caught:
        read_recipe(tmp_path / "tulo.yaml")
    assert "tulu.yaml" in caught.value.cure


def test_everything_that_is_wrong_in_one_part_is_named_at_once(tmp_path: Path) -> None:
    text = replaced("learning_rate: 1e-3", "learning_rate: -1\n    batch_size: 0\n    schedule: sine")
    with pytest.raises(RecipeError) as caught:
        read_recipe(write_recipe(tmp_path, text))
    assert all(key in caught.value.found for key in ("learning_rate", "batch_size", "schedule"))
