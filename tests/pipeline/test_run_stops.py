"""Runs that are asked to stop, are locked out or find the disk full: clear errors, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import EXIT_LOCKED, EXIT_STORAGE, LockedError, StorageError, TerminatedError
from posttrain.core.run_folder import FolderLock, RunFolder
from posttrain.models.manifest import find_differences
from posttrain.pipeline.plan import build_plan
from posttrain.training.checkpoints import CheckpointStore
from tests.pipeline.test_run import check_record
from tests.pipeline.tiny_runs import Finished, Workshop, make_rows, sft, task

STAGES = (sft(checkpoint_every_steps=3), sft(name="more", steps=3))
VALIDATED = {"validation": [{"source": "held_out.jsonl"}], "validate_every_steps": 2}


class StopAt:
    """Asks for a stop from the n-th time it is asked."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def same_outcome(first: Finished, second: Finished, num_stages: int) -> None:
    """Check that two runs made the same policies, metrics, items and figures."""
    assert first.hashes == second.hashes
    assert first.record["metrics"] == second.record["metrics"]
    for index in range(num_stages):
        assert first.lines(index) == second.lines(index)
    for stage in {metric["stage"] for metric in first.record["metrics"]}:
        assert first.items("held_out", stage).read_bytes() == second.items("held_out", stage).read_bytes()


def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_never_was(workshop: Workshop) -> None:
    stages = ({**STAGES[0], **VALIDATED}, STAGES[1])
    whole = workshop.run(*stages, evaluate=[task()], into="whole")
    stops = []
    for _ in range(30):
        try:
            done = workshop.run(*stages, evaluate=[task()], should_stop=StopAt(4))
        except TerminatedError as error:
            stops.append(error.found)
            record = json.loads((workshop.folder / "run" / "run.json").read_text())
            check_record(record)
            assert record["status"] == "stopped"
            assert {stage["status"] for stage in record["stages"]} <= {"pending", "stopped", "finished", "cached"}
            continue
        break
    assert len(stops) >= 4 and any("after step" in found for found in stops)
    same_outcome(whole, done, 2)


@pytest.mark.parametrize("number", [1, 4, 6, 11])
def test_a_stop_at_any_moment_loses_nothing_and_takes_at_most_one_step_more(workshop: Workshop, number: int) -> None:
    asked = StopAt(number)
    steps: list[int] = []
    with pytest.raises(TerminatedError, match="stopped as asked") as caught:
        workshop.run(*STAGES, evaluate=[task()], should_stop=asked)
    for store in sorted((workshop.folder / "run" / "stages").glob("*/checkpoints")):
        checkpoint = CheckpointStore(store).load_newest()
        steps += [checkpoint.step] if checkpoint is not None else []
    if "after step" in caught.value.found:
        assert f"after step {steps[-1]} of" in caught.value.found
    assert caught.value.exit_code == 143
    done = workshop.run(*STAGES, evaluate=[task()])
    whole = workshop.run(*STAGES, evaluate=[task()], into="whole")
    same_outcome(whole, done, 2)


def test_a_stop_while_rows_are_tokenized_takes_at_most_a_batch_of_them(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_rows(workshop.folder / "rows.jsonl", 30)
    monkeypatch.setattr("posttrain.data.tokenizing.BATCH_ROWS", 10)
    with pytest.raises(TerminatedError):
        workshop.run(should_stop=StopAt(2))
    folder = RunFolder(workshop.folder / "run")
    assert list((folder.cache / "tokens").rglob("*.npy")) == []
    record = json.loads(folder.run_json.read_text())
    assert (record["status"], record["stages"][0]["status"]) == ("stopped", "pending")
    assert workshop.run().statuses == ["finished"]


def test_a_second_run_in_the_folder_is_refused_and_told_who_holds_it(workshop: Workshop) -> None:
    first = workshop.run()
    before = first.folder.run_json.read_bytes()
    with FolderLock(first.folder.lock):
        with pytest.raises(LockedError, match=f'"pid": {os.getpid()}') as caught:
            workshop.run(sft(learning_rate=0.5))
        assert caught.value.exit_code == EXIT_LOCKED and "--folder" in caught.value.cure
        assert build_plan(first.recipe).stages[0].status == "cached"  # a plan reads and needs no lock
    assert first.folder.run_json.read_bytes() == before
    assert workshop.run().statuses == ["cached"]


def test_nothing_temporary_is_left_when_a_killed_write_left_something_behind(workshop: Workshop) -> None:
    done = workshop.run(sft(steps=2))
    evaluations = done.folder.evaluations(done.record["artifacts"][0]["hash"]).root
    for folder in (done.folder.root, done.folder.artifacts, done.stage().root, evaluations):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / ".tmp-file").write_text("half")
        (folder / ".tmp-folder").mkdir()
    again = workshop.run(sft(steps=2, learning_rate=2e-2), evaluate=[task()])
    left = [path for path in again.folder.root.rglob(".tmp-*") if again.folder.superseded not in path.parents]
    assert left == []


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own of a few kilobytes; the test is skipped where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run_with_more_and_more_room(workshop: Workshop, into: str, make_room: Any, **changes: Any) -> tuple[Finished, list]:
    """Start the same run until there is room for it; after every failure all that it left must be whole."""
    errors: list[StorageError] = []
    for number in range(90):
        make_room(number)
        try:
            return workshop.run(*STAGES, evaluate=[task()], into=into, **changes), errors
        except StorageError as error:
            assert error.exit_code == EXIT_STORAGE and "starts" not in error.found
            errors.append(error)
        folder = RunFolder(workshop.folder / into)
        for store in folder.stages.glob("*/checkpoints"):
            checkpoint = CheckpointStore(store).load_newest()
            assert checkpoint is None or not checkpoint.set_aside
        for artifact in folder.artifacts.glob("[0-9a-f]*"):
            assert find_differences(artifact) == []
    raise AssertionError("there was never enough room")


def test_a_full_disk_stops_a_run_at_any_write_and_it_goes_on_when_there_is_room(workshop: Workshop) -> None:
    whole = workshop.run(*STAGES, evaluate=[task()], into="whole")
    disk = workshop.folder / "disk"
    with small_disk(disk, 4):

        def make_room(number: int) -> None:
            sizes = [4, 12, 24, 40, 60, 90]
            size = sizes[number] if number < len(sizes) else 90 + 210 * (number - len(sizes) + 1)
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)

        done, errors = run_with_more_and_more_room(workshop, "disk/run", make_room)
        same_outcome(whole, done, 2)
        check_record(done.record)
    assert len(errors) >= 8
    assert all("No space left" in error.found and "free some space" in error.cure for error in errors)
    places = {Path(error.place).name for error in errors}
    assert len(places) >= 4, places


def test_a_file_size_limit_stops_a_run_cleanly_and_it_goes_on_without(workshop: Workshop) -> None:
    whole = workshop.run(*STAGES, evaluate=[task()], into="whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:

        def make_room(number: int) -> None:
            sizes = [20_000, 60_000, 120_000, 200_000, 300_000, 500_000]
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[number] if number < len(sizes) else soft, hard))

        done, errors = run_with_more_and_more_room(workshop, "limited", make_room)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(errors) >= 2
    same_outcome(whole, done, 2)


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Let every flush to the disk from the n-th on fail; the list counts all of them."""
    calls = [0]
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


def check_failing_flushes(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Let a run fail at every n-th flush to the disk and go on afterwards; it must end as one that never failed."""
    with monkeypatch.context() as patch:
        calls = fail_at(patch, 10**9)
        whole = workshop.run(*STAGES, evaluate=[task()], into="whole")
    for number in range(1, calls[0] + 1, every):
        into = f"failed-{number}"
        with monkeypatch.context() as patch:
            fail_at(patch, number)
            with pytest.raises(StorageError, match="No space left"):
                workshop.run(*STAGES, evaluate=[task()], into=into)
        same_outcome(whole, workshop.run(*STAGES, evaluate=[task()], into=into), 2)
        shutil.rmtree(workshop.folder / into)


@pytest.mark.invariants
def test_a_flush_that_fails_anywhere_stops_a_run_that_then_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_failing_flushes(workshop, monkeypatch, every=29)


@pytest.mark.soak
def test_every_flush_that_fails_stops_a_run_that_then_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_failing_flushes(workshop, monkeypatch, every=1)


def test_a_folder_that_cannot_be_written_is_a_storage_error(workshop: Workshop) -> None:
    (workshop.folder / "file").write_text("no folder")
    with pytest.raises(StorageError, match="could not write") as caught:
        workshop.run(into="file/run")
    assert caught.value.exit_code == EXIT_STORAGE
    with suppress(OSError):
        (workshop.folder / "run").mkdir()
    (workshop.folder / "run" / "stages").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        workshop.run()
