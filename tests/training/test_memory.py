"""The planned memory is what autograd keeps when the step is really run, and what tensors really weigh."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.kernels import token_logprobs
from posttrain.models.adapters import add_adapter
from posttrain.models.lora_settings import LoraSettings
from posttrain.objectives.sft import compute_sft_loss
from posttrain.training.batches import (
    MicroBatch,
    PromptFamily,
    ScoredCompletion,
    build_family_batch,
    build_micro_batch,
)
from posttrain.training.memory import MemoryEstimate, estimate_step_memory, measure_resident_bytes
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer
from posttrain.training.policy import ScoredPolicy, enable_checkpointing
from tests.training.tiny import ARCHITECTURES, make_policy, make_samples

# Wide enough that what a kernel keeps a document is small beside what a layer keeps.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
LENGTHS = (200, 60, 91)


def build_policy(name: str, device: str, dtype: torch.dtype, *, lora: bool, checkpointed: bool) -> ScoredPolicy:
    config = AutoConfig.for_model(**(ARCHITECTURES[name] | SIZES))
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    if lora:
        model = add_adapter(model, LoraSettings(rank=8), "estimate", 0)
    if checkpointed:
        enable_checkpointing(model)
    return make_policy(model)


def measure_saved_bytes(policy: ScoredPolicy, batch: MicroBatch | None = None) -> tuple[int, int]:
    """Really run the backbone, then all; return the bytes that autograd keeps of each, counted once a storage."""
    batch = batch or build_micro_batch(make_samples(LENGTHS), ["a", "b", "c"])
    own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    sums = []
    policy.train()
    for run in (
        lambda: policy.compute_hidden(batch),
        lambda: policy(batch, compute_sft_loss, batch.weights_N).loss,
    ):
        seen: dict[int, int] = {}
        kept: list[torch.Tensor] = []

        def pack(tensor: torch.Tensor, seen: dict[int, int] = seen, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
                kept.append(tensor)  # so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept.append(run())
        sums.append(sum(seen.values()))
    return sums[0], sums[1]


def estimate(name: str, dtype: torch.dtype, **settings: Any) -> MemoryEstimate:
    policy = build_policy(name, "meta", dtype, **settings)
    batch = build_micro_batch(make_samples(LENGTHS), ["a", "b", "c"])
    return estimate_step_memory(policy, batch.lengths, len(batch.targets_N), num_micro_batches=1, has_ema=False)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_planned_activations_are_what_autograd_keeps(
    name: str, dtype: torch.dtype, lora: bool, checkpointed: bool
) -> None:
    planned = estimate(name, dtype, lora=lora, checkpointed=checkpointed)
    backbone, whole = measure_saved_bytes(build_policy(name, "cpu", dtype, lora=lora, checkpointed=checkpointed))
    assert planned.activations == pytest.approx(backbone, rel=0.15)
    assert planned.activations + planned.head >= 0.95 * whole
    assert planned.activations > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_share_a_prompt_keep_what_one_row_of_as_many_tokens_is_planned_to(dtype: torch.dtype) -> None:
    def complete(count: int) -> ScoredCompletion:
        return ScoredCompletion(
            np.ones(count, np.int32), np.ones(count, np.bool_), np.ones(count, np.float32), {}, "row"
        )

    families = [
        PromptFamily(np.ones(80, np.int32), [complete(100), complete(60)]),
        PromptFamily(np.ones(30, np.int32), [complete(40), complete(41)]),
    ]
    batch = build_family_batch(families, is_shared=True)
    planned = estimate_step_memory(
        build_policy("llama", "meta", dtype, lora=False, checkpointed=False),
        batch.lengths,
        len(batch.targets_N),
        num_micro_batches=1,
        has_ema=False,
    )
    backbone, _ = measure_saved_bytes(build_policy("llama", "cpu", dtype, lora=False, checkpointed=False), batch)
    assert planned.activations == pytest.approx(backbone, rel=0.15)


def test_checkpointing_keeps_far_less_and_an_adapter_less_gradient() -> None:
    plain = estimate("llama", torch.bfloat16, lora=False, checkpointed=False)
    checkpointed = estimate("llama", torch.bfloat16, lora=False, checkpointed=True)
    adapter = estimate("llama", torch.bfloat16, lora=True, checkpointed=False)
    assert checkpointed.activations < plain.activations / 4
    assert adapter.optimizer < plain.optimizer / 5 and adapter.gradients < plain.gradients / 4
    # Adapters are float32 whatever the base's dtype.
    assert (
        0
        < adapter.weights - plain.weights
        < 4
        * sum(
            p.numel() for p in build_policy("llama", "meta", torch.bfloat16, lora=True, checkpointed=False).parameters()
        )
    )


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(("dtype", "lora"), [*itertools.product([torch.float32, torch.bfloat16], [False, True])])
@pytest.mark.parametrize("has_ema", [False, True])
def test_planned_weights_optimizer_and_gradients_are_what_the_tensors_weigh(
    dtype: torch.dtype, lora: bool, has_ema: bool
) -> None:
    policy = build_policy("qwen3", "cpu", dtype, lora=lora, checkpointed=False)
    optimizer = MasterOptimizer(policy.model.named_parameters(), AdamWSettings(), ema_decay=0.9 if has_ema else None)
    trained = [p for p in policy.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    gradients = bytes_of(*(p.grad for p in trained if p.grad is not None))
    optimizer.apply(1e-3, 1.0)
    state = optimizer.state_tensors()
    kept = bytes_of(*(t for name, t in state.items() if name.split("/")[0] in ("exp_avg", "exp_avg_sq", "ema")))
    shadows = bytes_of(*(slot.master for slot in optimizer.slots if slot.has_master))
    planned = estimate_step_memory(
        build_policy("qwen3", "meta", dtype, lora=lora, checkpointed=False),
        (40,),
        20,
        num_micro_batches=1,
        has_ema=has_ema,
    )
    assert planned.weights == bytes_of(*policy.parameters())
    assert planned.optimizer == kept + shadows
    assert planned.gradients == gradients
    assert planned.total == planned.process + planned.weights + planned.optimizer + max(
        planned.gradients, planned.activations + planned.head
    )


def test_the_head_is_one_chunk_of_logits_hidden_states_twice_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vocabulary 61, hidden 128, bf16, 1,000 scored rows: 512 * 61 * 2 + 2 * 1000 * 128 * 2 + 61 * 128 * (4 + 2)."""
    monkeypatch.setattr(token_logprobs, "CHUNK_ELEMENTS", 0)
    policy = build_policy("llama", "meta", torch.bfloat16, lora=False, checkpointed=False)
    planned = estimate_step_memory(policy, (1100,), 1000, num_micro_batches=1, has_ema=False)
    assert token_logprobs.CHUNK_ROWS == 512
    assert planned.head == 512 * 61 * 2 + 2 * 1000 * 128 * 2 + 61 * 128 * 6
    frozen = build_policy("llama", "meta", torch.bfloat16, lora=True, checkpointed=False)
    planned = estimate_step_memory(frozen, (110,), 100, num_micro_batches=1, has_ema=False)
    assert planned.head == 100 * 61 * 2 + 2 * 100 * 128 * 2


def test_several_micro_batches_need_gradients_in_fp32() -> None:
    policy = build_policy("llama", "meta", torch.bfloat16, lora=False, checkpointed=False)
    one = estimate_step_memory(policy, (40,), 20, num_micro_batches=1, has_ema=False)
    several = estimate_step_memory(policy, (40,), 20, num_micro_batches=2, has_ema=False)
    assert several.gradients == 2 * one.gradients
    assert 0 < measure_resident_bytes() < 1 << 40
