"""One, two and four ranks take the same step: loss to 1e-6, gradients and weights to 1e-5, full weights and LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.rank_jobs import (
    Arrays,
    fail_on_one_rank,
    fail_on_the_first_rank,
    run_measured_stage,
    run_ranks,
    run_stage,
    take_steps,
    talk,
)

several = pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.invariants)])


def assert_close(ours: Arrays, theirs: Arrays, tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys() and ours
    worst = {name: float(np.abs(ours[name] - theirs[name]).max()) for name in ours}
    assert max(worst.values()) < tolerance, max(worst, key=lambda name: worst[name])


def assert_same_steps(count: int, **arguments: Any) -> None:
    (alone,) = run_ranks(take_steps, 1, **arguments)
    shared = run_ranks(take_steps, count, **arguments)
    for one in shared:
        assert np.allclose(one["reports"], alone["reports"], atol=1e-6, rtol=1e-5)
        assert [r[0] for r in one["reports"]] == pytest.approx([r[0] for r in alone["reports"]], abs=1e-6)
        assert one["validation"] == pytest.approx(alone["validation"], abs=2e-6)
    assert_close(shared[0]["gradients"], alone["gradients"])
    assert_close(shared[0]["weights"], alone["weights"])
    assert all(other["weights"] == {} for other in shared[1:])


@several
def test_full_weights_take_the_same_steps(count: int) -> None:
    assert_same_steps(count)


@several
def test_tied_embeddings_take_the_same_steps_under_clipping(count: int) -> None:
    assert_same_steps(count, name="qwen3", max_grad_norm=0.3)


@several
def test_an_adapter_takes_the_same_steps(count: int) -> None:
    assert_same_steps(count, adapter={"rank": 4})


@pytest.mark.invariants
@several
@pytest.mark.parametrize("arguments", [{"name": "gemma2"}, {"name": "phi"}, {"name": "mamba"}, {"checkpointed": True}])
def test_other_architectures_and_checkpointing_take_the_same_steps(count: int, arguments: dict[str, Any]) -> None:
    changes = {"name": "llama"} | arguments
    assert_same_steps(count, **changes)


@several
def test_a_rank_without_rows_takes_part_and_changes_nothing(count: int) -> None:
    """Three rows in three micro-batches: with two ranks the second one's last is empty, with four a whole rank is."""
    assert_same_steps(count, lengths=(12, 9, 5), budget=12)
    assert_same_steps(count, lengths=(12,), budget=12, adapter={"rank": 2})


@several
def test_dropout_masks_do_not_depend_on_the_number_of_ranks(count: int) -> None:
    assert_same_steps(count, name="gpt2", resid_pdrop=0.3)


def test_bf16_over_two_ranks_is_as_near_to_fp32_as_bf16_on_one_is() -> None:
    (exact,) = run_ranks(take_steps, 1, num_steps=1)
    (alone,) = run_ranks(take_steps, 1, num_steps=1, dtype="bfloat16")
    shared = run_ranks(take_steps, 2, num_steps=1, dtype="bfloat16")[0]

    def distance(result: dict[str, Any]) -> float:
        a, b = (np.concatenate([x["gradients"][name].ravel() for name in exact["gradients"]]) for x in (result, exact))
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    assert 0 < distance(shared) < 1.5 * distance(alone) < 0.1


@pytest.mark.parametrize("changes", [{}, {"adapter": {"rank": 4}, "ema_decay": 0.8}], ids=["full weights", "LoRA"])
@pytest.mark.parametrize("ranks", [(2, 1), (1, 2)], ids=["two then one", "one then two"])
def test_a_checkpoint_of_some_ranks_is_taken_up_by_others(
    tmp_path: Path, changes: dict[str, Any], ranks: tuple[int, int]
) -> None:
    changes = {**changes, "epsilon": 1e-3, "validation": [{"source": "held.jsonl"}], "keep": "best_validation_loss"}
    (whole,) = run_ranks(run_stage, 1, folder=str(tmp_path / "whole"), **changes)
    run_ranks(run_stage, ranks[0], folder=str(tmp_path / "part"), stop_after=3, **changes)
    resumed = run_ranks(run_stage, ranks[1], folder=str(tmp_path / "part"), **changes)
    assert_close(resumed[0]["published"], whole["published"])
    after = [line for line in whole["lines"] if line["step"] > 3]
    assert len(resumed[0]["lines"]) == len(after) > 0
    for ours, theirs in zip(resumed[0]["lines"], after, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-4)
    assert all(other["published"] == {} and other["lines"] == [] for other in resumed[1:])


@several
def test_a_measured_average_is_not_what_is_trained_on_next(tmp_path: Path, count: int) -> None:
    """What a measurement gathers of the averages must not be left in the place of the weights."""
    changes = {"ema_decay": 0.9, "epsilon": 1e-3, "learning_rate": 0.05, "schedule": "constant", "num_snapshots": 2}
    changes |= {"validation": [{"source": "held.jsonl"}], "validate_every_steps": 1}
    (alone,) = run_ranks(run_stage, 1, folder=str(tmp_path / "alone"), **changes)
    shared, *others = run_ranks(run_stage, count, folder=str(tmp_path / "shared"), **changes)
    for ours, theirs in zip(shared["lines"], alone["lines"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-4)
    assert_close(shared["published"], alone["published"])
    assert list(shared["snapshots"]) == list(alone["snapshots"]) == [2, 4]
    for step, weights in alone["snapshots"].items():
        assert_close(shared["snapshots"][step], weights)
    assert all(other["published"] == {} for other in others)


@several
@pytest.mark.parametrize("changes", [{"ema_decay": 0.5}, {"adapter": {"rank": 4}}], ids=["full weights", "LoRA"])
def test_the_first_rank_measures_whole_weights_and_all_keep_the_same_best(
    tmp_path: Path, count: int, changes: dict[str, Any]
) -> None:
    changes = {**changes, "epsilon": 1e-3, "learning_rate": 0.05}
    (alone,) = run_ranks(run_measured_stage, 1, folder=str(tmp_path / "alone"), **changes)
    shared = run_ranks(run_measured_stage, count, folder=str(tmp_path / "shared"), **changes)
    scores = [
        [line["development/facts"] for line in r["lines"] if "development/facts" in line] for r in (alone, shared[0])
    ]
    assert len(set(scores[0])) == 7 and scores[1] == pytest.approx(scores[0], abs=1e-3)
    assert_close(shared[0]["published"], alone["published"])


def test_what_stops_a_measurement_stops_every_rank(tmp_path: Path) -> None:
    for result in run_ranks(run_measured_stage, 2, folder=str(tmp_path), fails=True):
        assert result == {"error": "no room for an answer"}


@several
def test_a_number_that_is_not_finite_on_one_rank_stops_all_and_changes_nothing(count: int) -> None:
    for found, is_unchanged in run_ranks(fail_on_one_rank, count):
        assert "not finite" in found and is_unchanged


@several
def test_ranks_sum_agree_broadcast_and_go_one_after_the_other(count: int) -> None:
    for rank, result in enumerate(run_ranks(talk, count)):
        assert result["sum"] == count * (count + 1) / 2
        assert result["agree"] == [True, False]
        assert result["object"] == {"from": 0}
        assert result["first"] == rank and result["is_writer"] == (rank == 0)


@several
def test_what_stops_the_first_rank_stops_every_rank_before_it_begins(count: int) -> None:
    text = "E-DATA at rows.jsonl: the rows are gone\n  cure: bring them back"
    for rank, (described, printed, has_begun) in enumerate(run_ranks(fail_on_the_first_rank, count)):
        assert described == printed == text
        assert has_begun == (rank == 0)
