"""Tokenizing: what is trained on, documents split without loss, and memory that does not grow with the data."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.chat.rendering import Renderer, SampleRequest
from posttrain.core.errors import DataError
from posttrain.core.records import RenderedSample, Source
from posttrain.data import tokenizing
from posttrain.data.sources import DataSource
from posttrain.data.tokenized import NOT_TRAINED, TokenizedData, TokenizeSettings, load_token_rows
from posttrain.data.tokenizing import DataPlace
from tests.chat.formats import FORMS, build_renderer, build_tokenizer
from tests.data.files import chat, say, write_lines
from tests.data.small_renderer import BOS, EOS, REFUSED, SmallRenderer, make_sample, make_settings, read_text, tokenize

SOURCE = DataSource(source="a.jsonl")
PLAIN = next(index for index, form in enumerate(FORMS) if form.name == "plain")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """The real renderer with the plain template and a byte-level tokenizer."""
    return build_renderer(build_tokenizer("bytes", PLAIN), FORMS[PLAIN].template, {})


def load_real(renderer: Renderer, root: Path, **changes: Any) -> TokenizedData:
    settings = TokenizeSettings(renderer_hash=renderer.format.hash, tokenizer_hash="bytes", **changes)
    return load_token_rows([SOURCE], renderer, settings, DataPlace(root, root / "cache"))


def test_trained_tokens_are_each_answer_and_its_stop_token(renderer: Renderer, tmp_path: Path) -> None:
    rows = [
        chat("2+2?", "It is 4."),
        {"prompt": "Caf\u00e9?", "completion": "\U0001f600"},
        {"messages": [say("system", "Be brief."), say("user", "a"), say("assistant", "b"), say("user", "c"),
                      say("assistant", "d")]},
    ]  # fmt: skip
    write_lines(tmp_path / "a.jsonl", rows)
    data = load_real(renderer, tmp_path)
    decoded = []
    for index in range(len(data.rows[0])):
        row = data.rows[0].row(index)
        decoded.append(renderer.tokenizer.decode(row.ids_T[row.is_trainable_T].tolist()))
    assert decoded == ["It is 4.</s>", "\U0001f600</s>", "b</s>d</s>"]
    assert list(data.rows[0].row_ids) == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert data.ledger.tokens_trained == int(data.rows[0].is_trainable_N.sum())


def test_tools_calls_and_thinking_reach_the_template(renderer: Renderer, tmp_path: Path) -> None:
    call = {"name": "add", "arguments": {"a": 2}}
    row = {
        "messages": [say("user", "2+2?"), say("assistant", None, tool_calls=[call]), say("tool", "4", name="add"),
                     say("assistant", "4", reasoning_content="It said 4.")],
        "tools": [{"name": "add", "parameters": {}}],
    }  # fmt: skip
    write_lines(tmp_path / "a.jsonl", [row])
    sample = load_real(renderer, tmp_path).rows[0].row(0)
    text = renderer.tokenizer.decode(sample.ids_T.tolist())
    assert '"parameters": {}' in text
    trained = renderer.tokenizer.decode(sample.ids_T[sample.is_trainable_T].tolist())
    assert '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call></s>' in trained
    assert trained.endswith("<think>It said 4.</think>\n4</s>")
    assert Source.TOOL in sample.sources_T


def test_the_whole_of_a_text_row_is_trained_on_in_chat_mode_too(renderer: Renderer, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "Once upon a time"}, chat("2+2?", "4")])
    row = load_real(renderer, tmp_path).rows[0].row(0)
    assert renderer.tokenizer.decode(row.ids_T.tolist()) == "<s>Once upon a time</s>"
    assert row.is_trainable_T.all()
    assert set(row.sources_T) == {Source.DOCUMENT}


def test_cutting_the_oldest_turn_renders_the_rest_as_a_conversation_of_its_own(
    renderer: Renderer, tmp_path: Path
) -> None:
    turns = [message for number in range(6) for message in (say("user", f"q{number}"), say("assistant", f"a{number}"))]
    write_lines(tmp_path / "a.jsonl", [{"messages": [say("system", "Be brief."), *turns]}])
    data = load_real(renderer, tmp_path, max_length=60, truncation="cut_oldest_turn")
    row = data.rows[0].row(0)
    text = renderer.tokenizer.decode(row.ids_T.tolist())
    assert len(row.ids_T) <= 60
    assert text.startswith("<s>System:\nBe brief.</s>")
    assert "q0" not in text
    assert text.endswith("q5</s>\nAssistant:\na5</s>\n")
    assert data.ledger.shortened["cut_oldest_turn"].rows == 1


def test_full_text_is_split_at_exact_boundaries_and_documents_are_never_mixed(tmp_path: Path) -> None:
    texts = ["a" * 8, "b" * 25, "c", "d" * 18]  # 10, 27, 3 and 20 tokens with BOS and EOS
    write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    (rows,) = tokenize([SOURCE], tmp_path, mode="full_text", max_length=10).rows
    assert list(rows.lengths_R) == [10, 10, 10, 7, 3, 10, 10]
    assert list(rows.row_ids) == [f"a.jsonl:{number}" for number in (1, 2, 2, 2, 3, 4, 4)]
    for number, text in enumerate(texts, start=1):
        pieces = [rows.row(index).ids_T for index in range(len(rows)) if rows.row_ids[index] == f"a.jsonl:{number}"]
        ids = np.concatenate(pieces)
        assert (ids[0], read_text(ids), ids[-1]) == (BOS, text, EOS)
    assert rows.is_trainable_N.all()


def test_full_text_loses_no_token_and_leaves_no_piece_of_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "a" * length} for length in range(1, 60)])
    data = tokenize([SOURCE], tmp_path, mode="full_text", max_length=7)
    assert data.ledger.tokens_lost == 0
    assert data.ledger.tokens_kept == sum(length + 2 for length in range(1, 60)) == len(data.rows[0].ids_N)
    assert min(data.rows[0].lengths_R) >= 2


def test_full_text_without_a_limit_keeps_documents_whole(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "a" * 5000}])
    assert list(tokenize([SOURCE], tmp_path, mode="full_text").rows[0].lengths_R) == [5002]


def test_conversations_are_refused_in_full_text(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [chat("2+2?", "4")])
    with pytest.raises(DataError, match="mode full_text"):
        tokenize([SOURCE], tmp_path, mode="full_text")


class DeafRenderer(SmallRenderer):
    """Marks nothing as trained in rows that speak of silence."""

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
        samples = super().render_samples(requests)
        for request, group in zip(requests, samples, strict=True):
            if "silence" in str(request.messages) and isinstance(group, list):
                group[0].is_trainable_T[:] = False
        return samples


def test_rows_without_a_trained_token_are_dropped_and_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [chat("2+2?", "4"), chat("silence", "x")])
    data = tokenize([SOURCE], tmp_path, DeafRenderer())
    assert list(data.rows[0].row_ids) == ["a.jsonl:1"]
    entry = data.ledger.dropped[NOT_TRAINED]
    assert (entry.kind, entry.rows, entry.listed[0]["row_id"]) == ("empty", 1, "a.jsonl:2")


class SplittingRenderer(SmallRenderer):
    """Makes a sample of every answer, as a template that rewrites history does."""

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
        ends = [[i + 1 for i, m in enumerate(r.messages) if m["role"] == "assistant"] for r in requests]
        return [
            [self._render(SampleRequest(r.messages[:end], r.tools, end - 1))[0] for end in ends_of_row]  # type: ignore[index]  # no row is refused here
            for r, ends_of_row in zip(requests, ends, strict=True)
        ]


def test_a_row_may_become_several_samples_and_only_the_long_ones_are_dropped(tmp_path: Path) -> None:
    turns = [message for number in range(3) for message in (say("user", "abc"), say("assistant", "de"))]
    write_lines(tmp_path / "a.jsonl", [{"messages": turns}])  # samples of 9, 17 and 25 tokens
    data = tokenize([SOURCE], tmp_path, SplittingRenderer())
    assert list(data.rows[0].lengths_R) == [9, 17, 25]
    assert list(data.rows[0].row_ids) == ["a.jsonl:1"] * 3
    assert (data.ledger.rows_trained, data.ledger.samples, data.ledger.tokens_in) == (1, 3, 51)
    shorter = tokenize([SOURCE], tmp_path, SplittingRenderer(), max_length=20, truncation="drop")
    assert list(shorter.rows[0].lengths_R) == [9, 17]
    assert (shorter.ledger.tokens_in, shorter.ledger.tokens_lost) == (51, 25)
    with pytest.raises(DataError, match="1 of 1 rows"):
        tokenize([SOURCE], tmp_path, SplittingRenderer(), max_length=20)


def test_sources_stay_apart_and_their_ledgers_add_up(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [chat("2+2?", "4")] * 3)
    write_lines(tmp_path / "b.jsonl", [chat("2+2?", "4"), chat("a", REFUSED)])
    data = tokenize([SOURCE, DataSource(source="b.jsonl", max_bad_fraction=0.5)], tmp_path)
    assert [len(rows) for rows in data.rows] == [3, 1]
    assert (data.ledger.rows_in, data.num_tokenized, data.ledger.dropped["template"].rows) == (5, 5, 1)


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [chat("2+2?", "4")])

    class Meddler(SmallRenderer):
        def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
            write_lines(path, [chat("2+2?", "5")])
            return super().render_samples(requests)

    with pytest.raises(DataError, match="changed while it was read"):
        tokenize([SOURCE], tmp_path, Meddler())
    assert tokenize([SOURCE], tmp_path).num_tokenized == 1


@pytest.mark.parametrize(("mode", "max_length"), [("chat", 1), ("full_text", 2)])
def test_a_limit_that_leaves_nothing_to_predict_is_refused(mode: str, max_length: int) -> None:
    with pytest.raises(DataError, match="max_length"):
        make_settings(mode=mode, max_length=max_length)


class CheapRenderer(SmallRenderer):
    """Gives every row the same 600 tokens, so that only the data's own way costs memory."""

    sample = make_sample([7] * 600, [0] * 600, [True] * 600)

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
        return [[self.sample] for _ in requests]

    def render_document(self, text: str) -> RenderedSample:
        return self.sample


def measure_peak(root: Path, name: str, num_rows: int) -> int:
    row = json.dumps(chat("q" * 200, "a" * 200))
    with (root / name).open("w") as file:
        if name.endswith(".json"):
            file.write("[" + ",\n".join(row for _ in range(num_rows)) + "]")
        else:
            file.writelines(row + "\n" for _ in range(num_rows))
    tracemalloc.start()
    try:
        data = tokenize([DataSource(source=name)], root, CheapRenderer())
        assert len(data.rows[0]) == num_rows
        assert data.rows[0].row_ids[-1] == f"{name}:{num_rows}"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_memory_does_not_grow_with_the_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "BATCH_ROWS", 64)
    measure_peak(tmp_path, name, 100)  # what is imported and cached the first time
    few, many = measure_peak(tmp_path, name, 500), measure_peak(tmp_path, name, 5000)
    assert many < 1.2 * few
