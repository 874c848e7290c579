"""The training loop: steps, logs, validation, checkpoints, a clean stop, a bitwise resume.

Everything that varies is a function of the step number (rows, learning rate, dropout masks), so a
resumed loop needs a step number, the optimizer's tensors and a few sums; the log file is rewound to
where it stood at the checkpoint.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from posttrain.core import metrics as keys
from posttrain.core.errors import RefusedError, TerminatedError
from posttrain.core.hashing import finite_or_none
from posttrain.core.protocols import RunContext
from posttrain.core.run_folder import StageFolder
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks, gather_tensors, release_gathered
from posttrain.training.step import StepBatch, StepReport, Updater


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long to train and how often to do the rest; every count is in optimizer steps.

    `keep_best` keeps the best weights instead of the last ones: those with the lowest value of the figure `best_by`
    among what validation gives, or with the highest where `is_higher_better`; of equals the first. `snapshot_steps`
    are those after which the weights are kept beside the checkpoints, whatever becomes of them. `hits_key` is what the
    share of hits among what is trained on is called.
    """

    num_steps: int
    validate_every_steps: int | None
    checkpoint_every_steps: int
    log_every_steps: int
    keep_best: bool = False
    best_by: str = keys.VALIDATION_LOSS
    is_higher_better: bool = False
    snapshot_steps: tuple[int, ...] = ()
    hits_key: str = keys.ACCURACY


@dataclass(frozen=True, slots=True)
class LoopFunctions:
    """What a stage does at a step: its rows, its learning rate, its validation, and further figures to be logged.

    `figures` gives those since it was last asked; `keep_figures` what it has summed up since then, as JSON can hold it,
    and `restore_figures` takes that back, so that a line that a stop lies in says what it would have said.
    """

    batch_at: Callable[[int], StepBatch]
    learning_rate_at: Callable[[int], float]
    epoch_at: Callable[[int], float]
    validate: Callable[[], dict[str, float]] | None
    figures: Callable[[], dict[str, float]] | None = None
    keep_figures: Callable[[], dict[str, str]] | None = None
    restore_figures: Callable[[dict[str, str]], None] | None = None


@dataclass(slots=True)
class LoopState:
    """What a resume needs beside the optimizer's tensors; all of it goes into the checkpoint."""

    step: int = 0
    num_tokens: int = 0
    num_trained: int = 0
    window_loss: float = 0.0
    window_hits: float = 0.0
    window_trained: int = 0
    metrics_position: int = 0
    best_step: int | None = None
    best_value: float | None = None
    window_figures: dict[str, str] = field(default_factory=dict)


class StageAlarm(Protocol):
    """Looks at a stage's steps, and may stop it: an audit, or a fall of log-probs."""

    @property
    def should_stop(self) -> bool:
        """Whether the stage must not go on."""

    def refuse(self) -> RefusedError:
        """Return the error that ends the stage; asked where `should_stop` holds."""


class TrainingLoop:
    """Runs an `Updater` from its newest checkpoint to the last step.

    Args:
        settings: Lengths and intervals.
        functions: Rows, learning rate and validation by step.
        updater: Takes the steps.
        context: Folder, sinks, stop flag, callbacks.
        alarm: What may stop the stage from inside; None: nothing does.
    """

    # many parameters: how long, what at a step, by whom, where, and what stops it
    def __init__(
        self,
        settings: LoopSettings,
        functions: LoopFunctions,
        updater: Updater,
        context: RunContext,
        alarm: StageAlarm | None = None,
    ) -> None:
        self.alarm = alarm
        self.settings = settings
        self.functions = functions
        self.updater = updater
        self.context = context
        self.ranks: Ranks = updater.ranks
        self.checkpoints = CheckpointStore(context.folder / "checkpoints")
        # One more than `checkpoints` keeps, so that the best of the oldest checkpoint is still there.
        self.best = CheckpointStore(context.folder / "best", keep=3)
        snapshots = StageFolder(context.folder).snapshots
        self.snapshots = CheckpointStore(snapshots, keep=len(settings.snapshot_steps))
        self.state = LoopState()

    def run(self) -> LoopState:
        """Train to the end and return the final state; the optimizer then holds the weights to keep.

        Raises:
            TerminatedError: Asked to stop; a checkpoint of the last step was saved.
            RefusedError: Stopped by the alarm; a checkpoint of the last step was saved.
            TrainingError: A step was not finite.
            StorageError: A write failed; earlier checkpoints are untouched.
        """
        try:
            self._train()
        except TerminatedError:
            if not self._is_alarmed():
                raise
        if self.alarm is not None and self.alarm.should_stop:
            raise self.alarm.refuse()
        return self.state

    def _train(self) -> None:
        """Take the steps from the newest checkpoint on."""
        self._resume()
        if self.ranks.is_writer:  # those of steps that are yet to be taken are taken again
            self.snapshots.keep_only([step for step in self.settings.snapshot_steps if step <= self.state.step])
        progress = self.context.progress
        if self.ranks.is_writer:
            progress.start("training", self.settings.num_steps)
            progress.advance(self.state.step)
        if self.state.step == 0:
            self._validate()
        while self.state.step < self.settings.num_steps:
            began = time.perf_counter()
            step = self.state.step
            learning_rate = self.functions.learning_rate_at(step)
            report = self.updater.update(
                self.functions.batch_at(step), learning_rate, self.context.seed, "dropout", step
            )
            self._count(report)
            self._record(report, learning_rate, time.perf_counter() - began)
            if self.state.step in self.settings.snapshot_steps:
                self._store(self.snapshots, {})
            is_last = self.state.step == self.settings.num_steps
            every = self.settings.validate_every_steps
            if is_last or (every and self.state.step % every == 0):
                self._validate()
            should_stop = self.ranks.agree(self.context.should_stop() or self._is_alarmed())
            if is_last or should_stop or self.state.step % self.settings.checkpoint_every_steps == 0:
                self._save()
            if should_stop and not is_last:
                raise TerminatedError(
                    f"stopped as asked after step {self.state.step} of {self.settings.num_steps}; saved",
                    cure="start the same command again: it goes on from there",
                )
        if self.ranks.is_writer:
            progress.finish()
        if self.settings.keep_best:
            self._load_best()

    def _is_alarmed(self) -> bool:
        return self.alarm is not None and self.alarm.should_stop

    def _resume(self) -> None:
        # One rank after the other: the first sets torn checkpoints aside while nobody reads them.
        checkpoint = self.ranks.first(self.checkpoints.load_newest)
        if checkpoint is None:
            self.context.metrics.rewind(0)
            return
        for note in checkpoint.set_aside:
            self.context.progress.note(f"a torn checkpoint was set aside: {note}")
        if checkpoint.step < 0:
            self.context.metrics.rewind(0)
            return
        for note in checkpoint.warnings:
            self.context.progress.note(f"this machine differs from the one that saved the checkpoint: {note}")
        self.updater.optimizer.load_state_tensors(checkpoint.tensors)
        self.state = LoopState(**checkpoint.state)
        if self.functions.restore_figures is not None:
            self.functions.restore_figures(self.state.window_figures)
        self.context.metrics.rewind(self.state.metrics_position)
        self.context.progress.note(f"resumed after step {self.state.step}")

    def _count(self, report: StepReport) -> None:
        state = self.state
        state.step += 1
        state.num_tokens += report.num_tokens
        state.num_trained += report.num_trained
        state.window_loss += report.loss * report.num_trained
        state.window_hits += report.accuracy * report.num_trained
        state.window_trained += report.num_trained

    def _record(self, report: StepReport, learning_rate: float, seconds: float) -> None:
        state = self.state
        speed = report.num_tokens / seconds
        if self.ranks.is_writer:
            self.context.progress.advance(1, loss=report.loss, tokens_per_second=speed)
        is_due = state.step % self.settings.log_every_steps == 0 or state.step in (1, self.settings.num_steps)
        # On every rank, since figures may be sums over all of them.
        figures = self.functions.figures() if is_due and self.functions.figures is not None else {}
        if is_due and self.ranks.is_writer:
            trained = max(1, state.window_trained)
            self.context.metrics.log(
                state.step,
                {
                    keys.LOSS: state.window_loss / trained,
                    self.settings.hits_key: state.window_hits / trained,
                    keys.GRAD_NORM: report.grad_norm,
                    keys.LEARNING_RATE: learning_rate,
                    keys.NUM_TOKENS: state.num_tokens,
                    keys.NUM_TRAINED_TOKENS: state.num_trained,
                    keys.EPOCH: self.functions.epoch_at(state.step),
                    keys.TOKENS_PER_SECOND: speed,
                    keys.STEP_SECONDS: seconds,
                    keys.PEAK_MEMORY: measure_peak_memory(self.updater.device),
                }
                | figures,
            )
        if is_due:
            state.window_loss = state.window_hits = 0.0
            state.window_trained = 0
        if self.context.callbacks and self.ranks.is_writer:
            shown = {keys.LOSS: report.loss, keys.GRAD_NORM: report.grad_norm, keys.LEARNING_RATE: learning_rate}
            for callback in self.context.callbacks:
                callback.on_step(state.step, shown, self.updater.policy.model)

    def _validate(self) -> None:
        if self.functions.validate is None:
            return
        with self.updater.optimizer.averaged_weights():  # what is measured is what would be kept
            figures = self.functions.validate()
        release_gathered(self.updater.policy)
        value = figures[self.settings.best_by]
        state = self.state
        if self.ranks.is_writer:
            self.context.metrics.log(state.step, figures)
        if self._is_better(value):
            state.best_step, state.best_value = state.step, finite_or_none(value)
            if self.settings.keep_best:
                self._store(self.best, {self.settings.best_by: state.best_value})

    def _is_better(self, value: float) -> bool:
        best = self.state.best_value
        return best is None or (value > best if self.settings.is_higher_better else value < best)

    def _store(self, store: CheckpointStore, figures: dict[str, float | None]) -> None:
        """Keep the weights as they are after this step."""
        tensors = gather_tensors(self._weights(), self.ranks)
        if self.ranks.is_writer:
            store.save(self.state.step, tensors, figures)
        self.ranks.wait()

    def _save(self) -> None:
        figures = self.functions.keep_figures() if self.functions.keep_figures is not None else {}
        state = replace(self.state, metrics_position=self.context.metrics.position(), window_figures=figures)
        tensors = gather_tensors(self.updater.optimizer.state_tensors(), self.ranks)
        if self.ranks.is_writer:
            folder = self.checkpoints.save(state.step, tensors, asdict(state))
            for callback in self.context.callbacks:
                callback.on_save(state.step, Path(folder))
        self.ranks.wait()

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that the stage would keep now: the moving average where there is one."""
        optimizer = self.updater.optimizer
        return optimizer.averages() or optimizer.masters()

    def final_weights(self) -> dict[str, torch.Tensor]:
        """Return whole fp32 CPU tensors of the trained parameters by name (on the writing rank)."""
        return gather_tensors(self._best_weights or self._weights(), self.ranks)

    _best_weights: dict[str, torch.Tensor] | None = None

    def _load_best(self) -> None:
        if self.state.best_step is not None:
            self._best_weights = self.best.load(self.state.best_step).tensors


def space_snapshots(num_steps: int, count: int) -> tuple[int, ...]:
    """Return `count` evenly spaced steps between the first weights and the last, or all of them where there are fewer.

    Step i of n lies at i * num_steps / (n + 1), rounded; the start is the parent's policy and the end the stage's own.

    Example: three snapshots of 100 steps are taken after steps 25, 50 and 75.
    """
    steps = {(2 * number * num_steps + count + 1) // (2 * (count + 1)) for number in range(1, count + 1)}
    return tuple(sorted(step for step in steps if 0 < step < num_steps))


def measure_peak_memory(device: str) -> int:
    """Return the peak memory so far in bytes: of the device, or resident memory of the process."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
