"""The members of an ensemble, trained one after the other in one stage, each as if it were alone.

A member has a folder of its own for checkpoints and a seed of its own for its head, the order of its rows and, where
asked for, its bootstrap sample. What one that is finished gave is written down, so that a stage that was stopped goes
on with the next one and the finished ones' lines stay in the stage's metrics. A single member works in the stage's own
folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.durable import read_json, write_json
from posttrain.core.errors import StorageError
from posttrain.core.run_folder import StageFolder
from posttrain.core.seeds import derive_seed
from posttrain.training.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from posttrain.core.protocols import MetricsSink, RunContext
    from posttrain.training.distributed import Ranks

_MASTER = "master/"


@dataclass(frozen=True, slots=True)
class FinishedMember:
    """What a trained member gave: raw outputs at all validation reads, in order, and where it left the metrics."""

    scores_RK: npt.NDArray[np.float64]
    num_tokens: int
    num_steps: int
    position: int = 0


class MemberContexts:
    """Gives each member its folder, seed and part of the metrics.

    Args:
        context: The stage's.
        count: Members.
        ranks: The processes that train; one of them writes.
    """

    def __init__(self, context: RunContext, count: int, ranks: Ranks) -> None:
        self.context = context
        self.count = count
        self.ranks = ranks
        self._finished: list[FinishedMember] = []

    @property
    def last_step(self) -> int:
        """Steps of all members that are finished."""
        return sum(member.num_steps for member in self._finished)

    def find_finished(self, number: int) -> FinishedMember | None:
        """Return what a member gave, or None if it has yet to be trained; members are asked for in order.

        One whose last checkpoint is gone, since an artifact took its place, is trained again.
        """
        folder = StageFolder(self._folder(number))
        values = read_json(folder.finished) if self.ranks.is_writer and folder.finished.is_file() else None
        if values is not None and values["num_steps"] not in CheckpointStore(folder.checkpoints).list_whole():
            values = None
        values = self.ranks.broadcast_object(values)
        if values is None:
            return None
        scores = np.array(values["scores"], dtype=np.float64).reshape(values["shape"])
        found = FinishedMember(scores, values["num_tokens"], values["num_steps"], values["position"])
        self._finished.append(found)
        return found

    def open(self, number: int) -> RunContext:
        """Return the context that a member is trained in."""
        if self.count == 1:
            return self.context
        start = self._finished[-1].position if self._finished else 0
        return replace(
            self.context,
            folder=self._folder(number),
            seed=derive_seed(self.context.seed, "member", number),
            metrics=_PartOfMetrics(self.context.metrics, start, self.last_step),
        )

    def close(self, number: int, member: FinishedMember) -> None:
        """Write down what a member gave."""
        member = replace(member, position=self.context.metrics.position())
        if self.ranks.is_writer:
            values = {
                "scores": member.scores_RK.ravel().tolist(),
                "shape": list(member.scores_RK.shape),
                "num_tokens": member.num_tokens,
                "num_steps": member.num_steps,
                "position": member.position,
            }
            write_json(StageFolder(self._folder(number)).finished, values)
        self.ranks.wait()
        self._finished.append(member)

    def end_metrics(self, values: Mapping[str, float]) -> None:
        """Log what was found of all members after their last steps, once however often the stage was stopped."""
        self.context.metrics.rewind(self._finished[-1].position)
        self.context.metrics.log(self.last_step, values)

    def load_weights(self, number: int) -> dict[str, torch.Tensor]:
        """Return a finished member's trained parameters by name, whole and in fp32.

        Raises:
            StorageError: Its last checkpoint is not whole.
        """
        folder = StageFolder(self._folder(number))
        checkpoint = CheckpointStore(folder.checkpoints).load_newest()
        if checkpoint is None or checkpoint.step != self._finished[number].num_steps:
            raise StorageError(
                "the last checkpoint of a trained member is missing or torn",
                expected="the checkpoint that its training ended with",
                cure=f"remove {folder.finished} and start the same command again: the member is trained again",
                place=str(folder.checkpoints),
            )
        tensors = checkpoint.tensors.items()
        return {name.removeprefix(_MASTER): tensor for name, tensor in tensors if name.startswith(_MASTER)}

    def _folder(self, number: int) -> Path:
        return self.context.folder if self.count == 1 else StageFolder(self.context.folder).member(number)


class _PartOfMetrics:
    """One member's part of a stage's metrics: its steps are counted on, and its beginning is where it may rewind to."""

    def __init__(self, sink: MetricsSink, start: int, first_step: int) -> None:
        self._sink = sink
        self._start = start
        self._first_step = first_step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._sink.log(self._first_step + step, values)

    def position(self) -> int:
        return self._sink.position()

    def rewind(self, position: int) -> None:
        self._sink.rewind(max(self._start, position))

    def close(self) -> None:
        """Left to the stage, whose sink it is."""
