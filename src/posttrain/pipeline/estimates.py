"""What a stage will need: peak memory found on the meta device, time measured on one micro-batch."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.core.durable import read_json
from posttrain.core.records import RenderedSample
from posttrain.core.seeds import build_numpy_generator
from posttrain.kernels.attention import register_packed_attention
from posttrain.kernels.layouts import Layout, run_packed
from posttrain.models.adapters import add_adapter
from posttrain.models.fusing import fuse_layers
from posttrain.models.heads import attention_backend, depends_on_longest_row, find_backbone, find_head
from posttrain.models.loading import ADAPTERS_FOLDER, BASE_FOLDER
from posttrain.models.lora_settings import LoraSettings
from posttrain.objectives.sft import compute_sft_loss
from posttrain.pipeline.wiring import StageData
from posttrain.stages.sft import SftConfig, build_order, group_rows
from posttrain.stages.training_keys import count_steps
from posttrain.training.batches import build_micro_batch
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


def estimate_memory(folder: Path, config: SftConfig, data: StageData, ranks: Ranks, seed: int) -> MemoryEstimate:
    """Return the peak memory of the stage's largest step on one rank, without loading weights.

    Args:
        folder: The policy's folder.
        config: The stage's configuration.
        data: Its rows.
        ranks: The processes that share a step.
        seed: The stage's seed, which decides which rows share a step.
    """
    plain = _estimate(folder, config, data, ranks, seed)
    setting = config.activation_checkpointing
    is_kept = setting == "off" or (setting == "auto" and fits_memory(plain))
    return plain if is_kept else _estimate(folder, config, data, ranks, seed, plain=plain)


def needs_checkpointing(
    folder: Path, config: SftConfig, data: StageData, ranks: Ranks, seed: int, *, is_loaded: bool = False
) -> bool:
    """Return whether a step without activation checkpointing would not fit into the memory that is free.

    With `is_loaded` the weights are in memory already, and so missing from what is free.
    """
    return not fits_memory(_estimate(folder, config, data, ranks, seed), is_loaded=is_loaded)


def fits_memory(estimate: MemoryEstimate, *, is_loaded: bool = False) -> bool:
    """Return whether a step fits into the memory that is free; see `needs_checkpointing` for `is_loaded`."""
    needed = estimate.total - estimate.process - (estimate.weights if is_loaded else 0)
    return needed <= MEMORY_SHARE * find_free_memory()


def _estimate(
    folder: Path, config: SftConfig, data: StageData, ranks: Ranks, seed: int, *, plain: MemoryEstimate | None = None
) -> MemoryEstimate:
    """Return the estimate without activation checkpointing; given that one, the estimate with it."""
    policy, layout = _build_policy(folder, config, ranks, "meta", checkpointing=plain is not None)
    lengths, scored, num_micro_batches = find_largest_micro_batch(config, data, ranks, seed, layout)
    has_ema = config.ema_decay is not None
    whole = estimate_step_memory(policy, lengths, scored, num_micro_batches=num_micro_batches, has_ema=has_ema)
    if config.keep == "best_metric":  # a sampler's copy; over several ranks also the whole policy that it copies
        size = sum(p.numel() for p in policy.parameters()) * DTYPES[config.dtype].itemsize
        whole = replace(whole, copies=size if ranks.count == 1 else 2 * size)
    if find_device() != "cpu":
        return replace(whole, process=0).share_among(ranks.count)
    layers = max(1, len(find_layers(find_backbone(policy.model))))
    runtime = estimate_runtime(
        whole,
        is_bf16=config.dtype == "bfloat16",
        has_adapter=any(not p.requires_grad for p in policy.parameters()),
        recomputed=plain.activations // layers if plain is not None else 0,
    )
    return replace(whole, runtime=runtime).share_among(ranks.count)


def estimate_seconds(folder: Path, config: SftConfig, data: StageData, seed: int, tokens: int, *, device: str) -> float:
    """Return about how long a stage trains on one rank.

    A small model's micro-batch is run once with random weights and timed. For a larger one the time
    follows from 6 operations a parameter and token, and the measured matrix-product rate.
    """
    meta, layout = _build_policy(folder, config, Ranks(), "meta", checkpointing=False)
    lengths, scored, _ = find_largest_micro_batch(config, data, Ranks(), seed, layout)
    flops = 6 * sum(p.numel() for p in meta.parameters())
    if flops * sum(lengths) > _MEASURED_FLOPS:
        return flops * tokens / (measure_matrix_rate(config.dtype, device) * _LARGE_EFFICIENCY)
    should_checkpoint = config.activation_checkpointing == "on"
    policy, _ = _build_policy(folder, config, Ranks(), device, checkpointing=should_checkpoint)
    updater = Updater(
        policy,
        MasterOptimizer(policy.model.named_parameters(), AdamWSettings()),
        Ranks(),
        compute_sft_loss,
        max_grad_norm=config.max_grad_norm,
        device=device,
    )
    vocabulary = policy.head().weight.shape[0]
    batch = _draw_batch(lengths, scored, vocabulary, layout)
    seconds = []
    for _ in range(2):  # the first one compiles kernels
        began = time.perf_counter()
        updater.update(batch, 1e-6)
        seconds.append(time.perf_counter() - began)
    return min(seconds) * tokens / sum(lengths)


def _draw_batch(lengths: list[int], scored: int, vocabulary: int, layout: Layout) -> StepBatch:
    """Return rows of random tokens with as many trained ones as the real micro-batch."""
    import numpy as np

    generator = build_numpy_generator("timed micro-batch")
    share = scored / max(1, sum(lengths))
    samples = []
    for length in lengths:
        is_trainable = np.arange(length) >= round(length * (1 - share))
        ids = generator.integers(0, vocabulary, length).astype(np.int32)
        samples.append(RenderedSample(ids, np.zeros(length, np.uint8), is_trainable))
    micro_batch = build_micro_batch(samples, [""] * len(samples), has_filler=layout == "packed")
    trained = len(micro_batch.targets_N)
    return StepBatch([micro_batch], float(max(1, trained)), sum(lengths), trained)


def _build_policy(
    folder: Path, config: SftConfig, ranks: Ranks, device: str, *, checkpointing: bool
) -> tuple[ScoredPolicy, Layout]:
    """Return a policy of the folder's shape with weights that mean nothing, and the layout of its rows."""
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
    layout = _guess_layout(model, config)
    return ScoredPolicy(model, find_backbone(model), find_head, layout), layout


def _guess_layout(model: Any, config: SftConfig) -> Layout:
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


def find_largest_micro_batch(
    config: SftConfig, data: StageData, ranks: Ranks, seed: int, layout: Layout, *, num_steps: int = 50
) -> tuple[list[int], int, int]:
    """Return lengths and trained tokens of the largest micro-batch, and how many a step has at most on one rank.

    The first steps are looked at. If others follow, the longest row counts too: no budget makes it shorter.

    Args:
        config: The stage's configuration.
        data: Its rows.
        ranks: The processes that share a step.
        seed: The stage's seed, which decides which rows share a step.
        layout: How rows lie in a micro-batch; padded, the longest row is what each of them takes.
        num_steps: How many of the first steps to look at.
    """
    order = build_order(config, data.train, seed)
    lengths_of = [part.lengths_R for part in data.train.rows]
    steps = count_steps(config, order.steps_per_epoch)
    largest: list[tuple[int, int]] = []
    size = most = 0
    for step in range(min(num_steps, steps)):
        rows = order.rows_of_step(step)
        lengths = [int(lengths_of[source][row]) for source, row in rows]
        groups = group_rows(lengths, config.micro_batch_tokens, layout)
        most = max(most, -(-len(groups) // ranks.count))
        for group in groups:
            taken = [lengths[i] for i in group]
            if (tokens := len(taken) * max(taken) if layout == "padded" else sum(taken)) > size:
                largest, size = [rows[i] for i in group], tokens
    if steps > num_steps:
        source = max(range(len(lengths_of)), key=lambda source: lengths_of[source].max())
        row = int(lengths_of[source].argmax())
        largest = [(source, row)] if lengths_of[source][row] > size else largest
    trained = sum(int(data.train.rows[source].row(row).is_trainable_T[1:].sum()) for source, row in largest)
    return [int(lengths_of[source][row]) for source, row in largest] or [1], max(1, trained), max(1, most)


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
