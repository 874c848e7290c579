"""C compiled on the spot: once, kept by content, and never a surprise where it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.core.native_library import NativeUnavailableError, load_library

SOURCE = "int answer(void) { return ANSWER; }\n"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("POSTTRAIN_COMPILE", raising=False)
    path = tmp_path / "answer.c"
    path.write_text(SOURCE)
    return path


def load_answer(path: Path, answer: int) -> int:
    try:
        return int(load_library(path, {"ANSWER": answer}).answer())
    except NativeUnavailableError as error:
        if "no C compiler" in str(error):
            pytest.skip(str(error))
        raise


def list_cache(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "posttrain" / "libraries").iterdir())


def test_a_source_is_compiled_once_for_each_set_of_macros(source: Path, tmp_path: Path) -> None:
    assert load_answer(source, 42) == 42
    assert load_answer(source, 7) == 7
    files = list_cache(tmp_path)
    assert len(files) == 2
    times = [path.stat().st_mtime_ns for path in files]
    assert load_answer(source, 42) == 42
    assert [path.stat().st_mtime_ns for path in list_cache(tmp_path)] == times


def test_another_text_is_another_library(source: Path) -> None:
    assert load_answer(source, 42) == 42
    source.write_text(SOURCE.replace("ANSWER;", "ANSWER + 1;"))
    assert load_answer(source, 42) == 43


def test_a_header_that_changes_makes_another_library(source: Path, tmp_path: Path) -> None:
    header = tmp_path / "more.h"
    header.write_text("#define MORE 1\n")
    source.write_text('#include "more.h"\n' + SOURCE.replace("ANSWER;", "ANSWER + MORE;"))
    try:
        assert load_library(source, {"ANSWER": 1}, [header]).answer() == 2
    except NativeUnavailableError as error:
        pytest.skip(str(error))
    header.write_text("#define MORE 5\n")
    assert load_library(source, {"ANSWER": 1}, [header]).answer() == 6


def test_it_can_be_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_COMPILE", "0")
    with pytest.raises(NativeUnavailableError, match="switched off"):
        load_library(source, {})


def test_a_missing_compiler_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(NativeUnavailableError, match="no-such-compiler"):
        load_library(source, {})


def test_a_source_that_does_not_compile_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    load_answer(source, 1)
    source.write_text("int answer(void) { return }\n")
    with pytest.raises(NativeUnavailableError, match="failed"):
        load_library(source, {})
    assert len(list_cache(tmp_path)) == 1


def test_a_folder_that_others_may_write_is_not_trusted(source: Path, tmp_path: Path) -> None:
    load_answer(source, 1)
    folder = tmp_path / "cache" / "posttrain" / "libraries"
    os.chmod(folder, 0o777)
    with pytest.raises(NativeUnavailableError, match="written by others"):
        load_library(source, {"ANSWER": 1})
