"""Where metrics go: the run's own JSONL file always, and other people's dashboards by extra.

The JSONL file is the record that reports read and that a resumed run continues to the byte. The
others are shown the same numbers; what they keep is theirs. Each is imported only when it is asked
for, and a missing package is named with the command that installs it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.config import suggest
from posttrain.core.durable import fsync_folder, storage_errors
from posttrain.core.errors import RecipeError, StorageError
from posttrain.core.hashing import finite_or_none, hash_text
from posttrain.core.protocols import MetricsSink

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(frozen=True, slots=True)
class LoggedStage:
    """What a dashboard is told about the stage that logs: made by the pipeline, read by every sink below.

    `folder` is the stage's own folder, `plan_hash` makes the dashboard's run id the same when the stage
    is resumed, `config` is shown beside the curves.

    Example: run `demo`, stage `sft` is the W&B run `demo/sft` in the group `demo`.
    """

    run: str
    stage: str
    folder: Path
    plan_hash: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name under which a dashboard shows the stage."""
        return f"{self.run}/{self.stage}"

    @property
    def identifier(self) -> str:
        """A name that is the same for every start of the same stage of the same plan."""
        return hash_text(self.plan_hash, self.stage)[:16]


class JsonlSink:
    """Appends one JSON line a step; what a checkpoint counts is on the disk before it is counted.

    A line is in the file when `log` returns, so a killed process loses none. It is synced to the disk by
    `position()`, which a checkpoint calls: a sync at every line would cost more than a small model's step.

    A value that is not finite becomes null, so that every line is JSON. A checkpoint remembers
    `position()`; a resumed run goes back to it by `rewind` (or `keep_bytes`), and what was logged after
    that checkpoint is cut off and written again.

    Args:
        path: The file, made with its folder if it is not there.
        keep_bytes: How much of an existing file to keep: 0 starts over, None keeps all whole lines
            (half a line at the end, left by a crash, is cut off).

    Raises:
        StorageError: The file is shorter than `keep_bytes`, or the disk cannot be written.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                whole = _count_whole_lines(self._descriptor) if keep_bytes is None else keep_bytes
                self.bytes_written = 0
                self.rewind(whole)
                fsync_folder(path.parent)
            except BaseException:
                self.close()
                raise

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append `{"step": step, ...}`; a write that fails leaves the file as it was.

        Raises:
            StorageError: The disk is full or gone.
            ValueError: The sink is closed, or a metric is called `step`.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        if "step" in values:
            raise ValueError("'step' is the line's own key and cannot name a metric")
        line = {"step": int(step), **{key: finite_or_none(float(value)) for key, value in values.items()}}
        content = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
        with storage_errors(self.path):
            try:
                self._write(content)
            except OSError:
                os.ftruncate(self._descriptor, self.bytes_written)
                raise
        self.bytes_written += len(content)

    def position(self) -> int:
        """Return how many bytes of whole lines the file holds, once they are on the disk.

        Raises:
            StorageError: The disk is full or gone.
        """
        if self._descriptor is not None:
            with storage_errors(self.path):
                os.fsync(self._descriptor)
        return self.bytes_written

    def rewind(self, position: int) -> None:
        """Cut the file to a remembered position.

        Raises:
            StorageError: The file is shorter than that, or the disk cannot be written.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed")
        size = os.fstat(self._descriptor).st_size
        if position > size:
            raise StorageError(
                f"{size} bytes of metrics, fewer than the {position} that the checkpoint counted",
                expected="the metrics file that was written together with the checkpoint",
                cure="restore the file, or delete the stage's folder to run the stage again from its beginning",
                place=str(self.path),
            )
        with storage_errors(self.path):
            os.ftruncate(self._descriptor, position)
            os.fsync(self._descriptor)
        self.bytes_written = position

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, content: bytes) -> None:
        position = self.bytes_written
        while content and self._descriptor is not None:
            written = os.pwrite(self._descriptor, content, position)
            content, position = content[written:], position + written


def _count_whole_lines(descriptor: int) -> int:
    """Return the bytes of a file up to and including its last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


class FanOut:
    """Hands every step to several sinks, in order; put the JSONL file first, so that it is never behind."""

    def __init__(self, sinks: Sequence[MetricsSink]) -> None:
        self.sinks = tuple(sinks)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values in every sink."""
        for sink in self.sinks:
            sink.log(step, values)

    def position(self) -> int:
        """Return the position of the first sink: the JSONL file."""
        return self.sinks[0].position() if self.sinks else 0

    def rewind(self, position: int) -> None:
        """Take every sink back to a position of the first."""
        for sink in self.sinks:
            sink.rewind(position)

    def close(self) -> None:
        """Close every sink, also when closing one of them fails; the failure is raised afterwards."""
        with ExitStack() as stack:
            for sink in reversed(self.sinks):
                stack.callback(sink.close)


class _Dashboard:
    """What the sinks of other people's dashboards share: they hold no bytes that a checkpoint could count.

    A step that is taken again after a resume is logged again; each dashboard has its own way with twins.
    """

    def position(self) -> int:
        """Return 0: there is no file of ours."""
        return 0

    def rewind(self, position: int) -> None:
        """Do nothing: the steps that are taken again are logged again."""


class TensorBoardSink(_Dashboard):
    """Writes TensorBoard event files into `<stage folder>/tensorboard`.

    An event file begins with the step it starts at, and TensorBoard then hides that step and later ones
    in earlier files: a resumed run shows no twins.
    """

    def __init__(self, stage: LoggedStage) -> None:
        _load_package("tensorboard", "tensorboard")
        self._folder = stage.folder / "tensorboard"
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record each value as a scalar under its own key."""
        from torch.utils.tensorboard.writer import SummaryWriter

        with storage_errors(self._folder):
            if self._writer is None:
                self._writer = SummaryWriter(str(self._folder), purge_step=step)
            for key, value in values.items():
                self._writer.add_scalar(key, float(value), step)

    def rewind(self, position: int) -> None:
        """Begin another event file at the next step, which hides what was logged from there on."""
        self.close()

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbSink(_Dashboard):
    """Logs to a Weights & Biases run in project `posttrain`; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, stage: LoggedStage) -> None:
        wandb = _load_package("wandb", "wandb")
        self._run = wandb.init(
            project="posttrain",
            group=stage.run,
            name=stage.title,
            id=stage.identifier,
            resume="allow",
            dir=str(stage.folder),
            config=dict(stage.config),
            reinit="create_new",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values for one step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run, which waits for its upload."""
        self._run.finish()


class MlflowSink(_Dashboard):
    """Logs to an MLflow run in experiment `posttrain`, at the address that MLFLOW_TRACKING_URI names.

    MLflow allows fewer characters in a metric's name than we do; others become `_`. A value that is
    not finite is left out, because not every MLflow store takes one.
    """

    def __init__(self, stage: LoggedStage) -> None:
        mlflow = _load_package("mlflow", "mlflow")
        self._client = mlflow.MlflowClient()
        experiment = self._client.get_experiment_by_name("posttrain")
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment("posttrain")
        found = self._client.search_runs([experiment_id], f"tags.posttrain_id = '{stage.identifier}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
        else:
            tags = {"posttrain_id": stage.identifier, "mlflow.runName": stage.title}
            self._run_id = self._client.create_run(experiment_id, tags=tags).info.run_id
            for key, value in stage.config.items():
                self._client.log_param(self._run_id, _name_for_mlflow(key), str(value)[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record each finite value for one step."""
        for key, value in values.items():
            if math.isfinite(value):
                self._client.log_metric(self._run_id, _name_for_mlflow(key), float(value), step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run_id)


class TrackioSink(_Dashboard):
    """Logs to a Trackio run in project `posttrain`."""

    def __init__(self, stage: LoggedStage) -> None:
        trackio = _load_package("trackio", "trackio")
        self._run = trackio.init(
            project="posttrain", name=f"{stage.title}-{stage.identifier}", config=dict(stage.config), resume="allow"
        )
        self._trackio = trackio

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values for one step."""
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._trackio.finish()


SINKS: dict[str, Callable[[LoggedStage], MetricsSink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "mlflow": MlflowSink,
    "trackio": TrackioSink,
}
"""What a recipe's `loggers:` may name, beside the JSONL file that is always written."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise if a logger is unknown or its package is missing, before any work is done.

    Raises:
        RecipeError: With the did-you-mean or the install command.
    """
    for name in names:
        if name not in SINKS:
            raise RecipeError(
                f"unknown logger '{name}'",
                expected="one of " + ", ".join(SINKS),
                cure=suggest(name, SINKS),
                place="loggers",
            )
        _load_package(name, name)


def build_metrics_sink(path: Path, names: Sequence[str], stage: LoggedStage, keep_bytes: int | None = None) -> FanOut:
    """Return the stage's sinks: the JSONL file first (`sinks[0]`), then each logger that the recipe names.

    Raises:
        RecipeError: A logger is unknown or not installed.
        StorageError: The metrics file cannot be written or is shorter than `keep_bytes`.
    """
    check_loggers(names)
    sinks: list[MetricsSink] = [JsonlSink(path, keep_bytes)]
    try:
        sinks += [SINKS[name](stage) for name in names]
    except BaseException:
        FanOut(sinks).close()
        raise
    return FanOut(sinks)


def _load_package(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RecipeError(
            f"the logger '{extra}' needs the package '{package}', which cannot be imported ({error})",
            expected=f"the optional packages of the extra '{extra}'",
            cure=f"pip install 'posttrain[{extra}]', or take '{extra}' out of `loggers:`",
            place="loggers",
        ) from None


def _name_for_mlflow(key: str) -> str:
    return re.sub(r"[^\w\-./ ]", "_", key)[:250]
