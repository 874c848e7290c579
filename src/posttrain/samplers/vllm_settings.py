"""vLLM's settings, and what a sampling setting becomes for it: exactly the same, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.core.errors import RecipeError
from posttrain.core.sampling import MAX_TOP_LOGPROBS, SamplingSettings, TokenConstraint

SUPPORTED_VERSION = "0.32."
"""The release whose internals (reload, log-probs, the order of a draw) this was read and tested against."""

LOWEST_TEMPERATURE = 0.01
HIGHEST_TEMPERATURE = 2.0
PROBE_TOLERANCE_NATS = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""Mean absolute difference of log-probs that rounding explains, by the engine's precision."""

_OWN_ARGUMENTS = {
    "model",
    "tokenizer",
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "enforce_eager",
    "kv_cache_memory_bytes",
    "skip_tokenizer_init",
    "logprobs_mode",
    "max_logprobs",
    "generation_config",
    "load_format",
    "structured_outputs_config",
    "disable_log_stats",
}


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How vLLM runs: its Python, its size, and how long it may take.

    Made by the wiring from a recipe, read by `VllmSampler`.

    Args:
        python: The Python of the environment that vLLM is installed in.
        dtype: Precision of weights and computation.
        context_tokens: Most tokens of prompt and completion together; None: the model's own context.
        max_sequences: Completions that are drawn at the same time, >= 1.
        is_compiled: Compile the model, and capture graphs on a GPU: a slower start, faster draws. None: on
            a GPU alone.
        cache_bytes: Memory for keys and values; None: 4 GiB on a CPU, vLLM's share of the memory on a GPU.
        probe_ids: The sequence whose log-probs prove which weights vLLM holds; () is one of 48 tokens.
        probe_tolerance_nats: Mean absolute difference that the proof allows; None: see `PROBE_TOLERANCE_NATS`.
        engine_arguments: Further arguments of vLLM's EngineArgs (`tensor_parallel_size`, say).
        environment: Variables set for vLLM's process beside this process's own.
        start_timeout_seconds: How long vLLM may take to be ready.
        stall_timeout_seconds: How long it may take no step while it has something to do.
        scratch_folder: Where published weights are put until vLLM has read them; None: the system's place
            for temporary files.
        log_file: Where vLLM's own output is kept; None: nowhere but in the messages of errors.

    Raises:
        RecipeError: A value is outside its range, or an argument is set by this class in another field.
    """

    python: Path
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    context_tokens: int | None = None
    max_sequences: int = 64
    is_compiled: bool | None = None
    cache_bytes: int | None = None
    probe_ids: tuple[int, ...] = ()
    probe_tolerance_nats: float | None = None
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    start_timeout_seconds: float = 900.0
    stall_timeout_seconds: float = 600.0
    scratch_folder: Path | None = None
    log_file: Path | None = None

    def __post_init__(self) -> None:
        _check("dtype", self.dtype, self.dtype in PROBE_TOLERANCE_NATS, " or ".join(PROBE_TOLERANCE_NATS))
        if self.context_tokens is not None:
            _check("context_tokens", self.context_tokens, self.context_tokens >= 2, "a whole number from 2, or none")
        _check("max_sequences", self.max_sequences, self.max_sequences >= 1, "a whole number from 1")
        if self.cache_bytes is not None:
            _check("cache_bytes", self.cache_bytes, self.cache_bytes >= 1, "a number of bytes, or none")
        _check("probe_ids", list(self.probe_ids), len(self.probe_ids) != 1, "at least two token ids, or none")
        for name in ("start_timeout_seconds", "stall_timeout_seconds"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        _check("probe_tolerance_nats", self.probe_tolerance_nats, self.tolerance_nats > 0, "above 0, or none")
        taken = sorted(_OWN_ARGUMENTS & set(self.engine_arguments))
        _check("engine_arguments", taken, not taken, "arguments that no other setting stands for")

    @property
    def tolerance_nats(self) -> float:
        """Mean absolute difference of the probe's log-probs that is taken for rounding."""
        return PROBE_TOLERANCE_NATS[self.dtype] if self.probe_tolerance_nats is None else self.probe_tolerance_nats


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a started engine says of itself.

    Made by `vllm_process.py`, read by `VllmSampler`. `is_seeded`: a seed makes a draw repeatable.
    """

    version: str
    context_tokens: int
    vocabulary_size: int
    is_seeded: bool
    start_seconds: float


def build_engine_arguments(settings: VllmSettings, folder: Path, tokenizer: Path | None) -> dict[str, Any]:
    """Return the arguments of vLLM's EngineArgs.

    Args:
        settings: How vLLM runs.
        folder: The model's folder, plain Hugging Face format.
        tokenizer: The tokenizer's folder; without one vLLM knows no texts, only ids.
    """
    return {
        **settings.engine_arguments,
        "model": str(folder),
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "skip_tokenizer_init": tokenizer is None,
        "dtype": settings.dtype,
        "max_model_len": settings.context_tokens,
        "max_num_seqs": settings.max_sequences,
        "enforce_eager": None if settings.is_compiled is None else not settings.is_compiled,
        "kv_cache_memory_bytes": settings.cache_bytes,
        "load_format": "safetensors",
        "generation_config": "vllm",  # nothing of a draw is taken from the model's folder
        "logprobs_mode": "raw_logprobs",
        "max_logprobs": MAX_TOP_LOGPROBS,
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
    }


def check_settings(settings: SamplingSettings, engine: EngineInfo, *, has_tokenizer: bool) -> None:
    """Refuse what vLLM would draw otherwise than the settings say.

    Raises:
        RecipeError: Names the setting.
    """
    low, high = LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE
    if settings.temperature and not low <= settings.temperature <= high:
        raise _refuse(
            "temperature", f"temperature {settings.temperature:g}", f"0 or {low:g} to {high:g}, which vLLM takes as is"
        )
    if settings.min_p is not None and settings.top_p is not None:
        raise _refuse(
            "min_p",
            "min_p beside top_p, and vLLM cuts by min_p first, so that top_p keeps fewer tokens",
            "one of the two: the order here is top-p, then min-p",
        )
    if settings.top_logprobs > engine.vocabulary_size:
        raise _refuse(
            "top_logprobs", f"top_logprobs {settings.top_logprobs}", f"at most the vocabulary, {engine.vocabulary_size}"
        )
    outside = [token for token in settings.stop_ids if not 0 <= token < engine.vocabulary_size]
    if outside:
        raise _refuse("stop_ids", f"stop id {outside[0]}", f"ids below {engine.vocabulary_size}")
    if not has_tokenizer and (settings.stop_strings or settings.constraint):
        name = "stop_strings" if settings.stop_strings else "constraint"
        raise _refuse(name, f"{name}, and the policy's folder has no tokenizer", "a tokenizer.json beside the weights")


def check_constraint(settings: SamplingSettings, policy_stop_ids: Sequence[int]) -> None:
    """Refuse a constraint that could not end.

    Raises:
        RecipeError: The policy has no stop token, or is told to draw on past it.
    """
    if settings.constraint is None:
        return
    if settings.ignore_eos:
        raise _refuse("ignore_eos", "ignore_eos beside a constraint, whose end is the stop token", "one of the two")
    if not policy_stop_ids:
        raise _refuse("constraint", "a constraint, and the policy has no stop token to end it", "a policy that stops")


def build_parameters(settings: SamplingSettings, policy_stop_ids: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's SamplingParams, but for the seed.

    vLLM's own idea of an end of sequence is switched off: the stop tokens are those that are named here.
    """
    own = () if settings.ignore_eos else tuple(policy_stop_ids)
    parameters: dict[str, Any] = {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": 1.0 if settings.top_p is None else settings.top_p,
        "top_k": settings.top_k or 0,
        "min_p": settings.min_p or 0.0,
        "repetition_penalty": 1.0 if settings.repetition_penalty is None else settings.repetition_penalty,
        "stop_token_ids": list(dict.fromkeys([*own, *settings.stop_ids])),
        "ignore_eos": True,
        "logprobs": settings.top_logprobs,
        "detokenize": bool(settings.stop_strings),
    }
    if settings.stop_strings:
        # Stop strings are looked for in the text as this project decodes it: special tokens kept.
        parameters |= {
            "stop": list(settings.stop_strings),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
    return parameters


def build_constraint(constraint: TokenConstraint | None) -> dict[str, str] | None:
    """Return the arguments of vLLM's StructuredOutputsParams."""
    if constraint is None:
        return None
    return {{"json_schema": "json", "regex": "regex", "lark": "grammar"}[constraint.kind]: constraint.text}


def _check(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise RecipeError(f"{name} is {value}", expected=expected, cure=f"set {name} to {expected}", place=name)


def _refuse(name: str, found: str, expected: str) -> RecipeError:
    return RecipeError(
        found, expected=expected, cure=f"change {name}, or draw with another sampler than vLLM", place=name
    )
