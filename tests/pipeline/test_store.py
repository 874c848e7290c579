"""The store gives back what it was given, whole or not at all; working folders belong to one key at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.core.errors import StorageError
from posttrain.core.run_folder import RunFolder
from posttrain.models.manifest import ArtifactFacts, find_differences, write_manifest
from posttrain.pipeline.store import ArtifactStore, WorkingFolders, read_folder_key

KEY, OTHER = "a" * 32, "b" * 32


def saver(content: str, key: str = KEY) -> Callable[[Path], object]:
    """Something that writes a small artifact."""

    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_text(content)
        write_manifest(folder, ArtifactFacts(None, "", (), key=key), "", [])

    return save


def test_an_artifact_is_found_by_its_key_and_named_by_its_content(tmp_path: Path) -> None:
    store = ArtifactStore(RunFolder(tmp_path))
    assert store.find(KEY) is None and store.describe_loss(KEY) == ""
    made = store.add(KEY, saver("one"))
    assert store.find(KEY) == made and store.find(OTHER) is None
    assert Path(made.folder).name == made.hash and (made.kind, made.key) == ("policy", KEY)
    assert (Path(made.folder) / "weights").read_text() == "one"
    assert store.add(OTHER, saver("two", OTHER)).hash != made.hash


def test_two_keys_that_made_the_same_content_share_it(tmp_path: Path) -> None:
    store = ArtifactStore(RunFolder(tmp_path))
    first, second = store.add(KEY, saver("one")), store.add(OTHER, saver("one", OTHER))
    assert first.folder == second.folder and store.find(OTHER) == second
    names = sorted(path.name for path in (tmp_path / "artifacts").iterdir())
    assert names == sorted([first.hash, "keys"])


def test_a_damaged_artifact_is_not_found_and_is_kept_aside_when_it_is_made_again(tmp_path: Path) -> None:
    store = ArtifactStore(RunFolder(tmp_path))
    made = store.add(KEY, saver("one"))
    (Path(made.folder) / "weights").write_text("onf")
    assert store.find(KEY) is None and "damaged" in store.describe_loss(KEY)
    assert store.add(KEY, saver("one")) == made
    assert find_differences(Path(made.folder)) == []
    assert (tmp_path / "artifacts" / f"{made.hash}.damaged" / "weights").read_text() == "onf"
    assert store.find(KEY) == made


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"kind": "policy"}', '{"kind": "policy", "hash": 3}', "\x00"])
def test_a_torn_index_is_no_artifact(tmp_path: Path, index: str) -> None:
    store = ArtifactStore(RunFolder(tmp_path))
    store.add(KEY, saver("one"))
    (tmp_path / "artifacts" / "keys" / f"{KEY}.json").write_text(index)
    assert store.find(KEY) is None


def test_an_artifact_under_the_name_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    store = ArtifactStore(RunFolder(tmp_path))
    first, second = store.add(KEY, saver("one")), store.add(OTHER, saver("two", OTHER))
    Path(first.folder).rename(tmp_path / "spare")
    Path(second.folder).rename(first.folder)
    assert store.find(KEY) is None and store.find(OTHER) is None
    assert store.add(KEY, saver("one")) == first and store.find(KEY) == first
    assert (Path(first.folder) / "weights").read_text() == "one"


def test_a_save_that_fails_leaves_the_store_as_it_was_and_may_be_tried_again(tmp_path: Path) -> None:
    store = ArtifactStore(RunFolder(tmp_path))
    made = store.add(KEY, saver("one"))

    def torn(folder: Path) -> None:
        saver("two", OTHER)(folder)
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        store.add(OTHER, torn)
    assert store.find(OTHER) is None and store.find(KEY) == made
    assert store.find(store.add(OTHER, saver("two", OTHER)).key) is not None
    assert [path for path in (tmp_path / "artifacts").iterdir() if "incoming" in path.name] == []


def make(folders: WorkingFolders, key: str, content: str) -> str | None:
    """Claim a stage's folder for a key and work in it."""
    folder = folders.run.stage(0, "sft").root
    kept = folders.claim(folder, key)
    assert read_folder_key(folder) == key
    (folder / "work").write_text(content)
    return kept


def test_a_working_folder_is_its_keys_own_and_comes_back_with_it(tmp_path: Path) -> None:
    folders = WorkingFolders(RunFolder(tmp_path))
    folder = folders.run.stage(0, "sft").root
    assert make(folders, KEY, "one") is None
    assert make(folders, KEY, "more") is None
    assert make(folders, OTHER, "two") == f"superseded/stages-01-sft-{KEY}"
    assert sorted(path.name for path in folder.iterdir()) == ["key", "work"]
    assert folders.claim(folder, KEY) == f"superseded/stages-01-sft-{OTHER}"
    assert (folder / "work").read_text() == "more"
    assert [path.name for path in folders.run.superseded.iterdir()] == [f"stages-01-sft-{OTHER}"]


@pytest.mark.parametrize("key", [None, "", "torn"])
def test_a_folder_whose_key_is_missing_or_torn_is_kept_and_never_used(tmp_path: Path, key: str | None) -> None:
    folders = WorkingFolders(RunFolder(tmp_path))
    folder = folders.run.stage(0, "sft").root
    for number in range(3):  # each under a name of its own
        folder.mkdir(parents=True)
        (folder / "work").write_text(str(number))
        if key is not None:
            (folder / "key").write_text(key)
        assert folders.claim(folder, KEY) is not None
        assert not (folder / "work").exists()
        (folder / "key").unlink()
        folder.rmdir()
    kept = sorted(folders.run.superseded.iterdir(), key=lambda path: (path / "work").read_text())
    assert [(path / "work").read_text() for path in kept] == ["0", "1", "2"]


def test_folders_of_stages_that_the_recipe_does_not_have_are_moved_out_of_its_way(tmp_path: Path) -> None:
    folders = WorkingFolders(RunFolder(tmp_path))
    mine, gone = folders.run.stage(0, "sft").root, folders.run.stage(1, "more").root
    folders.claim(mine, KEY)
    folders.claim(gone, OTHER)
    (folders.run.stages / "note.txt").write_text("a user's")
    assert folders.set_aside_strangers([mine]) == [f"superseded/stages-02-more-{OTHER}"]
    assert sorted(path.name for path in folders.run.stages.iterdir()) == ["01-sft", "note.txt"]
    assert folders.claim(gone, OTHER) is None and read_folder_key(gone) == OTHER
    assert not list(folders.run.superseded.iterdir())


def test_a_claim_removes_what_a_killed_write_left(tmp_path: Path) -> None:
    folders = WorkingFolders(RunFolder(tmp_path))
    folder = folders.run.evaluations("policy").root
    folders.claim(folder, KEY)
    (folder / ".tmp-half").write_text("")
    (folder / "task.jsonl").write_text(json.dumps({}))
    assert folders.claim(folder, KEY) is None
    assert sorted(path.name for path in folder.iterdir()) == ["key", "task.jsonl"]
