"""What a GRPO step needs, ratios to peers, the check that sides drew alike, and what our side's recipe says."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.alternate import Record
from benchmarks.grpo_cases import CASES, reward_half_of_prompts, write_long_rows
from benchmarks.grpo_gains import format_case
from benchmarks.grpo_work import (
    check_same_work,
    compare_sides,
    compute_reward,
    count_operations,
    format_comparison,
    reward_completions,
)
from benchmarks.own_grpo import write_recipe
from benchmarks.rows import read_rows, write_rows

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


def test_half_of_the_prompts_have_groups_whose_rewards_are_equal() -> None:
    """By hand: 'a' is 97 = 13 x 7 + 6, over a half; 'b' is 98 = 14 x 7, below; 'ab' is 6 / 7 and 'b' 0."""
    assert reward_half_of_prompts(["ab", "b"], prompts=["a", "a"]) == [1.0, 1.0]
    assert reward_half_of_prompts(["ab", "b"], prompts=["b", "b"]) == [6 / 7, 0.0]


def test_gains_are_ratios_of_rounds_and_points_are_differences() -> None:
    """By hand: 1 s a step beside 2; 20 points gained beside 5, in 1 and 2 minutes: 20 and 2.5 points a minute."""

    def build_run(step_seconds: float, after: float) -> Record:
        figures = {"waves": 1.0, "informative_groups": 4.0, "score_before": 0.1, "score_after": after}
        return {**build_record(step_seconds), "steps": 60, "figures": figures}

    table = format_case(CASES["waves"], {"on": [build_run(1.0, 0.3)], "off": [build_run(2.0, 0.15)]})
    last = table.splitlines()[-1]
    assert last.startswith("| on / off | 0.50 (0.50 to 0.50) |")
    assert "difference 15.00 (15.00 to 15.00)" in last and "difference 17.50" in last


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTTRAIN_DATA", str(tmp_path / "absent"))
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "4m").mkdir()
    (tmp_path / "policy").mkdir()
    return tmp_path


def test_long_prompts_are_several_questions_end_to_end(folder: Path) -> None:
    write_long_rows(folder, 3)
    rows = read_rows(folder / "long_rows.jsonl", 3)
    assert len({row["prompt"][0]["content"] for row in rows}) == 3
    assert all(2700 <= len(row["prompt"][0]["content"]) < 4000 for row in rows)


@pytest.mark.parametrize("case", CASES)
def test_the_sides_of_a_case_are_recipes_that_differ_in_its_key(case: str, folder: Path) -> None:
    from posttrain.pipeline.recipe import read_recipe

    found = []
    for setting in ("on", "off"):
        arguments = argparse.Namespace(folder=folder, model="4m", steps=2, setting=setting, case=case, seed=0)
        (stage,) = read_recipe(write_recipe(arguments)).stages
        found.append(stage.config.model_dump())
    differing = {key for key in found[0] if found[0][key] != found[1][key]} - {"data"}
    assert differing == {*CASES[case].used, *CASES[case].unused}


def test_our_side_runs_a_recipe_that_the_pipeline_takes(folder: Path) -> None:
    from posttrain.pipeline.recipe import read_recipe
    from posttrain.stages.grpo import GrpoConfig

    arguments = argparse.Namespace(folder=folder, model="4m", steps=3, setting="on", case=None, seed=0)
    (stage,) = read_recipe(write_recipe(arguments)).stages
    config = stage.config
    assert isinstance(config, GrpoConfig)
    assert (config.num_updates, config.method.kl, config.sampling.num_samples) == (3, "none", 8)
