"""Sampling's benchmark: the work that sides share, the arithmetic of its tables, and our own side's four modes."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import sampling_work
from benchmarks.alternate import Record
from benchmarks.machine import peak_memory_bytes, peak_memory_of_tree_bytes
from benchmarks.models import build_tokenizer, save_model
from benchmarks.own_sampling import MODES, OwnSide
from benchmarks.rows import write_rows
from benchmarks.sampling_side import measure_side
from benchmarks.sampling_speed import PARTS, SIDES, Commands, collect_peaks, describe_work
from benchmarks.sampling_tables import (
    check_same_prompts,
    compare_sampling,
    compute_bytes_per_row,
    compute_sampling_share,
    count_sampling_operations,
    format_memory,
    format_sampling,
)
from benchmarks.sampling_work import WORKS, Work, cut_waves, draw_lengths, join_prompts


def test_lengths_are_heavy_tailed_within_their_bounds_and_the_same_each_time() -> None:
    """P(length > x) = (16 / x)^1.1: half are below 16 x 2^(1/1.1) = 30, and 4.8 % reach 256."""
    lengths = draw_lengths(10_000, 256)
    assert lengths == draw_lengths(10_000, 256)
    assert min(lengths) == 17 and max(lengths) == 256
    assert sorted(lengths)[5_000] == pytest.approx(30, abs=1)
    assert sum(length == 256 for length in lengths) / 10_000 == pytest.approx(0.048, abs=0.006)
    assert set(draw_lengths(10, 4)) == {4}


def test_a_work_says_what_each_sample_draws() -> None:
    assert Work(2, 3, new_tokens=5).list_lengths() == [[5, 5, 5], [5, 5, 5]]
    mixed = Work(4, 2, new_tokens=64, is_mixed=True).list_lengths()
    assert [length for group in mixed for length in group] == draw_lengths(8, 64)
    assert {name.split("-")[0] for name in WORKS} == set(PARTS)


def test_waves_hold_whole_groups_and_no_more_rows_than_there_are() -> None:
    lengths = Work(5, 4).list_lengths()
    assert cut_waves(lengths, 8) == [range(2), range(2, 4), range(4, 5)]
    assert cut_waves(lengths, 1024) == [range(5)]
    assert cut_waves(lengths, 3) == [range(index, index + 1) for index in range(5)]


def test_long_prompts_are_several_end_to_end_and_differ_from_one_another() -> None:
    prompts = [[1, 2], [3, 4, 5], [6]]
    assert join_prompts(prompts, Work(4, 1)) == [[1, 2], [3, 4, 5], [6], [1, 2]]
    assert join_prompts(prompts, Work(2, 1, prompt_tokens=4)) == [[1, 2, 3, 4], [6, 1, 2, 3]]


def build_record(tokens_per_second: float, **changes: Any) -> Record:
    return {
        "model": "4m",
        "work": "main",
        "sequences": 64,
        "prompt_tokens": 500,
        "timed_tokens": 8192,
        "timed_seconds": 8192 / tokens_per_second,
        "tokens_per_second": tokens_per_second,
        "first_pass_tokens_per_second": tokens_per_second / 2,
        "first_token_seconds": 0.25,
        "load_seconds": 3.0,
        "peak_memory_bytes": 10**9,
        "product_gflops": 400.0,
        **changes,
    }


def test_operations_count_each_token_drawn_and_each_prompt_once_without_the_head() -> None:
    """2 x 4e6 x 8,192 = 65.536e9, and for prompts 2 x (4e6 - 4,096 x 256) x 500 = 2.951424e9."""
    record = build_record(4096.0)
    assert count_sampling_operations(record, 4_000_000) == pytest.approx(65.536e9 + 2.951424e9)
    assert compute_sampling_share(record, 4_000_000) == pytest.approx((65.536 + 2.951424) / 2 / 400)


def test_ratios_put_the_first_side_over_each_other_one_within_rounds() -> None:
    records = {
        "own": [build_record(600.0), build_record(300.0)],
        "vllm": [build_record(200.0, peak_memory_bytes=4 * 10**9), build_record(100.0, peak_memory_bytes=4 * 10**9)],
        "transformers": [build_record(100.0), build_record(50.0)],
    }
    comparison = compare_sampling(records, 4_000_000)
    assert list(comparison["ratios"]) == ["vllm", "transformers"]
    assert comparison["ratios"]["vllm"]["tokens_per_second"] == {"median": 3.0, "low": 3.0, "high": 3.0, "count": 2}
    assert comparison["ratios"]["vllm"]["peak_memory_bytes"]["median"] == 0.25
    assert "| own / transformers | 6.00 (6.00 to 6.00) | 1.00 (1.00 to 1.00) |" in format_sampling(comparison)
    alone = format_sampling(compare_sampling({"own": records["own"]}, 4_000_000))
    assert "ratio" not in alone and "| own | 450 (300 to 600) | 225 (150 to 300) | 0.25 (0.25 to 0.25) |" in alone


def test_sides_that_were_given_other_prompts_are_refused_but_fewer_tokens_are_said() -> None:
    own, other = build_record(1.0), build_record(1.0, timed_tokens=2048)
    check_same_prompts({"own": [own], "transformers": [other]})
    said = describe_work("main", {"own": [own], "transformers": [other]})
    assert "8 prompts (500 tokens) x 8 samples, 64 at once, 8,192 tokens (transformers 2,048)" in said
    with pytest.raises(ValueError, match="different work"):
        check_same_prompts({"own": [own], "transformers": [build_record(1.0, prompt_tokens=499)]})


def test_memory_is_shown_by_sequences_with_what_one_more_costs() -> None:
    assert compute_bytes_per_row([64, 8, 1024], [2e9, 1.5e9, 9.628e9]) == pytest.approx(8e6)
    results = {
        f"memory-{count}": {
            "comparison": {"sides": {"own": {"peak_memory_bytes": {"median": 1e9 + 2e6 * count}}}},
            "records": {"own": [{"sequences": count}]},
        }
        for count in (8, 64)
    }
    assert format_memory(collect_peaks(results)).splitlines()[2] == "| own | 1.02 | 1.13 | 2.00 |"


def test_commands_run_each_side_in_its_environment_and_transformers_for_fewer_tokens() -> None:
    arguments = Namespace(
        folder=Path("f"), device="cpu", vllm_python="other/python", vllm_eager=True, new_tokens=None,
        generate_tokens=None, without_transformers=False,
    )  # fmt: skip
    commands = Commands(arguments)
    assert commands.list_peers() == ["transformers", "vllm"]
    assert commands.list_peers(with_eager=True) == ["transformers", "vllm", "vllm-eager"]
    for side in SIDES:
        assert commands.build(side, "4m", "main")[0] == ("other/python" if "vllm" in side else sys.executable)
        assert "--new-tokens" not in commands.build(side, "4m", "main")
    assert commands.build("transformers", "135m", "main")[-2:] == ["--new-tokens", "32"]
    assert "--new-tokens" not in commands.build("transformers", "135m", "mixed")
    arguments.generate_tokens, arguments.new_tokens, arguments.vllm_python = 64, 16, None
    assert commands.build("transformers", "135m", "main")[-1] == "64"
    assert commands.build("own", "135m", "main")[-1] == "16"
    assert commands.list_peers(with_eager=True) == ["transformers"]


def test_the_memory_of_a_process_and_of_those_it_started_is_summed() -> None:
    alone = peak_memory_of_tree_bytes()
    assert alone == pytest.approx(peak_memory_bytes(torch.device("cpu")), rel=0.2)
    program = "x = bytearray(200_000_000); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        assert peak_memory_of_tree_bytes() >= alone + 200_000_000
    finally:
        child.communicate(b"\n")


@pytest.fixture(scope="module")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_DATA", str(folder / "absent"))
        write_rows(folder / "rows.jsonl")
        save_model("4m", build_tokenizer(folder / "rows.jsonl"), folder / "4m")
        patch.setattr(sys, "argv", ["sampling_work", "--folder", str(folder), "--model", "4m"])
        sampling_work.main()
    assert len(json.loads((folder / "prompts.json").read_text())) == sampling_work.NUM_PROMPTS
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_our_side_draws_all_that_is_asked_for_in_every_mode(
    mode: str, bench_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_mixed = mode != "separate"
    monkeypatch.setitem(WORKS, "main", Work(3, 2, new_tokens=24 if is_mixed else 3, rows=4, is_mixed=is_mixed))
    arguments = Namespace(folder=bench_folder, model="4m", work="main", mode=mode, device="cpu", new_tokens=None)
    record = measure_side("own", arguments, OwnSide(arguments).draw, {})
    assert record.sequences == 6
    assert record.timed_tokens == (sum(draw_lengths(6, 24)) if is_mixed else 18)
    assert record.timed_seconds > 0 and record.first_token_seconds > 0 and record.product_gflops > 0
    assert json.loads(record.to_line())["tokens_per_second"] == record.timed_tokens / record.timed_seconds
    with pytest.raises(RuntimeError, match="gave 5 tokens"):
        measure_side("own", arguments, lambda work, seed: 5, {})
