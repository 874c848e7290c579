"""A pair's time with its share of the reference pass, ratios to peers, and the check that sides did the same work."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.alternate import Record
from benchmarks.dpo_work import DpoRecord, check_same_work, compare_sides, format_comparison, make_pairs
from benchmarks.own_dpo import write_recipe
from benchmarks.rows import write_rows
from posttrain.pipeline.recipe import read_recipe


def build_record(seconds: float, *, reference: float = 2.0, memory: int = 10**9, tokens: float = 900.0) -> Record:
    record = DpoRecord(
        side="a", model="4m", setting="b", steps=5, pairs=8, trained_tokens=tokens, reference_seconds=reference,
        timed_seconds=seconds, first_step_seconds=3.0, first_loss=0.6931, final_loss=0.69, peak_memory_bytes=memory,
        product_gflops=400.0, machine={}, versions={},
    )  # fmt: skip
    found: Record = json.loads(record.to_line())
    return found


def test_a_pairs_time_is_its_share_of_training_and_of_the_reference_pass() -> None:
    """4 timed steps of 1 s, 2 s of reference over 5 steps: 1.4 s for 8 pairs."""
    assert build_record(4.0)["pairs_per_second"] == pytest.approx(8 / 1.4)


def test_ratios_put_our_rate_over_theirs_and_our_memory_over_theirs() -> None:
    records = {
        "posttrain shared": [build_record(4.0, reference=0.0)],
        "posttrain apart": [build_record(6.0, reference=0.0)],
        "trl online": [build_record(24.0, reference=0.0, memory=4 * 10**9)],
    }
    comparison = compare_sides(records)
    assert comparison["ratios"]["trl online"]["pairs_per_second"]["median"] == pytest.approx(6.0)
    assert comparison["ratios"]["trl online"]["peak_memory_bytes"]["median"] == pytest.approx(0.25)
    assert "1.50 (1.50 to 1.50) times faster |" in format_comparison(comparison)


def test_sides_that_trained_on_other_tokens_or_from_another_start_are_refused() -> None:
    check_same_work({"a": [build_record(1.0)], "b": [build_record(1.0, tokens=905.0)]})
    with pytest.raises(ValueError, match="different work"):
        check_same_work({"a": [build_record(1.0)], "b": [build_record(1.0, tokens=950.0)]})
    with pytest.raises(ValueError, match="ln 2"):
        check_same_work({"a": [build_record(1.0) | {"first_loss": 0.8}]})


@pytest.mark.parametrize(("setting", "share"), [("shared", "auto"), ("apart", "off")])
def test_our_sides_recipe_can_be_read_and_says_its_setting(setting: str, share: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    path = write_recipe(argparse.Namespace(folder=tmp_path, model="4m", steps=3, setting=setting))
    config = read_recipe(path).stages[0].config
    assert config is not None and config.model_dump()["share_prompts"] == share
    pairs = make_pairs(tmp_path, "4m", 3)
    assert len(pairs) == len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 24
    assert pairs[0]["rejected"] == pairs[1]["chosen"] != pairs[0]["chosen"]
