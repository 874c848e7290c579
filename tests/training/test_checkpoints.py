"""Checkpoints are whole or not there: any damage is found, any failed write leaves the last good one."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import StorageError
from posttrain.training import checkpoints as module
from posttrain.training.checkpoints import Checkpoint, CheckpointStore

FILES = ("manifest.json", "state.json", "state.safetensors")


def tensors_of(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "master/a": torch.randn(5, 3, generator=generator),
        "step/a": torch.tensor(float(step)),
        "half": torch.randn(4, generator=generator).bfloat16(),
        "transposed": torch.randn(3, 5, generator=generator).T,
    }


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "window_loss": 0.1 + step, "best_value": None}


def make_store(folder: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(folder)
    for step in steps:
        store.save(step, tensors_of(step), state_of(step))
    return store


def assert_holds(checkpoint: Checkpoint | None, step: int) -> None:
    assert checkpoint is not None and checkpoint.step == step and checkpoint.state == state_of(step)
    expected = tensors_of(step)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype and torch.equal(checkpoint.tensors[name], tensor)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    store = make_store(tmp_path / "checkpoints", 3)
    newest = store.load_newest()
    assert_holds(newest, 3)
    assert newest is not None and newest.set_aside == () and newest.warnings == ()
    assert_holds(store.load(3), 3)


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "missing").load_newest() is None
    with pytest.raises(StorageError, match="step 4 cannot be used"):
        CheckpointStore(tmp_path / "missing").load(4)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path, 9, 10, 100)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    assert_holds(store.load_newest(), 100)
    assert_holds(store.load(10), 10)


def damages() -> dict[str, Callable[[Path], None]]:
    def truncate(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def cut_last_character(path: Path) -> None:
        path.write_bytes(path.read_bytes().rstrip()[:-1])  # a line's end says nothing

    def append(path: Path) -> None:
        path.write_bytes(path.read_bytes() + b"\0")

    def zero(path: Path) -> None:
        path.write_bytes(bytes(path.stat().st_size))

    def replace_by_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    return {
        "truncated": truncate,
        "one character short": cut_last_character,
        "one byte more": append,
        "zeros": zero,
        "deleted": Path.unlink,
        "emptied": lambda path: path.write_bytes(b""),
        "a folder": replace_by_folder,
    }


@pytest.mark.parametrize("damage", damages())
@pytest.mark.parametrize("name", FILES)
def test_a_torn_checkpoint_is_set_aside_and_the_one_before_it_is_used(tmp_path: Path, name: str, damage: str) -> None:
    store = make_store(tmp_path, 1, 2)
    torn = tmp_path / "step-00000002"
    damages()[damage](torn / name)
    found = store.load_newest()
    assert_holds(found, 1)
    assert found is not None and len(found.set_aside) == 1 and found.set_aside[0].startswith("step-00000002: ")
    assert not torn.exists() and (tmp_path / "step-00000002.torn").is_dir()
    again = store.load_newest()
    assert_holds(again, 1)
    assert again is not None and again.set_aside == ()


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path, 1)
    path = tmp_path / "step-00000001" / name
    bits = range(8 * path.stat().st_size)
    missed = []
    for bit in bits:
        flip(path, bit)
        if store._problem(path.parent) is None:
            missed.append(bit)
        flip(path, bit)
    assert missed == [] and len(bits) > 300
    assert store._problem(path.parent) is None


def test_when_all_are_torn_all_are_named_and_the_stage_begins_again(tmp_path: Path) -> None:
    store = make_store(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-0000000{step}" / "state.safetensors").write_bytes(b"")
    found = store.load_newest()
    assert found is not None and found.step == -1 and found.tensors == {}
    assert [text.split(":")[0] for text in found.set_aside] == ["step-00000002", "step-00000001"]


def test_one_that_must_be_there_and_is_torn_stops_with_the_cure(tmp_path: Path) -> None:
    store = make_store(tmp_path, 1)
    flip(tmp_path / "step-00000001" / "state.safetensors", 900)
    with pytest.raises(StorageError, match="does not match its sha256") as caught:
        store.load(1)
    assert "start the run again" in caught.value.cure


def test_those_that_are_whole_are_listed_and_all_but_some_steps_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=5)
    assert store.list_whole() == []
    for step in (3, 20, 100, 7):
        store.save(step, tensors_of(step), state_of(step))
    (store.folder / "step-00000020" / "state.safetensors").write_bytes(b"torn")
    assert store.list_whole() == [3, 7, 100]
    store.save(7, tensors_of(7), state_of(7))  # the one that was there is set aside
    store.keep_only([7, 20, 50])
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000007", "step-00000020"]
    assert_holds(store.load(7), 7)


def test_a_checkpoint_takes_the_place_of_one_of_the_same_step_whole_or_torn(tmp_path: Path) -> None:
    store = make_store(tmp_path, 5)
    store.save(5, tensors_of(7), state_of(5))
    found = store.load_newest()
    assert found is not None and all(torch.equal(found.tensors[name], value) for name, value in tensors_of(7).items())
    flip(tmp_path / "step-00000005" / "state.safetensors", 1000)
    store.save(5, tensors_of(5), state_of(5))
    assert_holds(store.load_newest(), 5)


def test_leftovers_of_a_killed_write_are_removed_and_never_read(tmp_path: Path) -> None:
    store = make_store(tmp_path, 1)
    leftover = tmp_path / ".tmp-abc"
    shutil.copytree(tmp_path / "step-00000001", leftover)
    assert_holds(store.load_newest(), 1)
    store.save(2, tensors_of(2), state_of(2))
    assert not leftover.exists()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does to a write, at a chosen byte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_any_byte_stops_cleanly_and_loses_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, 1)
    largest = max((tmp_path / "step-00000001" / name).stat().st_size for name in FILES)
    for size in (0, 1, 20, 100, *range(150, largest, 40), largest - 1):
        with file_size_limit(size), pytest.raises(StorageError) as caught:
            store.save(2, tensors_of(2), state_of(2))
        assert "free some space" in caught.value.cure
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        assert_holds(store.load_newest(), 1)
    with file_size_limit(largest):
        store.save(2, tensors_of(2), state_of(2))
    assert_holds(store.load_newest(), 2)


CALLS = ("fsync", "replace", "mkdir", "open", "chmod")


@pytest.mark.parametrize("call", CALLS)
def test_a_system_call_that_fails_anywhere_in_a_save_stops_cleanly_and_loses_nothing(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, 1)
    own = getattr(os, call)
    num_errors = 0
    for number in range(200):
        calls: list[int] = []

        def failing(*arguments: Any, _calls: list[int] = calls, _number: int = number, **keywords: Any) -> Any:
            _calls.append(len(_calls))
            if _calls[-1] == _number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return own(*arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                store.save(2, tensors_of(2), state_of(2))
            except StorageError as error:
                assert "No space left" in error.found
                num_errors += 1
        if len(calls) <= number:
            break  # every call of a save has failed once
        found = store.load_newest()
        assert found is not None
        assert_holds(found, found.step)  # what fails after the rename leaves the next checkpoint, whole
        shutil.rmtree(tmp_path / "step-00000002", ignore_errors=True)
    assert num_errors > 0 and number < 199
    assert_holds(store.load_newest(), 2)


def test_another_machine_is_reported_and_the_checkpoint_still_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, 1)
    here = module.describe_machine()
    monkeypatch.setattr(module, "describe_machine", lambda: {**here, "threads": "7"})
    found = store.load_newest()
    assert_holds(found, 1)
    assert found is not None and found.warnings == (f"threads was {here['threads']} and is 7",)


def test_the_manifest_is_plain_json_with_a_sha256_of_every_file(tmp_path: Path) -> None:
    make_store(tmp_path, 1)
    manifest = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())
    assert set(manifest) == {"step", "files", "machine", "hash"}
    assert {name: len(digest) for name, digest in manifest["files"].items()} == {
        "state.safetensors": 64,
        "state.json": 64,
    }
