"""The live parts of an SFT stage: its policy with adapters, layout, sharding and checkpointing decided."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.core.errors import RefusedError
from posttrain.core.seeds import derive_seed
from posttrain.data.packing import pack
from posttrain.models.adapters import add_adapter, continue_adapter, prepare_policy
from posttrain.models.fusing import fuse_layers
from posttrain.models.heads import check_head, find_backbone, find_head, is_packing_exact
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import BASE_FOLDER, load_policy
from posttrain.pipeline.wiring import StageData
from posttrain.stages.sft import SftConfig, build_order
from posttrain.training.distributed import Ranks, find_layers, shard_policy
from posttrain.training.memory import MemoryEstimate, estimate_step_memory
from posttrain.training.policy import ScoredPolicy

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_MEMORY_SHARE = 0.85  # of what is free: the rest is for the allocator's slack and the operating system


def find_device() -> str:
    """Return where models compute: the GPU if there is one (of this rank), else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def load_trained_policy(
    folder: Path, config: SftConfig, name: str, seed: int, ranks: Ranks, device: str
) -> LoadedPolicy:
    """Return the policy a stage starts from, ready to train: full weights, or one trainable adapter.

    Raises:
        ModelError: The folder or its adapters cannot be used.
        RefusedError: The policy has adapters and the recipe does not say what to do with them, or has
            none and the recipe says to go on with one.
    """
    # With several ranks the fp32 shards are the masters and FSDP makes the bf16 copies.
    dtype = config.dtype if ranks.count == 1 else "float32"
    policy = load_policy(folder, dtype=dtype, device=device)
    start = config.adapter_start
    if policy.adapters and start is None:
        raise RefusedError(
            f"the policy has adapters already ({', '.join(policy.adapters)})",
            expected="adapter_start to say what to do with them",
            cure="set adapter_start: continue, stack or merge",
            place=f"stages: {name}: adapter_start",
        )
    if start == "new" and policy.adapters:
        raise RefusedError(
            f"adapter_start: new, but the policy has adapters ({', '.join(policy.adapters)})",
            expected="a policy without adapters",
            cure="set adapter_start: continue, stack or merge",
            place=f"stages: {name}: adapter_start",
        )
    if start == "continue" and config.adapter is None and not policy.adapters:
        raise RefusedError(
            "adapter_start: continue, but the policy has no adapter",
            expected="a policy with an adapter, or adapter settings to start one",
            cure="set adapter: {rank: ..., alpha: ...}, or leave adapter_start out to train the full weights",
            place=f"stages: {name}: adapter_start",
        )
    if policy.adapters and start == "continue" and config.adapter is None:
        continue_adapter(policy.model)
    else:
        existing: Literal["continue", "stack", "merge"] = "merge" if start is None or start == "new" else start
        policy = prepare_policy(policy, config.adapter, existing=existing, name=name, seed=derive_seed(seed, "adapter"))
    for parameter in policy.model.parameters():
        if parameter.requires_grad:  # adapters come in fp32; the optimizer keeps fp32 masters of what computes in bf16
            parameter.data = parameter.data.to(DTYPES[dtype])
    return policy


def build_scored_policy(
    policy: LoadedPolicy, config: SftConfig, data: StageData, ranks: Ranks, seed: int
) -> tuple[ScoredPolicy, list[str]]:
    """Return the policy in training form, and notes on what was decided.

    Raises:
        ModelError: The model's head is not what its logits say.
        RefusedError: `packing: on` for a model in which packed rows are not isolated.
    """
    notes: list[str] = []
    model = policy.model
    check_head(model)
    fuse_layers(model)
    exact = config.packing != "off" and is_packing_exact(model)
    if config.packing == "on" and not exact:
        raise RefusedError(
            "packed rows are not isolated in this architecture: a probe gave other hidden states than each row alone",
            expected="an architecture whose attention can be registered",
            cure="set packing: auto or off; rows are then padded",
            place="packing",
        )
    if config.packing == "auto" and not exact:
        notes.append("rows are padded: packing is not exact in this architecture")
    should_checkpoint = config.activation_checkpointing == "on"
    if config.activation_checkpointing == "auto":
        estimate = estimate_memory(policy.folder, config, data, ranks, seed)
        should_checkpoint = estimate.total > _MEMORY_SHARE * find_free_memory()
        if should_checkpoint:
            notes.append(f"activation checkpointing is on: a step would need {estimate.total / 1e9:.1f} GB")
    if should_checkpoint:
        enable_checkpointing(model)
    scored = ScoredPolicy(model, find_backbone(model), find_head, "packed" if exact else "padded")
    layers = find_layers(find_backbone(model))
    shard_policy(scored, layers, ranks, compute_dtype=DTYPES[config.dtype])
    return scored, notes


def enable_checkpointing(model: Any) -> None:
    """Have each block recompute its activations in the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def estimate_memory(folder: Path, config: SftConfig, data: StageData, ranks: Ranks, seed: int) -> MemoryEstimate:
    """Return the peak memory of the stage's largest step on one rank, without loading weights."""
    base = folder / BASE_FOLDER if (folder / BASE_FOLDER).is_dir() else folder
    settings = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=DTYPES[config.dtype])
    model.tie_weights()
    if config.adapter is not None:
        model = add_adapter(model, config.adapter, "estimate", 0)
    fuse_layers(model)
    if config.activation_checkpointing == "on":
        enable_checkpointing(model)
    policy = ScoredPolicy(model, find_backbone(model), find_head, "packed")
    lengths, scored, num_micro_batches = find_largest_micro_batch(config, data, ranks, seed)
    has_ema = config.ema_decay is not None
    return estimate_step_memory(policy, lengths, scored, num_micro_batches=num_micro_batches, has_ema=has_ema)


def find_largest_micro_batch(
    config: SftConfig, data: StageData, ranks: Ranks, seed: int, *, num_steps: int = 50
) -> tuple[list[int], int, int]:
    """Return lengths and trained tokens of the largest micro-batch among the first steps, and how many a step has."""
    order = build_order(config, data.train, seed)
    largest: tuple[list[int], int, int] = ([1], 1, 1)
    for step in range(min(num_steps, order.steps_per_epoch)):
        rows = order.rows_of_step(step)
        lengths = [int(data.train.rows[source].lengths_R[row]) for source, row in rows]
        groups = pack(lengths, config.micro_batch_tokens)
        for group in groups:
            if sum(lengths[i] for i in group) > sum(largest[0]):
                trained = sum(int(data.train.rows[rows[i][0]].row(rows[i][1]).is_trainable_T[1:].sum()) for i in group)
                largest = ([lengths[i] for i in group], trained, -(-len(groups) // ranks.count))
    return largest


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
