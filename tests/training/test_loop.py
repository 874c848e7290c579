"""The loop around the steps: validation that is not a number, stopping, the log of a restart, torn best weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import StorageError, TerminatedError
from posttrain.training.loop import LoopFunctions, LoopSettings, TrainingLoop, space_snapshots
from tests.training.tiny import ListSink, make_context, make_model, make_samples, make_step, make_updater

SAMPLES = make_samples((6, 4, 9))


def make_loop(
    folder: Path,
    validations: Iterator[float] | None = None,
    *,
    sink: ListSink | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    num_steps: int = 3,
    **settings: Any,
) -> TrainingLoop:
    by = settings.get("best_by", "validation/loss")
    validate = (lambda: {by: next(validations)}) if validations is not None else None
    return TrainingLoop(
        LoopSettings(num_steps, 1, 100, 1, keep_best=validations is not None, **settings),
        LoopFunctions(lambda step: make_step([SAMPLES[step % 3]]), lambda step: 0.01, lambda step: step / 3, validate),
        make_updater(make_model()),
        make_context(folder, sink, should_stop=should_stop),
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_is_never_the_best(tmp_path: Path, bad: float) -> None:
    loop = make_loop(tmp_path, iter([bad, 2.0, bad, 3.0]))
    state = loop.run()
    assert state.best_step == 1 and state.best_value == 2.0
    one = make_loop(tmp_path / "one", num_steps=1)
    one.run()
    ours, theirs = loop.final_weights(), one.final_weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_when_no_validation_loss_is_finite_the_last_weights_are_kept_and_nothing_breaks(tmp_path: Path) -> None:
    nan = float("nan")
    loop, plain = make_loop(tmp_path / "nan", iter([nan] * 4)), make_loop(tmp_path / "plain")
    state = loop.run()
    plain.run()
    assert state.best_value is None
    ours, theirs = loop.final_weights(), plain.final_weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_of_equal_validation_losses_the_earliest_is_kept(tmp_path: Path) -> None:
    assert make_loop(tmp_path, iter([3.0, 1.0, 1.0, 1.0])).run().best_step == 1


def test_by_a_metric_the_highest_is_kept_and_of_equals_the_earliest(tmp_path: Path) -> None:
    by = {"best_by": "development/facts", "is_higher_better": True}
    loop = make_loop(tmp_path / "a", iter([0.1, 0.6, 0.6, 0.2]), **by)
    state = loop.run()
    assert (state.best_step, state.best_value) == (1, 0.6)
    one = make_loop(tmp_path / "one", num_steps=1)
    one.run()
    assert all(torch.equal(loop.final_weights()[name], tensor) for name, tensor in one.final_weights().items())
    assert loop.best.load(1).state == {"development/facts": 0.6}
    assert make_loop(tmp_path / "b", iter([0.0, 0.0, 0.0, 0.0]), **by).run().best_step == 0
    assert make_loop(tmp_path / "c", iter([float("nan"), 0.1, float("nan"), 0.3]), **by).run().best_step == 3


def test_snapshots_lie_evenly_between_the_first_weights_and_the_last() -> None:
    assert space_snapshots(100, 3) == (25, 50, 75)
    assert space_snapshots(7, 2) == (2, 5)  # 2.33 and 4.67
    assert space_snapshots(3, 8) == (1, 2) and space_snapshots(1, 4) == space_snapshots(0, 4) == ()
    assert space_snapshots(50, 0) == ()
    for num_steps in range(30):
        for count in range(12):
            steps = space_snapshots(num_steps, count)
            assert len(steps) == min(count, max(0, num_steps - 1)), (num_steps, count)


def test_snapshots_are_the_weights_after_their_steps(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "all", snapshot_steps=(1, 2))
    loop.run()
    assert loop.snapshots.list_whole() == [1, 2]
    for step in (1, 2):
        part = make_loop(tmp_path / f"{step}", num_steps=step)
        part.run()
        found = loop.snapshots.load(step).tensors
        assert found.keys() == part.final_weights().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in part.final_weights().items())


def test_a_start_with_other_snapshots_keeps_none_that_are_not_asked_for(tmp_path: Path) -> None:
    answers = iter([False, True])
    with pytest.raises(TerminatedError):
        make_loop(tmp_path, snapshot_steps=(1, 2), should_stop=lambda: next(answers)).run()
    loop = make_loop(tmp_path, snapshot_steps=(2,))
    loop.run()
    assert loop.snapshots.list_whole() == [2]
    plain = make_loop(tmp_path)
    plain.run()
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_being_asked_to_stop_at_the_last_step_is_finishing(tmp_path: Path) -> None:
    answers = iter([False, False, True])
    assert make_loop(tmp_path, should_stop=lambda: next(answers)).run().step == 3


def test_being_asked_to_stop_saves_and_says_where_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(TerminatedError, match="after step 1 of 3; saved") as caught:
        make_loop(tmp_path, should_stop=lambda: True).run()
    assert caught.value.exit_code == 143 and "same command" in caught.value.cure
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_lines_logged_after_the_last_checkpoint_are_taken_back_when_the_steps_are_taken_again(tmp_path: Path) -> None:
    sink = ListSink()
    with pytest.raises(TerminatedError):
        make_loop(tmp_path, sink=sink, should_stop=lambda: True).run()
    sink.log(2, {"loss": 99.0})  # logged by a process that was killed before it saved
    make_loop(tmp_path, sink=sink).run()
    assert [line["step"] for line in sink.lines] == [1, 2, 3]
    assert sink.lines[1]["loss"] != 99.0


def test_a_log_without_a_checkpoint_is_begun_again(tmp_path: Path) -> None:
    sink = ListSink()
    sink.log(1, {"loss": 99.0})
    make_loop(tmp_path, sink=sink).run()
    assert [line["step"] for line in sink.lines] == [1, 2, 3]


def test_torn_best_weights_stop_the_stage_rather_than_publish_others(tmp_path: Path) -> None:
    make_loop(tmp_path, iter([3.0, 1.0, 2.0, 2.0])).run()
    (tmp_path / "best" / "step-00000001" / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(StorageError, match="step 1 cannot be used"):
        make_loop(tmp_path, iter([])).run()
