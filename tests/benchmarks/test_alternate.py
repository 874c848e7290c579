"""The arithmetic behind the benchmark tables, and the runner that alternates the sides."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.alternate import (
    compute_growth_exponent,
    run_alternating,
    run_side,
    summarise,
    summarise_ratios,
)


def test_a_median_is_given_with_its_range_and_count() -> None:
    spread = summarise([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.low, spread.high, spread.count) == (2.5, 1.0, 10.0, 4)


def test_ratios_are_taken_within_rounds_so_that_a_slow_minute_cancels() -> None:
    # The machine halves its speed in the second round: medians of each side would give 60 / 15 = 4 too,
    # but only ratios within rounds show that the spread is nil.
    spread = summarise_ratios([80.0, 40.0], [20.0, 10.0])
    assert (spread.median, spread.low, spread.high) == (4.0, 4.0, 4.0)


def test_ratios_of_sides_with_different_numbers_of_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        summarise_ratios([1.0, 2.0], [1.0])


def test_the_growth_exponent_is_1_for_linear_and_2_for_quadratic_cost() -> None:
    assert compute_growth_exponent([1, 4, 16], [3, 12, 48]) == pytest.approx(1.0)
    assert compute_growth_exponent([1, 4, 16], [3, 48, 768]) == pytest.approx(2.0)
    # A fixed start-up cost makes the growth look better than linear: 10 + n at 1, 4, 16.
    assert compute_growth_exponent([1, 4, 16], [11, 14, 26]) < 0.5


def say(record: dict[str, object]) -> list[str]:
    return [sys.executable, "-c", f"print('noise'); print({json.dumps(record)!r})"]


def test_sides_run_in_turn_and_each_run_gives_the_json_on_its_last_line() -> None:
    order: list[str] = []

    def describe(record: dict[str, object]) -> str:
        order.append(str(record["name"]))
        return ""

    sides = {
        "a": lambda number: say({"name": f"a{number}"}),
        "b": lambda number: say({"name": f"b{number}"}),
    }
    records = run_alternating(sides, 2, describe)
    assert order == ["a0", "b0", "a1", "b1"]
    assert [record["name"] for record in records["b"]] == ["b0", "b1"]


def test_a_failed_run_stops_the_benchmark_with_what_it_wrote() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exit 3.*out of luck"):
        run_side([sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(RuntimeError, match="no json here"):
        run_side([sys.executable, "-c", "print('no json here')"])


@pytest.mark.parametrize("parent", ["sft_speed", "sampling_speed"])
def test_the_parent_imports_nothing_large_so_that_a_childs_peak_memory_is_its_own(parent: str) -> None:
    program = f"import json, sys, benchmarks.{parent}; print(json.dumps({{'found': sorted(sys.modules)}}))"
    assert {"torch", "numpy", "transformers"} & set(run_side([sys.executable, "-c", program])["found"]) == set()
