"""Pairs as tokens: one prompt for both branches, ids and never strings, and a reason for every row that is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.chat.rendering import Renderer, SampleRequest
from posttrain.core.errors import DataError
from posttrain.data.pairs import PairData, PairSettings, load_pairs
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import DataPlace
from posttrain.data.truncation import TOO_LONG
from tests.chat.formats import FORMS, build_renderer, build_tokenizer, name_of
from tests.data.files import say, write_lines
from tests.data.small_renderer import REFUSED, STOP, SmallRenderer, make_sample, read_text

PLAIN = next(index for index, form in enumerate(FORMS) if form.name == "plain")
PAIR = {"prompt": "2+2?", "chosen": "four", "rejected": "five!"}
CALL = say("assistant", None, tool_calls=[{"name": "add", "arguments": {"a": 2}}])


def load(root: Path, rows: Sequence[Any], renderer: Any = None, *, bad: float = 1.0, **changes: Any) -> PairData:
    """Tokenize rows; bad ones are tolerated unless `bad` says otherwise, and `changes` are settings."""
    write_lines(root / "a.jsonl", rows)
    settings = PairSettings(**{"renderer_hash": "small", "tokenizer_hash": "characters", **changes})
    source = DataSource(source="a.jsonl", max_bad_fraction=bad)
    return load_pairs([source], renderer or SmallRenderer(), settings, DataPlace(root, root / "cache"))


def real_renderer(index: int = PLAIN, kind: str = "bytes") -> Renderer:
    return build_renderer(build_tokenizer(kind, index), FORMS[index].template, FORMS[index].arguments)


def test_both_branches_follow_one_prompt_and_end_with_the_end_of_turn(tmp_path: Path) -> None:
    pair = load(tmp_path, [PAIR]).sources[0][0]
    assert read_text(pair.prompt.ids_T.tolist()) == "2+2?"
    assert not pair.prompt.is_trainable_T.any()
    assert [read_text(part.ids_T.tolist()) for part in pair.completions] == ["four", "five!"]
    assert all(part.ids_T[-1] == STOP and part.is_trainable_T.all() for part in pair.completions)
    assert pair.join(pair.rejected).ids_T.tolist() == [*pair.prompt.ids_T, *pair.rejected.ids_T]


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "legacy", "swallowing"])
@pytest.mark.parametrize("index", range(len(FORMS)), ids=[name_of(form) for form in FORMS])
def test_prompt_ids_are_a_samplers_and_completions_decode_to_the_answers(index: int, kind: str, tmp_path: Path) -> None:
    renderer = real_renderer(index, kind)
    answers = ["It is 4.", " four", "4\n\n- yes"]
    rows = [{"prompt": f"{n} + 2?", "chosen": answers[n], "rejected": answers[(n + 1) % 3]} for n in range(3)]
    rows.append({"prompt": "Hi", "chosen": "a<|im_end|>b", "rejected": "</s>"})  # control text stays text
    data = load(tmp_path, rows, renderer)
    assert data.num_rows + data.ledger.rows_bad == len(rows)
    assert data.num_rows >= 3
    for pair in data.sources[0]:
        row = rows[int(pair.row_id.split(":")[1]) - 1]
        [alone] = renderer.render_prompts([([say("user", row["prompt"])], None)])
        assert pair.prompt.ids_T.tolist() == alone.tolist()
        for name, part in zip(("chosen", "rejected"), pair.completions, strict=True):
            assert part.ids_T[-1] in renderer.format.stop_ids
            text = renderer.tokenizer.decode(part.ids_T[:-1].tolist())
            assert text.removeprefix("<think>\n\n</think>\n\n").strip() == row[name].strip()  # some templates think


def test_implicit_prompts_and_conversations_mean_the_same_as_explicit_ones(tmp_path: Path) -> None:
    asked = [say("system", "Be brief."), say("user", "2+2?")]
    rows = [
        {"chosen": [*asked, say("assistant", "four")], "rejected": [*asked, say("assistant", "five!")]},
        {"prompt": asked, "chosen": [*asked, say("assistant", "four")], "rejected": [say("assistant", "five!")]},
        {"prompt": asked, "chosen": "four", "rejected": "five!"},
    ]
    pairs = load(tmp_path, rows).sources[0]
    assert {tuple(pair.prompt.ids_T) for pair in pairs} == {tuple(pairs[0].prompt.ids_T)}
    assert {tuple(pair.rejected.ids_T) for pair in pairs} == {tuple(pairs[0].rejected.ids_T)}
    assert read_text(pairs[0].prompt.ids_T.tolist()) == "Be brief.2+2?"


def test_what_a_tool_said_inside_a_completion_is_not_trained_on(tmp_path: Path) -> None:
    calling = [CALL, say("tool", "4"), say("assistant", "four")]
    pair = load(tmp_path, [{"prompt": "2+2?", "chosen": calling, "rejected": "five"}]).sources[0][0]
    trained = pair.chosen.ids_T[pair.chosen.is_trainable_T]
    assert read_text(trained.tolist()).endswith("four")
    assert read_text(trained.tolist()).startswith("[{'type'")
    assert "4" not in read_text(trained.tolist())
    assert "4" in read_text(pair.chosen.ids_T.tolist())


def test_columns_that_are_asked_for_stay_with_their_rows(tmp_path: Path) -> None:
    rows = [{**PAIR, "margin": 2, "gold": [1, 0]}, {**PAIR, "prompt": "x", "margin": 0.5, "other": 1}]
    data = load(tmp_path, rows, columns=("margin", "gold"))
    assert [dict(pair.columns) for pair in data.sources[0]] == [
        {"margin": 2, "gold": [1, 0]},
        {"margin": 0.5, "gold": None},
    ]
    assert data.sources[0].read_numbers("margin").tolist() == [2.0, 0.5]
    with pytest.raises(DataError, match="'gold' is \\[1, 0\\]"):
        data.sources[0].read_numbers("gold")
    assert dict(load(tmp_path, rows).sources[0][0].columns) == {}


BAD_PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "2+2?", "chosen": "4", "rejected": "4"}, "no preference"),
    ({"prompt": "2+2?", "chosen": "4", "rejected": ""}, "empty completion"),
    ({"prompt": "2+2?", "chosen": " \n", "rejected": "4"}, "empty completion"),
    (
        {"prompt": [say("user", "a")], "chosen": [say("user", "b"), say("assistant", "c")], "rejected": "d"},
        "prompt is no prefix",
    ),
    ({"prompt": "2+2?", "chosen": "4", "rejected": REFUSED}, "template"),
    ({"prompt": "2+2?", "completion": "4"}, "nothing to compare"),
    ({"prompt": "2+2?", "completion": "4", "label": True}, "nothing to compare"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_PAIRS)
def test_a_pair_that_says_nothing_is_dropped_by_name_or_stops_the_start(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    data = load(tmp_path, [PAIR, row])
    entry = data.ledger.dropped[reason]
    assert (entry.rows, entry.kind, entry.listed[0]["row_id"]) == (1, "bad", "a.jsonl:2")
    assert (data.ledger.rows_trained, data.num_rows) == (1, 1)
    with pytest.raises(DataError) as caught:
        load(tmp_path, [PAIR, row], bad=0.0)
    assert "max_bad_fraction" in caught.value.cure


class MeetingRenderer(SmallRenderer):
    """Writes something before the last answer that depends on it."""

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
        found = []
        for request in requests:
            ids = [7, len(request.messages[-1]["content"]), 8, STOP]
            found.append([make_sample(ids, [0] * 4, [False, False, True, True])])
        return found


def test_a_prompt_that_depends_on_the_answer_is_no_prefix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not begin with the same tokens"):
        load(tmp_path, [PAIR], MeetingRenderer(), bad=0.0)


def test_answers_that_become_the_same_tokens_are_no_preference(tmp_path: Path) -> None:
    same = {**PAIR, "rejected": "FOUR"}

    class Lowering(SmallRenderer):
        def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
            lowered = [
                SampleRequest([{**m, "content": m["content"].lower()} for m in r.messages], r.tools, r.first_trained)
                for r in requests
            ]
            return super().render_samples(lowered)

    with pytest.raises(DataError, match="the same tokens"):
        load(tmp_path, [same], Lowering(), bad=0.0)


def test_a_completion_whose_earlier_turns_are_rewritten_is_left_out(tmp_path: Path) -> None:
    class Rewriting(SmallRenderer):
        def render_samples(self, requests: Sequence[SampleRequest]) -> list[Any]:
            found: list[Any] = super().render_samples(requests)
            is_long = [len(request.messages) > 2 for request in requests]
            return [samples * 2 if long else samples for long, samples in zip(is_long, found, strict=True)]

    calling = {"prompt": "2+2?", "chosen": [CALL, say("tool", "4"), say("assistant", "four")], "rejected": "five"}
    data = load(tmp_path, [PAIR, calling], Rewriting())
    assert data.ledger.dropped["several samples"].rows == 1


def test_rows_that_are_too_long_are_dropped_refused_or_lose_their_oldest_turns(tmp_path: Path) -> None:
    # bos, role + 4, role + (4 + stop | 5 + stop): a prompt of 7 tokens, completions of 5 and 6
    turns = [say("user", "abcdefgh"), say("assistant", "ijkl"), say("user", "2+2?")]
    rows = [PAIR, {**PAIR, "prompt": turns}]
    assert load(tmp_path, rows).sources[0].part_lengths_RK.tolist() == [[7, 5, 6], [22, 5, 6]]
    with pytest.raises(DataError, match="1 of 2 rows"):
        load(tmp_path, rows, max_length=13)
    dropped = load(tmp_path, rows, max_length=13, truncation="drop")
    assert (dropped.num_rows, dropped.ledger.dropped[TOO_LONG].tokens) == (1, 33)
    cut = load(tmp_path, rows, max_length=13, truncation="cut_oldest_turn")
    assert cut.sources[0].part_lengths_RK.tolist() == [[7, 5, 6], [7, 5, 6]]
    assert cut.ledger.shortened["cut_oldest_turn"].tokens == 15
    with pytest.raises(DataError, match="too many tokens: 2 rows"):
        load(tmp_path, rows, max_length=12, truncation="cut_oldest_turn")


def test_a_second_start_tokenizes_nothing_and_finds_the_same_rows(tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"{n}?", "margin": n} for n in range(5)]
    first, renderer = load(tmp_path, rows, columns=("margin",)), SmallRenderer()
    second = load(tmp_path, rows, renderer, columns=("margin",))
    assert (first.num_tokenized, second.num_tokenized, renderer.num_rendered) == (5, 0, 0)
    assert first.sources[0].content_hash == second.sources[0].content_hash
    assert first.ledger.to_json() == second.ledger.to_json()
    assert [pair.columns["margin"] for pair in second.sources[0]] == [0, 1, 2, 3, 4]
    changed = load(tmp_path, [{**row, "margin": 9} for row in rows], columns=("margin",))
    assert changed.sources[0].content_hash != first.sources[0].content_hash


def test_an_unpaired_row_is_a_prompt_one_completion_and_its_label(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2+2?", "completion": "four", "label": True},
        {"prompt": "2+2?", "completion": "5", "label": False},
    ]
    data = load(tmp_path, rows, kind="unpaired")
    assert [(len(row.completions), row.columns["label"]) for row in data.sources[0]] == [(1, True), (1, False)]
    assert read_text(data.sources[0][1].chosen.ids_T.tolist()) == "5"


def test_the_ledger_counts_a_prompt_once_and_balances(tmp_path: Path) -> None:
    data = load(tmp_path, [PAIR, {**PAIR, "rejected": "four"}])
    assert (data.ledger.tokens_in, data.ledger.tokens_trained, data.ledger.samples) == (7 + 5 + 6, 5 + 6, 1)
    data.ledger.check_balance()
