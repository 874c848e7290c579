"""Tiny random models, rows and sinks that the tests of training are run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.core.progress import SilentProgress
from posttrain.core.protocols import RunContext
from posttrain.core.records import RenderedSample, TokenRows
from posttrain.kernels.layouts import Layout
from posttrain.models.heads import find_backbone, find_head
from posttrain.objectives.sft import compute_sft_loss
from posttrain.training.batches import build_micro_batch, count_scored
from posttrain.training.distributed import Ranks
from posttrain.training.optimizer import AdamWSettings, MasterOptimizer
from posttrain.training.policy import ScoredPolicy
from posttrain.training.step import StepBatch, Updater

VOCABULARY = 61
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.2,
}
_NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}
_WINDOW_LAYERS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SHAPE, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", **_SHAPE, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **_SHAPE, "tie_word_embeddings": True},
    "gemma2": {
        "model_type": "gemma2",
        **_SHAPE,
        **_WINDOW_LAYERS,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": {"model_type": "gemma3_text", **_SHAPE, **_WINDOW_LAYERS, "query_pre_attn_scalar": 8},
    "mistral": {"model_type": "mistral", **_SHAPE, "sliding_window": 6, "tie_word_embeddings": False},
    "phi3": {"model_type": "phi3", **_SHAPE, "sliding_window": None, "tie_word_embeddings": False},
    "gpt_neox": {"model_type": "gpt_neox", **_SHAPE, "tie_word_embeddings": False},
    "gpt2": {"model_type": "gpt2", **_GPT2, **_NO_DROPOUT},
    "cohere": {"model_type": "cohere", **_SHAPE, "logit_scale": 0.25},
    "granite": {"model_type": "granite", **_SHAPE, "logits_scaling": 4.0},
    "phi": {"model_type": "phi", **_SHAPE, "tie_word_embeddings": False},
    "mamba": {
        "model_type": "mamba",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "state_size": 4,
        "num_hidden_layers": 2,
        "initializer_range": 0.2,
    },
}


def make_model(name: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random causal LM of one architecture; the global generator is left alone."""
    config = AutoConfig.for_model(**(ARCHITECTURES[name] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype)


def make_policy(model: Any, layout: Layout = "packed") -> ScoredPolicy:
    """A model in training form."""
    return ScoredPolicy(model, find_backbone(model), find_head, layout)


def make_samples(lengths: Sequence[int], seed: int = 0, vocabulary: int = VOCABULARY) -> list[RenderedSample]:
    """Random rows, about half of their tokens trainable, at least the last."""
    random = np.random.default_rng(seed)
    samples = []
    for length in lengths:
        is_trainable = random.random(length) < 0.5
        is_trainable[-1] = True
        ids = random.integers(0, vocabulary, length).astype(np.int32)
        samples.append(RenderedSample(ids, np.zeros(length, np.uint8), is_trainable))
    return samples


def make_token_rows(samples: Sequence[RenderedSample]) -> TokenRows:
    """The same rows laid end to end, named row-0, row-1, ..."""
    return TokenRows(
        np.concatenate([sample.ids_T for sample in samples]),
        np.concatenate([sample.sources_T for sample in samples]),
        np.concatenate([sample.is_trainable_T for sample in samples]),
        np.cumsum([0, *(len(sample.ids_T) for sample in samples)]),
        [f"row-{index}" for index in range(len(samples))],
        "made-up",
    )


def make_step(samples: Sequence[RenderedSample], groups: Sequence[Sequence[int]] | None = None) -> StepBatch:
    """One step of these rows, cut into micro-batches of the given row numbers (all in one if None)."""
    groups = groups if groups is not None else [range(len(samples))]
    batches = [build_micro_batch([samples[i] for i in group], [f"row-{i}" for i in group]) for group in groups]
    trained = sum(count_scored(sample) for sample in samples)
    return StepBatch(batches, float(trained), sum(len(sample.ids_T) for sample in samples), trained)


def make_updater(
    model: Any,
    layout: Layout = "packed",
    *,
    settings: AdamWSettings | None = None,
    ema_decay: float | None = None,
    max_grad_norm: float | None = None,
) -> Updater:
    """An updater for a model's trainable parameters, in one process, with the loss of SFT."""
    policy = make_policy(model, layout)
    optimizer = MasterOptimizer(model.named_parameters(), settings or AdamWSettings(), ema_decay=ema_decay)
    return Updater(policy, optimizer, Ranks(), compute_sft_loss, max_grad_norm=max_grad_norm)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    """Copies of a model's gradients by parameter name."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """The largest absolute difference of two sets of tensors with the same names."""
    assert ours.keys() == theirs.keys() and ours
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


class ListSink:
    """Keeps metric lines in a list; its position is the number of lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append({"step": step, **values})

    def position(self) -> int:
        return len(self.lines)

    def rewind(self, position: int) -> None:
        del self.lines[position:]

    def close(self) -> None:
        """Nothing is held."""

    def without_times(self) -> list[dict[str, float]]:
        """The lines that must not depend on the clock."""
        return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in self.lines]


def make_context(
    folder: Path, sink: ListSink | None = None, *, seed: int = 17, should_stop: Callable[[], bool] = lambda: False
) -> RunContext:
    """A silent context that never stops by itself."""
    return RunContext(folder, seed, sink or ListSink(), SilentProgress(), should_stop)
