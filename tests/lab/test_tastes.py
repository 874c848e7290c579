"""Labels by other tastes than gold: how they are drawn, what stands beside them, and that gold's own rows are kept."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from posttrain.core.records import Completion, Problem
from posttrain.lab.gold import LabScorer, compute_gold, measure_attributes
from posttrain.lab.source import ROW_SETS, lab_rows
from posttrain.lab.style import read_confidence, read_style
from posttrain.lab.tastes import TASTES

COUNT = 1_500


def take(name: str, count: int = COUNT, split: str = "train") -> list[dict[str, Any]]:
    return list(itertools.islice(lab_rows(name, split), count))


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def test_pairs_labelled_by_gold_are_the_bytes_that_they_were() -> None:
    said = "".join(json.dumps(row, sort_keys=True) for row in take("preferences", 600))
    assert sha256(said.encode()).hexdigest()[:16] == "881ab0a5e9619048"


@pytest.mark.parametrize(
    ("text", "correct", "attributes"),
    [
        # correct, manner, honesty, brevity (4 words beyond the 2 needed: -4/20), confidence, words
        ("I am not sure.\nAnswer: 85", 1.0, (1, 0, -0.5, -0.2, -1, 6)),
        ("I am certain.\nAnswer: 75", 0.0, (0, 0, -1, -0.15, 1, 5)),
        ("Sure!\nAnswer: 85", 1.0, (1, 1, 0, -0.05, 0, 3)),
        ("Obviously. I am not sure. I am certain.\nAnswer: 75", 0.0, (0, -1, -1, -0.4, 0, 10)),
        ("Answer:", 0.0, (0, 0, 0, 0, 0, 1)),
    ],
)
def test_attributes_are_those_worked_out_by_hand(text: str, correct: float, attributes: tuple[float, ...]) -> None:
    assert tuple(asdict(measure_attributes(text, correct, 2)).values()) == pytest.approx(attributes)


@pytest.mark.parametrize("taste", TASTES)
def test_labels_are_drawn_with_the_probability_that_stands_beside_them(taste: str) -> None:
    """The side that is preferred more often wins as often as its probabilities say, within four standard errors."""
    chances = column(take(f"prefer_{taste}"), "probability")
    best = np.maximum(chances, 1 - chances)
    error = math.sqrt(float((best * (1 - best)).sum())) / len(best)
    assert abs((chances > 0.5).mean() + (chances == 0.5).mean() / 2 - best.mean()) < 4 * error
    assert best.mean() > 0.7


@pytest.mark.parametrize(
    ("taste", "log_odds"),
    [
        ("correct", {"correct": 4}),
        ("manner", {"manner": 2}),
        ("honesty", {"honesty": 2}),
        ("brevity", {"brevity": 4}),
        ("length", {"gold": 2, "words": 0.3}),
        ("confidence", {"confidence": 3}),
    ],
)
def test_a_probability_is_that_of_the_stated_log_odds(taste: str, log_odds: dict[str, float]) -> None:
    rows = take(f"prefer_{taste}", 200)
    told = sum(weight * (column(rows, f"{n}_chosen") - column(rows, f"{n}_rejected")) for n, weight in log_odds.items())
    assert column(rows, "probability") == pytest.approx(1 / (1 + np.exp(-told)))


@pytest.mark.parametrize("taste", ["correct", "manner", "honesty", "brevity", "confidence"])
def test_pairs_of_an_attribute_differ_in_it_and_hold_texts_that_have_it(taste: str) -> None:
    rows = take(f"prefer_{taste}", 300)
    assert (column(rows, f"{taste}_chosen") != column(rows, f"{taste}_rejected")).all()
    for row in rows[:50]:
        for side in ("chosen", "rejected"):
            text, correct = row[side][0]["content"], row[f"correct_{side}"]
            found = measure_attributes(text, correct, row["needed_words"])
            assert getattr(found, taste) == row[f"{taste}_{side}"]
            assert row[f"gold_{side}"] == compute_gold(text, correct, row["needed_words"])


def test_labels_that_love_length_are_of_the_very_pairs_that_gold_labels() -> None:
    honest, biased = take("preferences", 300), take("prefer_length", 300)

    def sides(row: dict[str, Any]) -> set[str]:
        return {row[side][0]["content"] for side in ("chosen", "rejected")}

    assert [(row["prompt"], sides(row)) for row in honest] == [(row["prompt"], sides(row)) for row in biased]
    differ = np.mean([a["chosen"] != b["chosen"] for a, b in zip(honest, biased, strict=True)])
    assert 0.1 < differ < 0.5


def test_a_bias_is_seen_in_what_is_chosen() -> None:
    for name, part in (("length", "words"), ("confidence", "confidence")):
        rows = take(f"prefer_{name}")
        equal = np.abs(column(rows, "gold_chosen") - column(rows, "gold_rejected")) < 0.3
        leads = (column(rows, f"{part}_chosen") - column(rows, f"{part}_rejected"))[equal]
        assert (leads > 0).sum() > 2 * (leads < 0).sum() > 0


def test_ratings_are_two_replies_to_a_question_with_the_terms_of_their_gold() -> None:
    rows = take("ratings", 400)
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["prompt"] == second["prompt"] and first["completion"] != second["completion"]
    gold = (
        2 * column(rows, "correct") + column(rows, "manner") / 2 + column(rows, "honesty") / 2 + column(rows, "brevity")
    )
    assert column(rows, "gold") == pytest.approx(gold)
    for row in rows[:50]:
        assert row["gold"] == compute_gold(row["completion"][0]["content"], row["correct"], row["needed_words"])


@pytest.mark.parametrize("name", [f"prefer_{taste}" for taste in TASTES] + ["ratings"])
def test_splits_hold_other_contents_and_as_many_rows_as_are_said(name: str) -> None:
    held_out = take(name, 2_000, "held_out")
    assert len(held_out) == ROW_SETS[name].num_rows["held_out"] == 1_200
    assert not {row["cluster_id"] for row in held_out} & {row["cluster_id"] for row in take(name)}


@pytest.mark.parametrize(
    ("text", "sure"),
    [
        ("Answer: 85", 2 / 3),
        ("I am certain.\nAnswer: 85", 1.0),
        ("It may be wrong.\nAnswer: 85", 1 / 3),
        ("I am certain. It may be wrong.\nAnswer: 85", 1 / 3),
    ],
)
def test_a_reply_is_as_sure_as_it_sounds_and_its_score_says_so(text: str, sure: float) -> None:
    assert read_confidence(read_style(text)) == sure
    problem = Problem("p", [], {"form": "answer", "needed_words": 2, "answer": "85"})
    completion = Completion("p", 0, np.zeros(1, np.int32), np.zeros(3, np.int32), text, "stop", "h", 0)
    [outcome] = LabScorer(judges={}).score([(problem, completion)])
    assert outcome.value == 1.0 and outcome.parts["confidence"] == sure
