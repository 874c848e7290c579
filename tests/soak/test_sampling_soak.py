"""Ten thousand calls of the sampler with random settings, some closed early: nothing is left behind.

Resident memory is read with the collector run and compared between the second and the last third of the calls. Within
the first, memory grows by what is made once: buffers of the allocator, constraints' tables, and in bf16 a kernel for
every distinct shape of a product (`samplers.kv_cache.TOKEN_MULTIPLE`), about a hundred megabytes on a processor with
matrix tiles.
"""

from __future__ import annotations

import gc
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import SamplingSettings, TokenConstraint
from posttrain.kernels.cached_attention import Prefill
from posttrain.pipeline.sampling import build_engine_model
from posttrain.samplers.constraints import ConstraintCompiler
from posttrain.samplers.local import EngineOptions, LocalSampler
from tests.chat.formats import build_backend
from tests.training.tiny import make_model

CALLS = 5_000  # of each precision
GROWTH_BYTES = 16_000_000
"""How much more memory may be held in the last third than in the second: a leak of 10 kB a call would show."""
PROMPT_LENGTHS = (1, 2, 3, 7, 16, 31, 32, 33, 60)
CONSTRAINTS = (
    TokenConstraint("regex", "[a-z]{1,9}( [a-z]{1,9})*"),
    TokenConstraint("json_schema", json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}})),
    TokenConstraint("lark", 'start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/'),
)


class Workshop:
    """An engine over a random model with a small tokenizer, and a stream of random calls."""

    def __init__(self, dtype: torch.dtype) -> None:
        text = build_backend("bytes")
        tokenizer = Tokenizer.from_str(text)
        self.size = tokenizer.get_vocab_size()
        self.random = random.Random(17)
        self.prompts: list[list[int]] = []
        model = make_model("llama", vocab_size=self.size, dtype=dtype, initializer_range=0.3).eval()
        self.sampler = LocalSampler(
            build_engine_model(model, dtype),
            "policy",
            lambda problems: [self.prompts[int(problem.problem_id)] for problem in problems],
            lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False),
            stop_ids=[self.size - 1],
            constraints=ConstraintCompiler(text, self.size),
            options=EngineOptions(max_rows=8, prefill_tokens=64),
        )

    def pick(self, *values: Any, off: float = 0.7) -> Any:
        """One of some values, or None."""
        return None if self.random.random() < off else self.random.choice(values)

    def draw_settings(self) -> SamplingSettings:
        """Random settings without a contradiction."""
        draw = self.random
        common: dict[str, Any] = {
            "max_new_tokens": draw.randint(1, 24),
            "repetition_penalty": self.pick(0.8, 1.1, 1.5),
            "stop_ids": tuple(draw.sample(range(self.size), draw.randint(0, 20))),
            "stop_strings": self.pick(("e",), ("a", "the"), (" \n", "é")) or (),
            "ignore_eos": draw.random() < 0.2,
            "top_logprobs": self.pick(1, 5, 128) or 0,
        }
        if common["stop_ids"] or not common["ignore_eos"]:
            common["constraint"] = self.pick(*CONSTRAINTS, off=0.9)
        if draw.random() < 0.2:
            return SamplingSettings(**common)
        return SamplingSettings(
            **common,
            temperature=draw.choice((0.3, 1.0, 1.7)),
            top_p=self.pick(0.5, 0.95),
            top_k=self.pick(1, 20, 10_000),
            min_p=self.pick(0.01, 0.3),
            num_samples=draw.randint(1, 4),
        )

    def call(self) -> tuple[int, bool]:
        """One call; return how many completions were read, and whether it was closed early."""
        draw = self.random
        count = draw.randint(1, 4)
        self.prompts = [draw.choices(range(self.size), k=draw.choice(PROMPT_LENGTHS)) for _ in range(count)]
        settings = self.draw_settings()
        problems = [Problem(str(index), []) for index in range(count)]
        wanted = draw.randint(0, count * settings.num_samples) if draw.random() < 0.3 else count * settings.num_samples
        iterator = self.sampler.sample(problems, settings, [draw.getrandbits(63) for _ in problems])
        for number in range(wanted):
            index, completion = next(iterator)
            self.check(completion, self.prompts[index], settings)
            assert number < wanted
        is_cut = wanted < count * settings.num_samples
        if not is_cut:
            assert next(iterator, None) is None
        iterator.close()  # type: ignore[attr-defined]
        return wanted, is_cut

    def check(self, completion: Completion, prompt: list[int], settings: SamplingSettings) -> None:
        """A completion is whole."""
        T = len(completion.ids)
        assert completion.prompt_ids.tolist() == prompt and 1 <= T <= settings.max_new_tokens
        assert completion.sampler_logprobs is not None and completion.drawing_logprobs is not None
        assert completion.sampler_logprobs.shape == completion.drawing_logprobs.shape == (T,)
        assert (completion.sampler_logprobs <= 1e-6).all() and (completion.drawing_logprobs <= 1e-6).all()
        assert (completion.top_logprobs is not None) == bool(settings.top_logprobs)
        assert completion.finish_reason == "stop" or settings.max_new_tokens == T


def count_held() -> tuple[int, int, int]:
    """Resident bytes, open files and threads of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task"))
    return pages * os.sysconf("SC_PAGE_SIZE"), files, threads


@pytest.mark.soak
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_calls_leave_neither_memory_nor_files_nor_threads_behind(dtype: torch.dtype) -> None:
    if not Path("/proc/self/statm").is_file():
        pytest.skip("resident memory is read from /proc")
    workshop = Workshop(dtype)
    held: list[tuple[int, int, int]] = []
    read = cut = 0
    for number in range(CALLS):
        wanted, is_cut = workshop.call()
        read, cut = read + wanted, cut + is_cut
        if number % 100 == 99:
            held.append(count_held())
    assert workshop.sampler._cache.num_bytes == 0
    assert read > 3 * CALLS and cut > CALLS // 10
    second, last = held[len(held) // 3 : 2 * len(held) // 3], held[2 * len(held) // 3 :]
    most, later = (max(memory for memory, _, _ in part) for part in (second, last))
    print(f"{dtype}: {[memory // 1_000_000 for memory, _, _ in held]} MB")
    assert later - most <= GROWTH_BYTES, f"{later - most:,} bytes more in the last third"
    assert len({(files, threads) for _, files, threads in second + last}) == 1


def test_passes_come_in_few_shapes() -> None:
    """In bf16 a kernel of 1 to 3 MB is made and kept for every number of rows of every product."""
    model = build_engine_model(make_model("llama", max_position_embeddings=1024).eval(), torch.float32)
    shapes: dict[bool, set[int]] = {True: set(), False: set()}

    def run(**arguments: Any) -> Any:
        shapes[isinstance(arguments["cached_step"], Prefill)].add(arguments["input_ids"].shape[1])
        return model.backbone(**arguments)

    sampler = LocalSampler(
        replace(model, backbone=run),
        "policy",
        lambda problems: [[5] * int(problem.problem_id) for problem in problems],
        lambda ids: "",
        options=EngineOptions(max_rows=64, prefill_tokens=512),
    )
    settings = SamplingSettings(max_new_tokens=2, temperature=1.0)
    for length in range(1, 513):
        assert len(list(sampler.sample([Problem(str(length), [])], settings, [0]))) == 1
    for count in range(1, 65):
        assert len(list(sampler.sample([Problem("3", [])] * count, settings, [0] * count))) == count
    assert len(shapes[False]) <= 16  # up to eight rows, and then multiples of eight
    assert len(shapes[True]) <= 80
