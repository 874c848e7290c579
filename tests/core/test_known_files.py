from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.core import known_files
from posttrain.core.known_files import find_once


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as written long ago."""
    monkeypatch.setattr(known_files, "_TICK_SECONDS", -60.0)


def count_reads(path: Path) -> tuple[list[str], Callable[[], str]]:
    """Return what has been read of a file so far, and what asks for its text by way of `find_once`."""
    read: list[str] = []

    def find() -> str:
        read.append(path.read_text())
        return read[-1]

    return read, lambda: find_once(("text", str(path)), [path], find)


@pytest.mark.usefixtures("settled")
def test_a_file_that_nobody_touched_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    read, ask = count_reads(path)
    assert [ask(), ask(), ask()] == ["one"] * 3
    assert read == ["one"]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["two", "longer"])
def test_a_file_that_was_written_is_read_again_even_if_size_and_time_are_put_back(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    _, ask = count_reads(path)
    ask()
    while path.stat().st_ctime_ns <= times[1]:  # until the file system's clock has moved on
        path.write_text(text)
        os.utime(path, ns=times)
    assert ask() == text


@pytest.mark.usefixtures("settled")
def test_a_file_put_in_the_place_of_another_and_a_link_turned_round_are_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    _, ask = count_reads(link)
    assert ask() == "one"
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert ask() == "two"
    (tmp_path / "three").write_text("six")
    os.replace(tmp_path / "three", tmp_path / "two")
    assert ask() == "six"


def test_a_file_that_was_written_just_now_is_always_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    read, ask = count_reads(path)
    ask()
    ask()
    assert len(read) == 2


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    asked = []

    def find() -> int:
        asked.append(path.read_text())
        path.write_text("another length" if len(asked) == 1 else "again another length")
        return len(asked)

    assert [find_once("number", [path], find) for _ in range(3)] == [1, 2, 3]


@pytest.mark.usefixtures("settled")
def test_another_file_more_is_noticed_and_a_failure_is_not_kept(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    assert find_once("names", paths[:1], lambda: "a") == "a"
    assert find_once("names", paths, lambda: "ab") == "ab"

    def fail() -> str:
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        find_once("failing", paths, fail)
    assert find_once("failing", paths, lambda: "read") == "read"
