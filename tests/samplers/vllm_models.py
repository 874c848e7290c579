"""Tiny models for vLLM itself, a sampler over them, and what transformers says of the same ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.models.publishing import compute_published_logprobs, write_plain_policy
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from posttrain.samplers.vllm import VllmSampler
from posttrain.samplers.vllm_settings import VllmSettings

PYTHON = os.environ.get("POSTTRAIN_VLLM_PYTHON")
NATS = 1e-4
STOP_ID = 2
PROMPTS = {"once": [1, 403, 407], "short": [1], "long": [1, 400, 300, 29, 77, 300, 261, 378], "odd": [1, 77, 5]}
WHOLE = {"whole": [1, *range(259, 400)]}
SEEDS = [11, 12, 13, 14]


def widen_heads(source: Path, target: Path) -> Path:
    """Write a Llama with heads of 32 channels that computes what the one with heads of 8 computes.

    The rotation's pair i of 4 turns as pair 4 i of 16 does (the same power of theta), so channels i and 4 + i
    become 4 i and 16 + 4 i; queries are doubled, because scores are divided by the root of the width.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    places = torch.tensor([*range(0, 16, 4), *range(16, 32, 4)])

    def spread(rows: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        wide = torch.zeros(rows.shape[0] // 8, 32, rows.shape[1])
        wide[:, places] = rows.view(-1, 8, rows.shape[1]) * scale
        return wide.reshape(-1, rows.shape[1])

    changes = {
        "q_proj": lambda w: spread(w, 2.0),
        "k_proj": spread,
        "v_proj": spread,
        "o_proj": lambda w: spread(w.T.contiguous()).T.contiguous(),
    }
    state = {}
    for name, weight in model.state_dict().items():
        change = changes.get(name.split(".")[-2])
        state[name] = weight if change is None else change(weight)
    wide = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "head_dim": 32}))
    wide.load_state_dict(state)
    wide.save_pretrained(target)
    copy_tokenizer(source, target)
    return target


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((source / name).read_bytes())


def write_random(target: Path) -> Path:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (0.5 if "embed" in name else 0.15))
    model.save_pretrained(target)
    return target


def build_settings(dtype: str = "float32", **settings: Any) -> VllmSettings:
    sizes = {"context_tokens": 160, "max_sequences": 16, "cache_bytes": 1 << 26}
    return VllmSettings(Path(str(PYTHON)), dtype=dtype, **(sizes | settings))


def build_sampler(folder: Path, dtype: str = "float32", **settings: Any) -> VllmSampler:
    decode = str
    if (folder / "tokenizer.json").exists():
        decode = HuggingFaceTextTokenizer(AutoTokenizer.from_pretrained(folder)).decode
    return VllmSampler(
        build_settings(dtype, **settings),
        PolicyVersion("first", folder=folder),
        lambda problems: [(PROMPTS | WHOLE)[problem.problem_id] for problem in problems],
        decode,
        export=partial(write_plain_policy, dtype=dtype),
        compute_logprobs=compute_published_logprobs,
        stop_ids=(STOP_ID,),
    )


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def draw(sampler: VllmSampler, settings: SamplingSettings) -> dict[tuple[str, int], Completion]:
    problems = [Problem(name, []) for name in PROMPTS]
    return {(c.problem_id, c.sample_index): c for _, c in sampler.sample(problems, settings, SEEDS)}


def generate(model: Any, prompt: Sequence[int], count: int, **settings: Any) -> list[int]:
    ids = torch.tensor([list(prompt)])
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0} | settings
    drawn = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **settings)
    return drawn[0, len(prompt) :].tolist()


@torch.no_grad()
def compute_logprobs_TV(model: Any, completion: Completion) -> torch.Tensor:
    ids = torch.tensor([[*completion.prompt_ids.tolist(), *completion.ids.tolist()]])
    return model(ids).logits[0, len(completion.prompt_ids) - 1 : -1].double().log_softmax(-1)


def assert_logprobs_agree(model: Any, completion: Completion, nats: float = NATS) -> None:
    logprobs_TV = compute_logprobs_TV(model, completion)
    expected = logprobs_TV.gather(1, torch.tensor(completion.ids, dtype=torch.long)[:, None])[:, 0]
    np.testing.assert_allclose(completion.sampler_logprobs, expected.numpy(), atol=nats)


@torch.no_grad()
def perturb(model: Any, scale: float = 0.02) -> Any:
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator).to(weight.dtype) * scale)
    return model
