"""Several processes that train one policy (torchrun): sharding by FSDP2, sums over ranks, one writer.

The rest of the house sees `Ranks` and is otherwise unaware: one process has `Ranks()`. Each rank runs
its share of a step's micro-batches; gradients are summed, not averaged, because weights carry the
denominator of the whole step already (`objectives.reduction`).
"""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from posttrain.core.errors import PosttrainError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The place of this process among the processes of a run."""

    rank: int = 0
    count: int = 1

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a small tensor over all ranks."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def agree(self, flag: bool) -> bool:
        """Return whether any rank says yes, so that all leave a loop together."""
        if self.count == 1:
            return flag
        return bool(self.sum(torch.tensor([float(flag)])).item() > 0)

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def first(self, action: Callable[[], Value]) -> Value:
        """Return what `action` gives, done on rank 0 before the others do it (they find its caches filled).

        Raises:
            PosttrainError: What stopped rank 0 stops every rank, and none of them does it or waits for it.
        """
        if not self.is_writer:
            self.share_failure(None)
            return action()
        try:
            value = action()
        except PosttrainError as error:
            self.share_failure(error)
            raise
        self.share_failure(None)
        return value

    def share_failure(self, failure: PosttrainError | None) -> None:
        """Wait for rank 0 to say what failed there, if anything; every rank raises it."""
        failure = self.broadcast_object(failure)
        if failure is not None:
            raise failure

    def gather(self, action: Callable[[], Value]) -> list[Value]:
        """Return what `action` gives on each rank, by rank.

        Where it speaks with other ranks itself, it must not fail on some of them before that is done.

        Raises:
            PosttrainError: What stopped the first of the ranks that it stopped stops every rank.
        """
        if self.count == 1:
            return [action()]
        failure: PosttrainError | None = None
        value: Value | None = None
        try:
            value = action()
        except PosttrainError as error:
            failure = error
        box: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(box, (failure, value))
        for found, _ in box:
            if found is not None:
                raise found
        return [given for _, given in box]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.count > 1:
            torch.distributed.barrier()


def find_device() -> str:
    """Return where models compute: the GPU if there is one (of this rank), else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def join_ranks(device: str = "cpu") -> Ranks:
    """Return this process's ranks, joining torchrun's process group if it was started by torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks()
    if not torch.distributed.is_initialized():
        if device != "cpu":
            torch.cuda.set_device(torch.device(device))
        # The others wait while the first rank tokenizes, evaluates and writes.
        timeout = datetime.timedelta(hours=6)
        torch.distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=timeout)
        if device == "cpu":  # gloo's threads, left to the end of the process, may abort it and hide its exit code
            atexit.register(_leave_ranks)
    return Ranks(torch.distributed.get_rank(), count)


def _leave_ranks() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def shard_policy(policy: nn.Module, layers: list[nn.Module], ranks: Ranks, *, compute_dtype: torch.dtype) -> None:
    """Shard a policy's fp32 parameters over all ranks with FSDP2, layer by layer, computing in `compute_dtype`.

    Args:
        policy: The root module; its forward is what gathers parameters.
        layers: The blocks that are gathered and freed one at a time.
        ranks: The processes; with one, nothing is done.
        compute_dtype: bf16 keeps fp32 shards as masters and gathers bf16 copies.
    """
    if ranks.count == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    device_type = next(policy.parameters()).device.type
    mesh = init_device_mesh(device_type, (ranks.count,))
    mixed = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in [*layers, policy]:
        fully_shard(module, mesh=mesh, mp_policy=mixed)
    if hasattr(policy, "read_whole"):
        register_fsdp_forward_method(policy, "read_whole")
    for module in policy.modules():
        divide = getattr(module, "set_gradient_divide_factor", None)
        if callable(divide):
            divide(1.0)
            if device_type == "cpu":
                module.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]  # gloo has no averaging reduce-scatter


def release_gathered(policy: nn.Module) -> None:
    """Give up the parameters that a forward pass without a backward pass leaves gathered.

    The next pass would take them as they are, also where the shards have changed since.
    """
    release = getattr(policy, "reshard", None)
    if callable(release):
        release()


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder blocks of a transformers model: the entries of its longest ModuleList."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def gather_tensors(tensors: dict[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Return whole CPU copies of tensors that may be sharded (every rank must call this)."""
    whole = {}
    for name, tensor in tensors.items():
        gather = getattr(tensor, "full_tensor", None)
        full = gather() if callable(gather) else tensor
        if ranks.is_writer:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole
