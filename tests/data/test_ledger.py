"""The ledger: rows in = trained + dropped, tokens in = kept + lost, whatever the rows and the policy."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.core.errors import DataError
from posttrain.data.ledger import MAX_LISTED, Ledger
from posttrain.data.sources import DataSource
from tests.data.files import chat, say, write_lines
from tests.data.small_renderer import REFUSED, tokenize


def make_ledger() -> Ledger:
    ledger = Ledger(rows_in=4)
    ledger.train(samples=2, tokens=64, tokens_trained=20)
    ledger.shorten("a:1", "cut_completion", tokens=26, detail="90 tokens, 64 kept", is_stop_cut=True)
    ledger.train(samples=1, tokens=10, tokens_trained=5)
    ledger.drop("a:3", "not JSON", kind="bad", detail="column 7")
    ledger.drop("a:4", "too many tokens", kind="length", tokens=100, detail="100 tokens")
    return ledger


def test_a_ledger_of_four_rows_balances_by_hand() -> None:
    """Tokens in: 64 + 26 cut + 10 + 100 dropped = 200; kept 74, lost 126."""
    ledger = make_ledger()
    ledger.check_balance()
    assert (ledger.rows_trained, ledger.rows_dropped, ledger.rows_bad, ledger.samples) == (2, 2, 1, 3)
    assert (ledger.tokens_in, ledger.tokens_kept, ledger.tokens_lost, ledger.tokens_trained) == (200, 74, 126, 25)
    assert ledger.stops_cut == 1


def test_a_ledger_that_does_not_balance_is_found() -> None:
    ledger = make_ledger()
    ledger.rows_in += 1
    with pytest.raises(DataError, match="5 rows in, 4 accounted for"):
        ledger.check_balance()
    ledger = make_ledger()
    ledger.tokens_kept -= 1
    with pytest.raises(DataError, match="200 tokens in, 199 accounted for"):
        ledger.check_balance()


def test_a_ledger_survives_json() -> None:
    ledger = make_ledger()
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


def test_merged_ledgers_add_up_and_balance() -> None:
    total = make_ledger()
    total.merge(make_ledger())
    total.check_balance()
    assert (total.rows_in, total.tokens_in, total.dropped["not JSON"].rows) == (8, 400, 2)
    assert [row["row_id"] for row in total.dropped["not JSON"].listed] == ["a:3", "a:3"]


def test_counts_are_exact_where_ids_are_capped() -> None:
    ledger = Ledger(rows_in=1000)
    for number in range(1000):
        ledger.drop(f"a:{number}", "not JSON", kind="bad")
    assert (ledger.rows_bad, len(ledger.dropped["not JSON"].listed)) == (1000, MAX_LISTED)
    other = make_ledger()
    other.merge(ledger)
    assert (other.dropped["not JSON"].rows, len(other.dropped["not JSON"].listed)) == (1001, MAX_LISTED)


def test_a_ledger_is_told_in_plain_lines() -> None:
    text = "\n".join(make_ledger().describe())
    assert "rows: 4 in, 2 trained on, 2 dropped" in text
    assert "dropped (not JSON): 1 rows, 0 tokens: a:3" in text
    assert "1 rows lost their stop token" in text


TURNS = st.lists(st.tuples(st.text("ab ", max_size=12), st.text("xy", max_size=12)), min_size=1, max_size=4)


def make_row(turns: list[tuple[str, str]]) -> dict[str, Any]:
    return {"messages": [message for q, a in turns for message in (say("user", q), say("assistant", a))]}


ROW = st.one_of(
    TURNS.map(make_row),
    st.text("abc", min_size=1, max_size=40).map(lambda text: {"text": text}),
    st.builds(lambda p, c: {"prompt": p, "completion": c}, st.text("ab", max_size=9), st.text("xy", max_size=9)),
    st.sampled_from(["oops", "7", '{"text": "a", "text": "b"}', '{"messages": []}', '{"prompt": "a"}', '{"a": 1}']),
    st.just(chat("2+2?", REFUSED)),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=12),
    policy=st.sampled_from(["refuse", "drop", "cut_oldest_turn", "cut_completion"]),
    mode=st.sampled_from(["chat", "full_text"]),
    max_length=st.integers(3, 40),
    train_on=st.sampled_from(["assistant", "last_assistant"]),
)
def test_the_ledger_always_balances(rows: list[Any], policy: str, mode: str, max_length: int, train_on: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_lines(root / "a.jsonl", rows)
        source = DataSource(source="a.jsonl", max_bad_fraction=1.0)
        changes = {"mode": mode, "max_length": max_length, "truncation": policy, "train_on": train_on}
        try:
            data = tokenize([source], root, max_affected_fraction=1.0, **changes)
        except DataError as error:
            assert "no row is left" in error.found
            return
        ledger, (tokens,) = data.ledger, data.rows
        ledger.check_balance()
        assert ledger.rows_in == len(rows) == ledger.rows_trained + ledger.rows_dropped
        assert ledger.samples == len(tokens)
        assert ledger.tokens_kept == len(tokens.ids_N)
        assert ledger.rows_trained == len(set(tokens.row_ids))
        assert ledger.tokens_trained == sum(tokens.row(i).is_trainable_T[1:].sum() for i in range(len(tokens)))
        assert max(tokens.lengths_R) <= max_length
        assert all(tokens.row(index).is_trainable_T[1:].any() for index in range(len(tokens)))
