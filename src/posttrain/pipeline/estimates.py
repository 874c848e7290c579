"""What a stage will need: peak memory found on the meta device, time measured on one micro-batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.core.durable import read_json
from posttrain.kernels.attention import register_packed_attention
from posttrain.kernels.layouts import Layout, run_packed
from posttrain.kernels.token_logprobs import TokenObjective
from posttrain.models.adapters import add_adapter, list_adapters
from posttrain.models.fusing import fuse_layers
from posttrain.models.heads import attention_backend, depends_on_longest_row, find_backbone, find_head
from posttrain.models.loading import ADAPTERS_FOLDER, BASE_FOLDER
from posttrain.models.lora_settings import LoraSettings
from posttrain.objectives.sft import compute_sft_loss
from posttrain.pipeline.stage_costs import TrainingConfig
from posttrain.training.batches import MicroBatch
from posttrain.training.distributed import Ranks, find_device, find_layers
from posttrain.training.memory import MemoryEstimate, estimate_runtime, estimate_step_memory
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer
from posttrain.training.policy import ScoredPolicy, enable_checkpointing
from posttrain.training.step import StepBatch, Updater

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MEMORY_SHARE = 0.85
"""Of what is free: the rest is for the allocator's slack and the operating system."""
_MEASURED_FLOPS = 4e11  # a micro-batch below this is run to be timed (about a second on two cores)
_LARGE_EFFICIENCY = 0.25  # share of the matrix rate that a larger one reaches on a CPU


@dataclass(frozen=True, slots=True)
class LargestStep:
    """The largest micro-batch of a stage, and how many of them a step has at most on one rank."""

    micro_batch: MicroBatch
    num_micro_batches: int


def wrap_language_model(model: Any, layout: Layout) -> ScoredPolicy:
    """Return a causal language model as one that scores micro-batches."""
    return ScoredPolicy(model, find_backbone(model), find_head, layout)


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a stage's steps compute, as far as it shows before the first of them.

    Made for each type of stage by `step_works`. `find_largest` gives the largest micro-batch of a layout; `wrap` brings
    a model into the form that the stage trains; `num_copies` weights are kept beside the trained ones in the stage's
    precision; `count_drawing` gives the bytes that drawing takes beside all of these, between two updates.
    """

    find_largest: Callable[[Layout], LargestStep]
    objective: TokenObjective = compute_sft_loss
    wrap: Callable[[Any, Layout], ScoredPolicy] = wrap_language_model
    has_ema: bool = False
    num_copies: int = 0
    count_drawing: Callable[[ScoredPolicy], int] | None = None


def estimate_memory(folder: Path, config: TrainingConfig, work: StepWork, ranks: Ranks) -> MemoryEstimate:
    """Return the peak memory of the stage's largest step on one rank, without loading weights.

    Args:
        folder: The policy's folder.
        config: The stage's configuration.
        work: What its steps compute.
        ranks: The processes that share a step.
    """
    plain = _estimate(folder, config, work, ranks)
    setting = config.activation_checkpointing
    is_kept = setting == "off" or (setting == "auto" and fits_memory(plain))
    return plain if is_kept else _estimate(folder, config, work, ranks, plain=plain)


def needs_checkpointing(
    folder: Path, config: TrainingConfig, work: StepWork, ranks: Ranks, *, is_loaded: bool = False
) -> bool:
    """Return whether a step without activation checkpointing would not fit into the memory that is free.

    With `is_loaded` the weights are in memory already, and so missing from what is free.
    """
    return not fits_memory(_estimate(folder, config, work, ranks), is_loaded=is_loaded)


def fits_memory(estimate: MemoryEstimate, *, is_loaded: bool = False) -> bool:
    """Return whether a step fits into the memory that is free; see `needs_checkpointing` for `is_loaded`."""
    needed = estimate.total - estimate.process - (estimate.weights if is_loaded else 0)
    return needed <= MEMORY_SHARE * find_free_memory()


def _estimate(
    folder: Path, config: TrainingConfig, work: StepWork, ranks: Ranks, *, plain: MemoryEstimate | None = None
) -> MemoryEstimate:
    """Return the estimate without activation checkpointing; given that one, the estimate with it."""
    policy = _build_policy(folder, config, work, ranks, "meta", checkpointing=plain is not None)
    largest = work.find_largest(policy.layout)
    batch = largest.micro_batch
    whole = estimate_step_memory(
        policy,
        batch.lengths,
        len(batch.scored_N),
        num_micro_batches=largest.num_micro_batches,
        has_ema=work.has_ema,
    )
    size = sum(p.numel() for p in policy.parameters()) * DTYPES[config.dtype].itemsize
    drawing = 0 if work.count_drawing is None else work.count_drawing(policy)
    whole = replace(whole, copies=work.num_copies * size, drawing=drawing)
    if find_device() != "cpu":
        return replace(whole, process=0).share_among(ranks.count)
    layers = max(1, len(find_layers(find_backbone(policy.model))))
    runtime = estimate_runtime(
        whole,
        is_bf16=config.dtype == "bfloat16",
        has_adapter=bool(list_adapters(policy.model)),
        recomputed=plain.activations // layers if plain is not None else 0,
    )
    return replace(whole, runtime=runtime).share_among(ranks.count)


def estimate_seconds(folder: Path, config: TrainingConfig, work: StepWork, tokens: int, *, device: str) -> float:
    """Return about how long updates on so many tokens take on one rank.

    A small model's micro-batch is run once with random weights and timed. For a larger one the time
    follows from 6 operations a parameter and token, and the measured matrix-product rate.
    """
    meta = _build_policy(folder, config, work, Ranks(), "meta", checkpointing=False)
    batch = work.find_largest(meta.layout).micro_batch
    flops = 6 * sum(p.numel() for p in meta.parameters())
    if flops * len(batch.ids_T) > _MEASURED_FLOPS:
        return flops * tokens / (measure_matrix_rate(config.dtype, device) * _LARGE_EFFICIENCY)
    should_checkpoint = config.activation_checkpointing == "on"
    policy = _build_policy(folder, config, work, Ranks(), device, checkpointing=should_checkpoint)
    updater = Updater(
        policy,
        MasterOptimizer(policy.named_parameters(), AdamWSettings()),
        Ranks(),
        work.objective,
        max_grad_norm=config.max_grad_norm,
        device=device,
    )
    trained = len(batch.scored_N)
    step = StepBatch([batch], float(max(1, trained)), len(batch.ids_T), trained)
    seconds = []
    for _ in range(2):  # the first one compiles kernels
        began = time.perf_counter()
        updater.update(step, 1e-6)
        seconds.append(time.perf_counter() - began)
    return min(seconds) * tokens / len(batch.ids_T)


# many parameters: which policy, in which form, and where
def _build_policy(
    folder: Path, config: TrainingConfig, work: StepWork, ranks: Ranks, device: str, *, checkpointing: bool
) -> ScoredPolicy:
    """Return a policy of the folder's shape with weights that mean nothing, in the layout of its rows."""
    dtype = DTYPES[config.dtype] if ranks.count == 1 else torch.float32  # shards are fp32 masters
    base = folder / BASE_FOLDER if (folder / BASE_FOLDER).is_dir() else folder
    settings = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    with torch.device(device), torch.random.fork_rng(devices=[]):
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    model.tie_weights()
    adapter = config.adapter or (_read_adapter(folder) if config.adapter_start == "continue" else None)
    if adapter is not None:
        model = add_adapter(model, adapter, "estimate", 0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    fuse_layers(model)
    if checkpointing:
        enable_checkpointing(model)
    return work.wrap(model, _guess_layout(model, config))


def _guess_layout(model: Any, config: TrainingConfig) -> Layout:
    """Return the layout that the stage will choose, as far as it shows without trained weights."""
    if depends_on_longest_row(model):
        return "single"
    if config.packing == "off":
        return "padded"
    ids = torch.zeros(4, dtype=torch.int64, device=next(model.parameters()).device)
    was_training = model.training
    try:
        model.train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), attention_backend(model, register_packed_attention()):
            run_packed(find_backbone(model), ids, (2, 2))
    except (ValueError, TypeError, RuntimeError):
        return "padded"
    finally:
        model.train(was_training)
    return "packed"


def _read_adapter(folder: Path) -> LoraSettings | None:
    """Return the shape of an artifact's last adapter, or None if it has none."""
    folders = sorted((folder / ADAPTERS_FOLDER).glob("*/adapter_config.json"))
    if not folders:
        return None
    values = read_json(folders[-1])
    return LoraSettings(rank=int(values["r"]), targets=list(values["target_modules"]))


def measure_matrix_rate(dtype: str, device: str, *, size: int = 1024, repeats: int = 3) -> float:
    """Return the machine's matrix-product rate in FLOP/s, the best of a few products."""
    matrix = torch.ones(size, size, dtype=DTYPES[dtype], device=device)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def find_free_memory() -> int:
    """Return the bytes that a step may use: free device memory, or available memory of the machine or container."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    free = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    with suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, limit - used)
    return free
