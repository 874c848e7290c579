"""What a GRPO step needs, ratios to peers, the check that sides drew alike, and what our side's recipe says."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.alternate import Record
from benchmarks.grpo_work import (
    check_same_work,
    compare_sides,
    compute_reward,
    count_operations,
    format_comparison,
    reward_completions,
)
from benchmarks.own_grpo import write_recipe
from benchmarks.rows import write_rows

PARAMETERS = 4_000_000


def build_record(step_seconds: float, *, memory: int = 10**9, tokens: float = 8000.0) -> Record:
    return {
        "model": "4m",
        "prompt_tokens": 600.0,
        "completion_tokens": tokens,
        "step_seconds": step_seconds,
        "tokens_per_second": tokens / step_seconds,
        "peak_memory_bytes": memory,
        "product_gflops": 400.0,
    }


def test_a_step_draws_and_trains_and_needs_the_head_for_completions_alone() -> None:
    """8 operations a weight: (4e6 - 1,048,576) x 8,600 tokens of the body, 1,048,576 x 8,000 of the head."""
    expected = 8 * ((4_000_000 - 1_048_576) * 8600 + 1_048_576 * 8000)
    assert count_operations(build_record(1.0), PARAMETERS) == expected


def test_ratios_put_a_peers_seconds_over_ours_and_our_memory_over_its() -> None:
    records = {
        "posttrain": [build_record(1.0), build_record(2.0)],
        "trl autocast": [build_record(6.0, memory=2 * 10**9), build_record(10.0, memory=4 * 10**9)],
    }
    comparison = compare_sides(records, PARAMETERS)
    ratios = comparison["ratios"]["trl autocast"]
    assert ratios["step_seconds"]["median"] == pytest.approx(5.5)
    assert ratios["peak_memory_bytes"]["median"] == pytest.approx(0.375)
    assert "5.50 (5.00 to 6.00) times faster; asked 5" in format_comparison(comparison)


def test_sides_that_drew_different_numbers_of_tokens_are_refused() -> None:
    check_same_work({"posttrain": [build_record(1.0)], "trl": [build_record(1.0, tokens=8100.0)]})
    with pytest.raises(ValueError, match="different work"):
        check_same_work({"posttrain": [build_record(1.0)], "trl": [build_record(1.0, tokens=8200.0)]})


def test_a_completion_is_rewarded_alike_as_text_and_as_a_message() -> None:
    """By hand: 'ab' is 97 + 98 = 195 = 27 x 7 + 6."""
    assert compute_reward("ab") == 6 / 7
    assert reward_completions(["ab", [{"role": "assistant", "content": "ab"}]], answer=["", ""]) == [6 / 7, 6 / 7]


def test_our_side_runs_a_recipe_that_the_pipeline_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.pipeline.recipe import read_recipe
    from posttrain.stages.grpo import GrpoConfig

    monkeypatch.setenv("POSTTRAIN_DATA", str(tmp_path / "absent"))
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "4m").mkdir()
    arguments = argparse.Namespace(folder=tmp_path, model="4m", steps=3, setting="shared")
    (stage,) = read_recipe(write_recipe(arguments)).stages
    config = stage.config
    assert isinstance(config, GrpoConfig)
    assert (config.num_updates, config.method.kl, config.sampling.num_samples) == (3, "none", 8)
