"""Metrics reach the disk before `log` returns, a resume continues to the byte, and dashboards get the same numbers."""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import PosttrainError, RecipeError, StorageError
from posttrain.pipeline.loggers import (
    SINKS,
    FanOut,
    JsonlSink,
    LoggedStage,
    TensorBoardSink,
    build_metrics_sink,
    check_loggers,
)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_stage(folder: Path) -> LoggedStage:
    return LoggedStage(run="demo", stage="sft", folder=folder, plan_hash="ab" * 16, config={"learning_rate": 1e-3})


class Recorder:
    """A sink that remembers what it was told."""

    def __init__(self, fails_on_close: bool = False) -> None:
        self.calls: list[Any] = []
        self.fails_on_close = fails_on_close

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append((step, dict(values)))

    def position(self) -> int:
        return 41

    def rewind(self, position: int) -> None:
        self.calls.append(("rewind", position))

    def close(self) -> None:
        self.calls.append("close")
        if self.fails_on_close:
            raise OSError("gone")


def test_a_line_is_in_the_file_when_log_returns_and_on_the_disk_when_its_position_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    sink = JsonlSink(tmp_path / "stage" / "metrics.jsonl")
    synced.clear()
    sink.log(10, {"loss": 2.5, "rewards/margins": 1e-5})
    assert synced == []
    content = (tmp_path / "stage" / "metrics.jsonl").read_bytes()
    assert content == b'{"step": 10, "loss": 2.5, "rewards/margins": 1e-05}\n'
    assert sink.bytes_written == sink.position() == len(content)
    assert len(synced) == 1
    sink.close()
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        sink.log(11, {})


def test_a_value_that_is_not_finite_becomes_null_and_a_metric_called_step_is_refused(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "m.jsonl")
    sink.log(1, {"loss": float("nan"), "grad_norm": float("inf"), "\ud800": 1.0})
    assert read_lines(tmp_path / "m.jsonl") == [{"step": 1, "loss": None, "grad_norm": None, "\ud800": 1.0}]
    with pytest.raises(ValueError, match="step"):
        sink.log(2, {"step": 3.0})


def test_a_run_stopped_anywhere_and_resumed_from_its_checkpoint_writes_the_same_bytes(tmp_path: Path) -> None:
    """Checkpoints at steps 0, 4 and 8 of 12; the run dies after each step, some with half a line written."""

    def log_steps(sink: JsonlSink, first: int, last: int) -> dict[int, int]:
        remembered = {}
        for step in range(first, last + 1):
            sink.log(step, {"loss": 1 / step})
            if step % 4 == 0:
                remembered[step] = sink.position()
        return remembered

    whole = tmp_path / "whole.jsonl"
    log_steps(JsonlSink(whole), 1, 12)
    for stopped in range(1, 13):
        path = tmp_path / f"{stopped}.jsonl"
        remembered = {0: 0, **log_steps(JsonlSink(path), 1, stopped)}
        with path.open("ab") as file:
            file.write(b'{"step": 99, "lo'[: stopped % 7])
        saved = max(remembered)
        log_steps(JsonlSink(path, remembered[saved]), saved + 1, 12)
        assert path.read_bytes() == whole.read_bytes()
        again = JsonlSink(path)
        again.rewind(remembered[saved])
        log_steps(again, saved + 1, 12)
        assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("tail", [b"", b'{"step": 2, "loss"', b"x" * 200_000])
def test_without_a_checkpoint_whole_lines_are_kept_and_half_a_line_is_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + tail)
    sink = JsonlSink(path)
    sink.log(2, {"loss": 1.0})
    assert read_lines(path) == [{"step": 1}, {"step": 2, "loss": 1.0}]


def test_a_file_shorter_than_the_checkpoint_says_is_an_error_with_a_cure(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    with pytest.raises(StorageError, match="fewer than the 99"):
        JsonlSink(path, keep_bytes=99)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonlSink(tmp_path / "m.jsonl")
    sink.log(1, {"loss": 1.0})
    before = (tmp_path / "m.jsonl").read_bytes()
    real = os.pwrite

    def write_half(descriptor: int, content: bytes, position: int) -> int:
        if position > len(before):
            raise OSError(28, "No space left on device")
        return real(descriptor, content[:5], position)

    monkeypatch.setattr(os, "pwrite", write_half)
    with pytest.raises(StorageError, match="No space left"):
        sink.log(2, {"loss": 1.0})
    assert (tmp_path / "m.jsonl").read_bytes() == before
    monkeypatch.setattr(os, "pwrite", real)
    sink.log(2, {"loss": 0.5})
    assert [line["step"] for line in read_lines(tmp_path / "m.jsonl")] == [1, 2]


def test_fan_out_tells_every_sink_and_closes_all_even_when_one_fails() -> None:
    first, second, third = Recorder(), Recorder(fails_on_close=True), Recorder()
    sinks = FanOut([first, second, third])
    sinks.log(3, {"loss": 1.5})
    sinks.rewind(7)
    assert sinks.position() == 41
    with pytest.raises(OSError, match="gone"):
        sinks.close()
    for sink in (first, second, third):
        assert sink.calls == [(3, {"loss": 1.5}), ("rewind", 7), "close"]


@pytest.mark.parametrize("name", sorted(SINKS))
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(PosttrainError) as error:
        build_metrics_sink(path, [name], make_stage(tmp_path))
    assert f"pip install 'posttrain[{name}]'" in error.value.cure
    assert f"'{name}'" in error.value.found
    assert error.value.place == "loggers"
    assert not path.exists()


def test_an_unknown_logger_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError) as error:
        check_loggers(["tensorbord"])
    assert "did you mean 'tensorboard'?" in error.value.cure


def test_without_loggers_nothing_optional_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        assert name.split(".")[0] not in (*SINKS, "torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)
    sinks = build_metrics_sink(tmp_path / "m.jsonl", [], make_stage(tmp_path))
    sinks.log(1, {"loss": 1.0})
    sinks.close()
    assert read_lines(tmp_path / "m.jsonl") == [{"step": 1, "loss": 1.0}]


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra tensorboard is not installed"
    )
    for first, last, value in ((1, 6, 1.0), (4, 8, 2.0)):
        sink = TensorBoardSink(make_stage(tmp_path))
        for step in range(first, last + 1):
            sink.log(step, {"loss": value})
        sink.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        *((step, 1.0) for step in (1, 2, 3)),
        *((step, 2.0) for step in (4, 5, 6, 7, 8)),
    ]


def test_mlflow_gets_every_value_in_one_run_across_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    try:
        for steps in ((1, 2), (3, 4)):
            sink = SINKS["mlflow"](make_stage(tmp_path))
            for step in steps:
                sink.log(step, {"rewards/margins": step / 2, "odd<key>": float("nan")})
            sink.close()
        client = mlflow.MlflowClient()
        runs = client.search_runs([client.get_experiment_by_name("posttrain").experiment_id])
        assert len(runs) == 1
        assert runs[0].info.run_name == "demo/sft"
        assert runs[0].data.params == {"learning_rate": "0.001"}
        history = client.get_metric_history(runs[0].info.run_id, "rewards/margins")
        assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    finally:
        mlflow.set_tracking_uri(before)


def test_wandb_resumes_the_run_of_the_same_plan_and_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish")
    )
    fake = types.ModuleType("wandb")
    vars(fake)["init"] = lambda **arguments: (calls.append(arguments), run)[1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        sink = SINKS["wandb"](make_stage(tmp_path))
        sink.log(5, {"loss": 1.0})
        sink.close()
    assert calls[1:3] == [(5, {"loss": 1.0}), "finish"]
    assert calls[0] == calls[3]
    assert calls[0]["resume"] == "allow"
    assert calls[0]["name"] == "demo/sft"
    assert calls[0]["id"] != LoggedStage("demo", "rl", tmp_path, "ab" * 16).identifier


def test_trackio_gets_steps_and_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = types.ModuleType("trackio")
    vars(fake).update(
        init=lambda **arguments: calls.append(arguments["name"]),
        log=lambda values, step: calls.append((step, values)),
        finish=lambda: calls.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    sink = SINKS["trackio"](make_stage(tmp_path))
    sink.log(2, {"loss": 1.0})
    sink.close()
    assert calls == [f"demo/sft-{make_stage(tmp_path).identifier}", (2, {"loss": 1.0}), "finish"]
