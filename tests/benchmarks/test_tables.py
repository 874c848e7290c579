"""Shares of the machine's rate, the check that both sides did the same work, and the tables."""

from __future__ import annotations

import pytest

from benchmarks.alternate import Record
from benchmarks.tables import (
    check_same_work,
    compare_sides,
    compute_share,
    count_operations,
    format_comparison,
    format_spread,
    format_table,
)

PARAMETERS = 4_000_000


def build_record(tokens_per_second: float, *, memory: int = 10**9, tokens: int = 1000) -> Record:
    return {
        "model": "4m",
        "tokens": tokens,
        "scored_tokens": tokens // 2,
        "timed_tokens": 800,
        "timed_seconds": 800 / tokens_per_second,
        "tokens_per_second": tokens_per_second,
        "peak_memory_bytes": memory,
        "first_step_seconds": 1.0,
        "product_gflops": 480.0,
        "final_loss": 7.0,
    }


def test_operations_count_the_head_only_where_it_scores() -> None:
    """6 x 4e6 x 800 in name; with a head of 4,096 x 256 used for half of the tokens 6 x 800 x (4e6 - 524,288)."""
    operations = count_operations(build_record(100.0), PARAMETERS)
    assert operations == {"nominal": 19.2e9, "needed": 6 * 800 * (4_000_000 - 524_288)}


def test_the_share_is_operations_per_second_over_the_rate_measured_in_the_same_process() -> None:
    """10,000 tokens/s x 6 x 4e6 = 240 GFLOP/s, half of 480."""
    assert compute_share(build_record(10_000.0), PARAMETERS, "nominal") == pytest.approx(0.5)
    assert compute_share(build_record(5_000.0), PARAMETERS, "nominal") == pytest.approx(0.25)


def test_ratios_put_our_speed_and_memory_over_the_peers() -> None:
    records = {
        "posttrain": [build_record(600.0, memory=1 * 10**9), build_record(800.0, memory=1 * 10**9)],
        "trl": [build_record(100.0, memory=2 * 10**9), build_record(100.0, memory=4 * 10**9)],
    }
    ratios = compare_sides(records, PARAMETERS)["ratios"]
    assert ratios["tokens_per_second"]["median"] == pytest.approx(7.0)
    assert ratios["peak_memory_bytes"]["median"] == pytest.approx(0.375)


def test_no_ratio_is_made_up_where_the_peer_did_not_run() -> None:
    comparison = compare_sides({"posttrain": [build_record(600.0)]}, PARAMETERS)
    assert "ratios" not in comparison
    assert "ratio" not in format_comparison("4m", comparison)


def test_sides_that_trained_on_different_work_are_refused() -> None:
    ours, theirs = build_record(1.0, tokens=1000), build_record(1.0, tokens=1010)
    assert check_same_work({"posttrain": [ours], "trl": [theirs]}).median == 1005
    with pytest.raises(ValueError, match="different work"):
        check_same_work({"posttrain": [ours], "trl": [build_record(1.0, tokens=1030)]})


def test_tables_are_markdown_with_medians_and_ranges() -> None:
    spread = {"median": 6300.4, "low": 6000.0, "high": 6500.0, "count": 5}
    assert format_spread(spread) == "6,300 (6,000 to 6,500)"
    assert format_spread(spread, scale=1e-3, digits=1, unit=" k") == "6.3 k (6.0 to 6.5)"
    assert format_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
