"""The store of tokenized rows: nothing is tokenized twice, nothing damaged is read, nobody is in another's way."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.chat.rendering import SampleRequest
from posttrain.core.errors import DataError, StorageError
from posttrain.data import tokenizing
from posttrain.data.sources import DataSource
from posttrain.data.tokenized import load_token_rows
from posttrain.data.tokenizing import DataPlace
from tests.data.files import chat, write_lines
from tests.data.small_renderer import REFUSED, SmallRenderer, make_settings, tokenize

SOURCE = DataSource(source="a.jsonl", max_bad_fraction=0.5)
ROWS = [chat(f"{number}+1?", str(number + 1)) for number in range(40)]
FILES = ["ids", "sources", "is_trainable", "offsets", "row_ids", "row_id_offsets"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lines(tmp_path / "a.jsonl", [*ROWS, "oops", chat("a", REFUSED)])
    return tmp_path


def find_rows(root: Path) -> Path:
    (folder,) = (root / "cache").glob("*/rows")
    return folder


def test_a_second_start_tokenizes_nothing_and_gives_the_same(root: Path) -> None:
    first, second_renderer = tokenize([SOURCE], root), SmallRenderer()
    second = tokenize([SOURCE], root, second_renderer)
    assert (first.num_tokenized, second.num_tokenized, second_renderer.num_rendered) == (42, 0, 0)
    assert second.ledger == first.ledger
    assert second.rows[0].content_hash == first.rows[0].content_hash
    assert np.array_equal(second.rows[0].ids_N, first.rows[0].ids_N)
    assert list(second.rows[0].row_ids) == [f"a.jsonl:{number}" for number in range(1, 41)]


def test_what_is_allowed_to_be_lost_is_checked_for_stored_rows_too(root: Path) -> None:
    tokenize([SOURCE], root)
    with pytest.raises(DataError, match="2 of 42 rows"):
        tokenize([DataSource(source="a.jsonl", max_bad_fraction=0.01)], root)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip_bit,
    "a truncation": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "an empty file": lambda path: path.write_bytes(b""),
    "a deleted file": lambda path: path.unlink(),
    "a folder in its place": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in FILES), "manifest.json"])
def test_a_damaged_store_is_found_and_built_again(name: str, damage: Any, root: Path) -> None:
    first = tokenize([SOURCE], root)
    content = first.rows[0].content_hash
    ids = first.rows[0].ids_N.copy()
    damage(find_rows(root) / name)
    again = tokenize([SOURCE], root)
    assert again.num_tokenized == 42
    assert again.rows[0].content_hash == content
    assert np.array_equal(again.rows[0].ids_N, ids)
    assert tokenize([SOURCE], root).num_tokenized == 0


def test_a_ledger_edited_by_hand_is_found(root: Path) -> None:
    tokenize([SOURCE], root)
    manifest = find_rows(root) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows_in":42', '"rows_in":41'))
    assert tokenize([SOURCE], root).ledger.rows_in == 42


def test_the_store_of_another_key_is_not_taken(root: Path) -> None:
    tokenize([SOURCE], root)
    first = find_rows(root).parent
    tokenize([SOURCE], root, max_length=30)
    second = next(folder for folder in (root / "cache").iterdir() if folder != first)
    for path in (second / "rows").iterdir():
        path.write_bytes((first / "rows" / path.name).read_bytes())
    assert tokenize([SOURCE], root, max_length=30).num_tokenized == 42


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.advanced = 0

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        self.notes.append(title)

    def advance(self, amount: int = 1, **figures: float | str) -> None:
        self.advanced += amount

    def finish(self) -> None:
        self.notes.append("finished")

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_damage_and_progress_are_told(root: Path) -> None:
    for expected in (["tokenizing a.jsonl", "finished"], []):
        notes = Notes()
        load_token_rows([SOURCE], SmallRenderer(), make_settings(), DataPlace(root, root / "cache", progress=notes))
        assert (notes.notes, notes.advanced) == (expected, 41 if expected else 0)
    flip_bit(find_rows(root) / "ids.npy")
    notes = Notes()
    load_token_rows([SOURCE], SmallRenderer(), make_settings(), DataPlace(root, root / "cache", progress=notes))
    assert "ids.npy was torn or altered" in notes.notes[0]


@pytest.mark.parametrize(
    "change",
    [{"max_length": 50}, {"mode": "full_text"}, {"train_on": "last_assistant"}, {"renderer_hash": "other"},
     {"tokenizer_hash": "other"}, {"truncation": "cut_completion"}, {"truncation": "cut_oldest_turn"}],
)  # fmt: skip
def test_other_settings_are_another_key(change: dict[str, Any]) -> None:
    assert make_settings(**change).identity() != make_settings().identity()


def test_changed_data_are_another_key(root: Path) -> None:
    tokenize([SOURCE], root)
    write_lines(root / "a.jsonl", ROWS)
    data = tokenize([SOURCE], root)
    assert (data.num_tokenized, data.ledger.rows_in) == (40, 40)
    assert len(list((root / "cache").glob("*/rows"))) == 2


def test_a_store_that_cannot_be_written_is_a_storage_error(root: Path) -> None:
    (root / "cache").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        tokenize([SOURCE], root)


def build_beside(root: str, start: Any, answers: Any) -> None:
    start.wait()
    data = tokenize([SOURCE], Path(root))
    answers.put((data.num_tokenized, data.rows[0].content_hash))


def test_processes_that_build_the_same_store_at_once_wait_for_one_another(root: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(3), spawn.Queue()
    workers = [spawn.Process(target=build_beside, args=(str(root), start, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert sorted(number for number, _ in found) == [0, 0, 42]
    assert len({content for _, content in found}) == 1
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


class Suicide(SmallRenderer):
    """Kills its process in the second batch."""

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
        if self.num_rendered:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().render_samples(requests)


def build_and_die(root: str) -> None:
    tokenizing.BATCH_ROWS = 8
    tokenize([SOURCE], Path(root), Suicide())


def test_a_killed_builder_leaves_nothing_that_is_taken_for_a_store(root: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=build_and_die, args=(str(root),))
    worker.start()
    worker.join(timeout=120)
    assert worker.exitcode == -signal.SIGKILL
    (entry,) = (root / "cache").iterdir()
    assert any(path.name.startswith(".tmp-") for path in entry.iterdir())
    assert tokenize([SOURCE], root).num_tokenized == 42
    assert sorted(path.name for path in entry.iterdir()) == ["lock", "rows"]
