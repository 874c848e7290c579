"""Who draws a stage's completions: the engine of this process or vLLM, over one process or several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.errors import RefusedError
from posttrain.core.sampling import PolicyVersion, Sampler
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.publishing import compute_published_logprobs, write_plain_policy
from posttrain.models.shadow import compute_plain_logprobs
from posttrain.pipeline.estimates import DTYPES
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.sampling import build_prompt_renderer, build_sampler
from posttrain.pipeline.tracked_metric import hash_weights_in_memory
from posttrain.samplers.generate import GenerateSampler
from posttrain.samplers.vllm import VllmSampler
from posttrain.samplers.vllm_settings import PROBE_TOLERANCE_NATS, SUPPORTED_VERSION, VllmSettings
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.sampler_keys import VllmKeys
from posttrain.training.distributed import Ranks, release_gathered
from posttrain.training.policy import ScoredPolicy

PYTHON_VARIABLE = "POSTTRAIN_VLLM_PYTHON"
"""The environment variable that names vLLM's Python where a recipe does not."""
# By the package that is imported: vLLM's builds are distributed under several names.
_VERSION_PROGRAM = "import importlib.metadata as m; print(m.version(m.packages_distributions()['vllm'][0]))"
_VERSION_SECONDS = 60.0


@dataclass(slots=True)
class StageSampler:
    """A stage's sampler and what belongs to it.

    `rest` gives back between steps what only drawing needs; `notes` say how it was chosen. `scored` is set once the
    policy is in training form: sharded weights are read through it.
    """

    sampler: Sampler
    rest: Callable[[], None]
    notes: list[str]
    scored: ScoredPolicy | None = None


def build_stage_sampler(
    config: GrpoConfig, policy: LoadedPolicy, renderer: Renderer, ranks: Ranks, roots: Roots
) -> StageSampler:
    """Return what draws a stage's completions, before the policy is brought into training form.

    Raises:
        RefusedError: The sampler cannot serve several processes, or is not installed.
        SamplerError: It does not hold the policy.
    """
    check_stage_sampler(config, ranks, roots)
    if isinstance(config.sampler, VllmKeys):
        vllm = _build_vllm(config.sampler, config.dtype, policy, renderer, roots)
        notes = [] if vllm.is_repeatable else ["vLLM's draws are not repeatable here: a resumed run draws others"]
        return StageSampler(vllm, lambda: None, notes)
    made: StageSampler | None = None

    def compute_reference(model: Any, ids_T: torch.Tensor) -> torch.Tensor:
        scored = made.scored if made is not None else None
        if scored is None or ranks.count == 1:
            return compute_plain_logprobs(model, ids_T)
        found = scored.read_whole(lambda whole: compute_plain_logprobs(whole, ids_T))
        release_gathered(scored)
        return found

    with torch.random.fork_rng(devices=[]):
        sampler, notes = build_sampler(
            policy, renderer, dtype=DTYPES[config.dtype], compute_reference=compute_reference
        )
    if ranks.count > 1 and isinstance(sampler, GenerateSampler):
        raise RefusedError(
            f"{ranks.count} processes, and a model that {notes[0].partition(': ')[2]}",
            expected="a model that the engine draws from a copy of its own: sharded weights cannot be drawn from",
            cure="start it without torchrun",
            place="sampler",
        )
    made = StageSampler(sampler, sampler.close, notes)
    return made


def check_stage_sampler(config: GrpoConfig, ranks: Ranks, roots: Roots) -> None:
    """Check that a stage's sampler is installed and serves as many processes.

    Raises:
        RefusedError: It is not, or does not.
    """
    if ranks.count > 1 and config.rollout_tokens_per_step is not None:
        raise RefusedError(
            f"rollout_tokens_per_step in a run of {ranks.count} processes",
            expected="one process: what is set aside is one process's to carry on",
            cure="start it without torchrun, or leave rollout_tokens_per_step out",
            place="rollout_tokens_per_step",
        )
    keys = config.sampler
    if not isinstance(keys, VllmKeys):
        return
    if ranks.count > 1:
        raise RefusedError(
            f"sampler: vllm in a run of {ranks.count} processes",
            expected="one process that trains; vLLM itself may use several devices (engine_arguments)",
            cure="start it without torchrun, or set sampler: local",
            place="sampler",
        )
    python = find_vllm_python(keys, roots)
    version = _read_version(python)
    if version is None or not version.startswith(SUPPORTED_VERSION):
        raise RefusedError(
            f"{python} has " + ("no vLLM" if version is None else f"vLLM {version}"),
            expected=f"the Python of an environment with vLLM {SUPPORTED_VERSION}*",
            cure=f"install it (docs/sampling.md says how) and name its Python: sampler: {{type: vllm, python: ...}} or "
            f"the environment variable {PYTHON_VARIABLE}; or set sampler: local",
            place="sampler: python",
        )


def find_vllm_python(keys: VllmKeys, roots: Roots) -> Path:
    """Return vLLM's Python: the recipe's, else the environment's, else this one."""
    if keys.python is not None:
        return roots.base / Path(keys.python).expanduser()
    return Path(os.environ.get(PYTHON_VARIABLE) or sys.executable)


def _read_version(python: Path) -> str | None:
    """Return the version of vLLM that a Python has, None if it has none or cannot be run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [str(python), "-c", _VERSION_PROGRAM],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _build_vllm(keys: VllmKeys, dtype: str, policy: LoadedPolicy, renderer: Renderer, roots: Roots) -> VllmSampler:
    chosen = keys.dtype or dtype
    settings = VllmSettings(
        find_vllm_python(keys, roots),
        dtype=chosen,  # type: ignore[arg-type]  # the stage's is one of vLLM's
        context_tokens=keys.context_tokens,
        max_sequences=keys.max_sequences,
        cache_bytes=None if keys.cache_gb is None else int(keys.cache_gb * 1e9),
        # The policy's own log-probs round by its precision, vLLM's by its: the coarser one decides.
        probe_tolerance_nats=max(PROBE_TOLERANCE_NATS[chosen], PROBE_TOLERANCE_NATS[dtype]),
        engine_arguments=keys.engine_arguments,
    )
    # By the name that the same weights are published under before the first step: they are no other policy's.
    name = hash_weights_in_memory(policy, dtype=DTYPES[dtype])
    return VllmSampler(
        settings,
        PolicyVersion(name, model=policy.model, folder=policy.folder),
        build_prompt_renderer(renderer),
        renderer.tokenizer.decode,
        export=partial(write_plain_policy, dtype=chosen),
        compute_logprobs=compute_published_logprobs,
        stop_ids=renderer.format.stop_ids,
    )
