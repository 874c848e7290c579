"""What several processes do together in tests: started here, joined over gloo on this machine.

Processes are forked from a server that has imported everything once, so that a job of two or four ranks
starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft  # noqa: F401  # heavy, and imported lazily elsewhere: the server has it for all ranks
import torch
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.utils.checkpoint
from transformers import GPT2LMHeadModel, LlamaForCausalLM, Qwen3ForCausalLM  # noqa: F401  # as above

from posttrain.core.errors import DataError, TerminatedError
from posttrain.core.run_folder import StageFolder
from posttrain.pipeline.tracked_metric import measure_on_first_rank
from posttrain.stages.sft import build_step_batch, compute_validation
from posttrain.training.checkpoints import CheckpointStore
from posttrain.training.distributed import Ranks, gather_tensors, join_ranks
from posttrain.training.optimizer import AdamWSettings
from tests.stages.tiny_sft import TRAIN, VALIDATION, Stage, StopAfter, make_config, make_data, score_weights

Arrays = dict[str, np.ndarray]
_WAIT_SECONDS = 240


def run_ranks(job: Callable[..., Any], count: int, **arguments: Any) -> list[Any]:
    """Return what each rank's `job(ranks, **arguments)` gave; one rank runs here, without a process group."""
    if count == 1:
        return [job(Ranks(), **arguments)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(count):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_rank, args=(sender, rank, count, port, job, arguments), daemon=True)
        process.start()
        sender.close()
        started.append((process, receiver))
    results = []
    try:
        for _, receiver in started:
            if not receiver.poll(_WAIT_SECONDS):
                raise TimeoutError(f"rank {len(results)} of {count} gave nothing")
            results.append(receiver.recv())
    finally:
        for process, receiver in started:
            process.join(10)
            if process.is_alive():
                process.kill()
            receiver.close()
    failures = [f"rank {rank}:\n{text}" for rank, (text, _) in enumerate(results) if text]
    assert not failures, "\n".join(failures)
    return [value for _, value in results]


def _run_rank(
    sender: Connection, rank: int, count: int, port: int, job: Callable[..., Any], arguments: dict[str, Any]
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    try:
        value = job(join_ranks(), **arguments)
    except BaseException:  # noqa: BLE001  # whatever a rank dies of is shown by the test
        sender.send((traceback.format_exc(), None))
    else:
        sender.send(("", value))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _to_arrays(tensors: dict[str, torch.Tensor]) -> Arrays:
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


# many parameters: each is a setting that a test varies
def take_steps(
    ranks: Ranks,
    *,
    name: str = "llama",
    adapter: Any = None,
    lengths: tuple[int, ...] = TRAIN,
    budget: int = 30,
    num_steps: int = 2,
    max_grad_norm: float | None = None,
    checkpointed: bool = False,
    dtype: str = "float32",
    **changes: Any,
) -> dict[str, Any]:
    """Measure held-out rows, take steps on all rows, and return losses, norms, gradients and weights."""
    config = make_config(adapter=adapter) if adapter else make_config()
    policy = build_sharded(config, ranks, name, checkpointed, dtype, changes)
    updater = make_updater_of(policy, ranks, max_grad_norm)
    rows = [(0, index) for index in range(len(lengths))]
    batch = build_step_batch(make_data(lengths), rows, budget, ranks)
    validation = [compute_validation(updater, make_data(VALIDATION, 1), budget)["validation/loss"]]
    reports = []
    gradients: Arrays = {}
    for step in range(num_steps):
        if step == 0:
            updater.accumulate(batch, 17, "dropout", step)
            grads = {slot.name: grad for slot, grad in updater.optimizer._gradients()}
            gradients = _to_arrays(gather_tensors(grads, ranks))
            updater.optimizer.drop_gradients()
        report = updater.update(batch, 0.01, 17, "dropout", step)
        reports.append((report.loss, report.accuracy, report.grad_norm))
        validation.append(compute_validation(updater, make_data(VALIDATION, 1), budget)["validation/loss"])
    weights = _to_arrays(gather_tensors(updater.optimizer.masters(), ranks))
    return {"reports": reports, "validation": validation, "gradients": gradients, "weights": weights}


# many parameters: a stage with all that a test varies
def build_sharded(config: Any, ranks: Ranks, name: str, checkpointed: bool, dtype: str, changes: dict[str, Any]) -> Any:
    """A tiny policy, sharded as the pipeline shards it: fp32 shards that compute in `dtype`."""
    changed = config.model_copy(update={"dtype": dtype, "activation_checkpointing": "on" if checkpointed else "off"})
    single = torch.bfloat16 if dtype == "bfloat16" and ranks.count == 1 else torch.float32
    return Stage(changed, name=name, dtype=single, ranks=ranks, **changes).parts.policy


def make_updater_of(policy: Any, ranks: Ranks, max_grad_norm: float | None) -> Any:
    """An updater of a policy that exists; AdamW's epsilon is large, so that updates are smooth in gradients."""
    from posttrain.objectives.sft import compute_sft_loss
    from posttrain.training.optimizer import MasterOptimizer
    from posttrain.training.step import Updater

    optimizer = MasterOptimizer(policy.model.named_parameters(), AdamWSettings(epsilon=1e-3, weight_decay=0.1))
    return Updater(policy, optimizer, ranks, compute_sft_loss, max_grad_norm=max_grad_norm)


def run_stage(
    ranks: Ranks,
    *,
    folder: str,
    stop_after: int | None = None,
    num_snapshots: int = 0,
    name: str = "llama",
    **changes: Any,
) -> dict[str, Any]:
    """Run an SFT stage in a folder, or until it is asked to stop; return what it published, logged and kept."""
    stage = Stage(make_config(**changes), name=name, ranks=ranks)
    should_stop = StopAfter(stop_after) if stop_after else lambda: False
    try:
        stage.run(Path(folder), should_stop, num_snapshots=num_snapshots)
    except TerminatedError:
        return {}
    store = CheckpointStore(StageFolder(Path(folder)).snapshots)
    snapshots = {step: _to_arrays(store.load(step).tensors) for step in store.list_whole()}
    return {"published": _to_arrays(stage.published), "lines": stage.sink.without_times(), "snapshots": snapshots}


def run_measured_stage(ranks: Ranks, *, folder: str, fails: bool = False, **changes: Any) -> dict[str, Any]:
    """Run a stage that keeps the best by a score of its whole weights; return what it published and logged, or why not.

    Over several ranks the first one scores a plain model that is given the weights.
    """
    config = make_config(keep="best_metric", keep_metric="facts", validate_every_steps=1, **changes)
    stage = Stage(config, ranks=ranks)
    if ranks.count > 1:
        plain = Stage(config).model

        def measure() -> float:
            if fails:
                raise DataError("no room for an answer")
            return score_weights(plain)

        tracker: Any = SimpleNamespace(policy=SimpleNamespace(model=plain), measure=measure)
        sharded = {name: p.detach() for name, p in stage.model.named_parameters() if p.requires_grad}
        stage.parts.measure = measure_on_first_rank(tracker if ranks.is_writer else None, sharded, ranks)
    try:
        stage.run(Path(folder))
    except DataError as error:
        return {"error": error.found}
    return {"published": _to_arrays(stage.published), "lines": stage.sink.without_times()}


def fail_on_one_rank(ranks: Ranks) -> tuple[str, bool]:
    """Poison one rank's shard; return the error that each rank gives, and whether its parameters stayed."""
    from posttrain.core.errors import TrainingError

    policy = build_sharded(make_config(), ranks, "llama", False, "float32", {})
    updater = make_updater_of(policy, ranks, 1.0)
    data = make_data(TRAIN)
    batch = build_step_batch(data, [(0, index) for index in range(len(TRAIN))], 30, ranks)
    parameter = policy.model.get_submodule("model.layers.1.mlp.up_proj").weight
    if ranks.rank == ranks.count - 1:
        local = parameter.to_local() if ranks.count > 1 else parameter
        with torch.no_grad():
            local[0, 0] = float("nan")
    before = {k: v.clone() for k, v in updater.optimizer.masters().items()}
    try:
        updater.update(batch, 0.01, 0)
    except TrainingError as error:
        after = gather_tensors(updater.optimizer.masters(), Ranks(0, ranks.count))
        start = gather_tensors(before, Ranks(0, ranks.count))
        same = all(torch.equal(after[k].nan_to_num(), start[k].nan_to_num()) for k in start)
        return error.found, same
    return "no error", False


def fail_on_the_first_rank(ranks: Ranks) -> tuple[str, str, bool]:
    """Fail in `Ranks.first` on rank 0 alone; return the error that this rank saw, and whether it did the work."""
    done: list[int] = []

    def fail() -> None:
        done.append(ranks.rank)
        if ranks.is_writer:
            raise DataError("the rows are gone", cure="bring them back", place="rows.jsonl")

    try:
        ranks.first(fail)
    except DataError as error:
        found = error
    assert ranks.broadcast_object("still together") == "still together"
    return found.describe(), str(found), bool(done)


def talk(ranks: Ranks) -> dict[str, Any]:
    """Use every means of talking that ranks have."""
    order: list[str] = []
    first = ranks.first(lambda: order.append("done") or ranks.rank)
    ranks.wait()
    return {
        "sum": ranks.sum(torch.tensor([1.0 + ranks.rank])).item(),
        "agree": [ranks.agree(ranks.rank == 1), ranks.agree(False)],
        "object": ranks.broadcast_object({"from": ranks.rank}),
        "first": first,
        "is_writer": ranks.is_writer,
    }
