"""Unpaired rows: pairs become two of them, labels must differ, and no completion is mismatched with its own prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Example
from posttrain.data.mismatched import mismatch_rows, rotate_completions
from posttrain.data.pairs import PairData, PairSettings, load_pairs
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import DataPlace
from posttrain.data.unpaired import read_labels, split_pair
from tests.data.files import say, write_lines
from tests.data.small_renderer import SmallRenderer, read_text

PAIR = {"prompt": "2+2?", "chosen": "four", "rejected": "five", "level": 1}
ROW = {"prompt": "3+3?", "completion": "six", "label": True}


def load(root: Path, *rows: dict[str, Any], splits_pairs: bool = True) -> PairData:
    write_lines(root / "a.jsonl", rows)
    settings = PairSettings("small", "characters", kind="unpaired", splits_pairs=splits_pairs)
    source = DataSource(source="a.jsonl", max_bad_fraction=1.0)
    return load_pairs([source], SmallRenderer(), settings, DataPlace(root, root / "cache"))


def test_a_pair_is_a_desirable_row_and_an_undesirable_one() -> None:
    asked, chosen, rejected = [say("user", "2+2?")], [say("assistant", "4")], [say("assistant", "5")]
    pair = Example("a:3", "preference", messages=asked, chosen=chosen, rejected=rejected, columns={"level": 1})
    rows = split_pair(pair)
    assert [(row.row_id, row.kind, row.label, row.first_trained) for row in rows] == [
        ("a:3#chosen", "unpaired", True, 1),
        ("a:3#rejected", "unpaired", False, 1),
    ]
    assert [row.messages for row in rows] == [asked + chosen, asked + rejected]
    assert all(row.columns == {"level": 1} and not row.chosen and not row.rejected for row in rows)
    assert split_pair(rows[0]) == [rows[0]]


def test_pairs_and_unpaired_rows_train_together_and_the_ledger_counts_a_pair_as_two_rows(tmp_path: Path) -> None:
    data = load(tmp_path, PAIR, ROW, {**PAIR, "chosen": ""})
    found = [(row.row_id, read_text(row.chosen.ids_T.tolist()), row.columns["label"]) for row in data.sources[0]]
    assert found == [
        ("a.jsonl:1#chosen", "four", True),
        ("a.jsonl:1#rejected", "five", False),
        ("a.jsonl:2", "six", True),
        ("a.jsonl:3#rejected", "five", False),
    ]
    ledger = data.ledger
    assert (ledger.rows_in, ledger.rows_trained) == (5, 4)
    assert {reason: entry.rows for reason, entry in ledger.dropped.items()} == {"empty completion": 1}
    ledger.check_balance()


def test_a_pair_is_a_bad_row_where_pairs_are_not_split(tmp_path: Path) -> None:
    data = load(tmp_path, PAIR, ROW, splits_pairs=False)
    assert [row.row_id for row in data.sources[0]] == ["a.jsonl:2"]
    assert data.ledger.dropped["nothing to compare"].rows == 1


def test_labels_are_read_in_order_and_must_not_be_all_the_same(tmp_path: Path) -> None:
    sources = load(tmp_path, PAIR, ROW).sources
    assert [labels.tolist() for labels in read_labels([*sources, *sources])] == [[True, False, True]] * 2
    with pytest.raises(DataError, match="all 1 rows are desirable"):
        read_labels(load(tmp_path, ROW).sources)
    with pytest.raises(DataError, match=r"all 1 rows are undesirable \(label: false\)"):
        read_labels(load(tmp_path, {**ROW, "label": False}).sources)


def test_no_row_is_mismatched_with_its_own_completion_in_rows_of_every_shape() -> None:
    """Random rows of up to 12 prompts and texts: never the same text, and a rotation unless one is in the majority."""
    generator = np.random.default_rng(5)
    for _ in range(300):
        num_rows = int(generator.integers(2, 40))
        prompts = generator.integers(0, generator.integers(1, 13), num_rows).astype(str)
        completions = generator.integers(0, generator.integers(2, 13), num_rows).astype(str)
        if len(set(completions)) == 1:
            continue
        partners = rotate_completions(list(prompts), list(completions))
        assert not (completions[partners] == completions).any()
        if 2 * np.unique(completions, return_counts=True)[1].max() <= num_rows:
            assert sorted(partners) == list(range(num_rows))


def test_of_pairs_no_completion_goes_to_its_own_prompt() -> None:
    """Each prompt with two completions, all different: a rotation exists under which no prompt meets its own other."""
    prompts = [str(number // 2) for number in range(100)]
    completions = [f"text {number}" for number in range(100)]
    partners = rotate_completions(prompts, completions)
    assert all(prompts[partner] != prompt for partner, prompt in zip(partners, prompts, strict=True))
    assert sorted(partners) == list(range(100))


def test_two_rows_get_each_others_completion_and_one_text_alone_is_refused() -> None:
    assert rotate_completions(["p", "p"], ["a", "b"]).tolist() == [1, 0]
    with pytest.raises(DataError, match="all 2 rows have the same completion"):
        rotate_completions(["p", "q"], ["a", "a"])


def test_a_text_in_the_majority_shares_the_others_completions() -> None:
    partners = rotate_completions(["p", "q", "r", "s"], ["no", "no", "yes", "no"])
    assert partners.tolist() == [2, 2, 0, 2]


def read_mismatched(rows: Any) -> list[tuple[str, str, str]]:
    return [
        (row.row_id, read_text(row.prompt.ids_T.tolist()), read_text(row.chosen.ids_T.tolist()))
        for source in rows
        for row in source
    ]


def test_mismatched_rows_have_their_own_prompt_and_anothers_completion_through_all_sources(tmp_path: Path) -> None:
    first = load(tmp_path, PAIR).sources
    (tmp_path / "more").mkdir()
    second = load(tmp_path / "more", ROW, {**ROW, "prompt": "9-3?"}).sources
    own = read_mismatched([*first, *second])
    found = mismatch_rows([*first, *second])
    others = read_mismatched(found)
    assert [row[:2] for row in others] == [row[:2] for row in own]
    assert sorted(row[2] for row in others) == ["five", "four", "six", "six"]
    assert all(other[2] != mine[2] for other, mine in zip(others, own, strict=True))
    for source in found:
        lengths = [[len(row.prompt.ids_T), len(row.chosen.ids_T)] for row in source]
        assert source.part_lengths_RK.tolist() == lengths
    assert len({source.content_hash for source in [*first, *second, *found]}) == 4


def test_a_mismatched_completion_is_cut_to_what_fits_and_keeps_at_least_one_token(tmp_path: Path) -> None:
    """Prompts of 7 and 8 tokens, completions of 10 and 2: 7 + 2 and 8 + 2 of at most 10 tokens."""
    sources = load(tmp_path, {**ROW, "completion": "long text"}, {**ROW, "prompt": "10-3?", "completion": "7"}).sources
    (rows,) = mismatch_rows(sources, max_length=10)
    assert rows[1].chosen.ids_T.tolist() == sources[0][0].chosen.ids_T[:2].tolist()
    assert rows.part_lengths_RK.tolist() == [[7, 2], [8, 2]]
    (rows,) = mismatch_rows(sources, max_length=5)
    assert rows.part_lengths_RK[:, 1].tolist() == [1, 1]
    assert mismatch_rows(sources, max_length=5)[0].content_hash != mismatch_rows(sources)[0].content_hash
