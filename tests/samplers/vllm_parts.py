"""A sampler over the stand-in for vLLM, and looking for processes that are left."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.samplers.vllm import VllmSampler
from posttrain.samplers.vllm_settings import VllmSettings

FAKE = Path(__file__).resolve().parent / "fake_vllm"
VOCABULARY = 64
PROMPTS = {"p0": [5], "p1": [7, 9, 11], "p2": [20, 1], "ends": [57], "wrong": [99], "empty": [], "long": [1] * 120}
STOP_ID = 60


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(97 + token % 26) for token in ids)


def write_policy(folder: Path, shift: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"shift": shift}))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": STOP_ID, "content": "<end>"}]}))
    return folder


def export(policy: PolicyVersion, folder: Path) -> None:
    write_policy(folder, policy.model)


def compute_logprobs(policy: PolicyVersion, ids: Sequence[int]) -> list[float]:
    shift = policy.model
    if shift is None:
        shift = json.loads((policy.folder / "config.json").read_text())["shift"]
    return [-((b - a - shift) % VOCABULARY) / 10 for a, b in itertools.pairwise(ids)]


def build_settings(faults: dict[str, Any] | None = None, **settings: Any) -> VllmSettings:
    environment = {"PYTHONPATH": str(FAKE), "FAKE_VLLM": json.dumps(faults or {})}
    return VllmSettings(Path(sys.executable), dtype="float32", environment=environment, **settings)


def build_sampler(policy: PolicyVersion, faults: dict[str, Any] | None = None, **settings: Any) -> VllmSampler:
    return VllmSampler(
        build_settings(faults, **settings),
        policy,
        lambda problems: [PROMPTS[problem.problem_id] for problem in problems],
        decode,
        export=export,
        compute_logprobs=compute_logprobs,
        stop_ids=(STOP_ID,),
    )


def draw(
    sampler: Any, settings: SamplingSettings, names: Sequence[str] = ("p0", "p1", "p2")
) -> dict[tuple[int, int], Completion]:
    """Everything that is drawn, by problem and sample, with the seeds 100, 101, ..."""
    problems = [Problem(name, []) for name in names]
    seeds = range(100, 100 + len(names))
    return {(index, drawn.sample_index): drawn for index, drawn in sampler.sample(problems, settings, seeds)}


def pids_of(sampler: VllmSampler) -> list[int]:
    """The keeper and the engine."""
    return [sampler._process._process.pid, *sampler._process._engine]


def is_alive(pid: int) -> bool:
    """Whether a process exists; a zombie does."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(holds: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return bool(holds())
