"""Rows with too many tokens: four policies, each stated, counted and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.core.errors import DataError
from posttrain.core.records import Message
from posttrain.data.sources import DataSource
from posttrain.data.truncation import TOO_LONG, cut_oldest_turn, split_document
from tests.data.files import chat, say, write_lines
from tests.data.small_renderer import STOP, make_sample, read_text, tokenize

SHORT = chat("ab", "cd")  # BOS, role, 2 characters, role, 2 characters, stop: 8 tokens
LONG = chat("ab", "c" * 20)  # 26 tokens
SOURCE = DataSource(source="a.jsonl")
DIALOGUE = [
    say("system", "s"),
    say("user", "first"),
    say("assistant", "one"),
    say("user", "second"),
    say("assistant", None, tool_calls=[{"name": "f"}]),
    say("tool", "7"),
    say("assistant", "two"),
    say("user", "third"),
    say("assistant", "three"),
]


def write(root: Path, rows: list[Any]) -> Path:
    write_lines(root / "a.jsonl", rows)
    return root


def test_refuse_names_rows_and_tokens_lost_above_half_a_percent(tmp_path: Path) -> None:
    write(tmp_path, [SHORT] * 199 + [LONG] * 2)
    with pytest.raises(DataError) as caught:
        tokenize([SOURCE], tmp_path, max_length=20)
    error = caught.value
    assert "2 of 201 rows (1.0%) have more than 20 tokens" in error.found
    assert "loses 52 tokens: a.jsonl:200 (26 tokens), a.jsonl:201 (26 tokens)" in error.found
    assert error.expected == "at most 0.5% of the rows above max_length"
    assert "26 tokens" in error.cure
    assert "cut_oldest_turn" in error.cure
    assert error.place == "a.jsonl"


def test_refuse_drops_and_counts_up_to_half_a_percent(tmp_path: Path) -> None:
    write(tmp_path, [SHORT] * 199 + [LONG])
    data = tokenize([SOURCE], tmp_path, max_length=20)
    assert data.ledger.rows_trained == 199
    entry = data.ledger.dropped[TOO_LONG]
    assert (entry.kind, entry.rows, entry.tokens) == ("length", 1, 26)
    assert entry.listed == [{"row_id": "a.jsonl:200", "tokens_lost": 26, "detail": "26 tokens"}]


def test_refuse_holds_on_the_second_start_too_and_drop_then_reads_the_same_store(tmp_path: Path) -> None:
    write(tmp_path, [SHORT, LONG])
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 2 rows"):
            tokenize([SOURCE], tmp_path, max_length=20)
    data = tokenize([SOURCE], tmp_path, max_length=20, truncation="drop")
    assert (data.num_tokenized, data.ledger.rows_trained) == (0, 1)
    assert tokenize([SOURCE], tmp_path, max_length=20, max_affected_fraction=0.5).num_tokenized == 0


def test_rows_of_just_the_limit_are_kept(tmp_path: Path) -> None:
    write(tmp_path, [SHORT, LONG])
    assert tokenize([SOURCE], tmp_path, max_length=26).ledger.rows_dropped == 0


def test_cut_completion_cuts_the_tail_and_says_that_the_stop_token_is_not_trained(tmp_path: Path) -> None:
    write(tmp_path, [LONG, SHORT])
    data = tokenize([SOURCE], tmp_path, max_length=20, truncation="cut_completion")
    row = data.rows[0].row(0)
    assert (len(row.ids_T), read_text(row.ids_T), STOP in row.ids_T) == (20, "ab" + "c" * 15, False)
    assert row.is_trainable_T.sum() == 15
    entry = data.ledger.shortened["cut_completion"]
    assert (entry.rows, entry.tokens, data.ledger.stops_cut) == (1, 6, 1)
    assert "stop" in data.ledger.describe()[-1]


def test_cut_completion_drops_a_row_whose_whole_answer_is_cut(tmp_path: Path) -> None:
    write(tmp_path, [chat("a" * 30, "b"), SHORT])
    data = tokenize([SOURCE], tmp_path, max_length=20, truncation="cut_completion")
    assert (data.ledger.rows_trained, data.ledger.dropped[TOO_LONG].rows) == (1, 1)


def test_cut_oldest_turn_drops_whole_turns_and_keeps_the_system_message(tmp_path: Path) -> None:
    write(tmp_path, [{"messages": DIALOGUE}])
    data = tokenize([SOURCE], tmp_path, max_length=18, truncation="cut_oldest_turn")
    row = data.rows[0].row(0)
    assert read_text(row.ids_T) == "sthirdthree"
    assert read_text(row.ids_T[row.is_trainable_T]) == "three"
    entry = data.ledger.shortened["cut_oldest_turn"]
    assert (entry.rows, entry.tokens) == (1, data.ledger.tokens_in - len(row.ids_T))
    assert data.ledger.stops_cut == 0


def test_cut_oldest_turn_drops_the_row_if_the_last_turn_alone_is_too_long(tmp_path: Path) -> None:
    write(tmp_path, [{"messages": DIALOGUE}, SHORT])
    data = tokenize([SOURCE], tmp_path, max_length=12, truncation="cut_oldest_turn")
    assert (data.ledger.rows_trained, data.ledger.dropped[TOO_LONG].rows) == (1, 1)


def test_turns_are_cut_from_the_oldest_on_with_what_follows_them() -> None:
    first = cut_oldest_turn(DIALOGUE, 0)
    assert first is not None
    assert [message["content"] for message in first[0]] == ["s", "second", None, "7", "two", "third", "three"]
    second = cut_oldest_turn(*first)
    assert second is not None
    assert [message["content"] for message in second[0]] == ["s", "third", "three"]
    assert cut_oldest_turn(*second) is None


def test_the_first_trained_message_stays_the_same_message() -> None:
    cut = cut_oldest_turn(DIALOGUE, 8)
    assert cut is not None
    messages, first_trained = cut
    assert messages[first_trained] is DIALOGUE[8]


@given(st.lists(st.sampled_from(["user", "assistant", "tool"]), min_size=1, max_size=12), st.integers(0, 12))
def test_what_is_cut_is_always_one_piece_after_the_system_message(roles: list[str], first_trained: int) -> None:
    messages: list[Message] = [say("system", "s"), *(say(role, str(number)) for number, role in enumerate(roles))]
    cut = cut_oldest_turn(messages, first_trained)
    if cut is None:
        assert "user" not in roles[1:]
        return
    kept, first = cut
    assert kept[0] == messages[0]
    assert kept[1:] == messages[len(messages) - len(kept) + 1 :]
    assert kept[1]["role"] == "user"
    trained_before = [message for message in messages[first_trained:] if message in kept[1:]]
    assert trained_before == [message for message in kept[first:] if message in kept[1:]]


@given(st.integers(1, 60), st.integers(3, 12))
def test_a_document_is_split_without_losing_a_token_and_without_a_lonely_one(num_tokens: int, limit: int) -> None:
    pieces = split_document(make_sample(range(num_tokens), [5] * num_tokens, [True] * num_tokens), limit)
    lengths = [len(piece.ids_T) for piece in pieces]
    assert [int(token) for piece in pieces for token in piece.ids_T] == list(range(num_tokens))
    assert all(2 <= length <= limit for length in lengths) or num_tokens == 1
    assert all(length == limit for length in lengths[:-2])
