"""The keys that choose who draws a stage's completions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from posttrain.core.config import Config, display_field


class VllmKeys(Config):
    """vLLM, in a process and an environment of its own (docs/sampling.md)."""

    type: Literal["vllm"]
    python: str | None = display_field(
        None, description="the Python of the environment that has vLLM; a path starts at the recipe's folder"
    )
    dtype: Literal["bfloat16", "float32", "float16"] | None = Field(None, description="None: the stage's")
    context_tokens: int | None = Field(None, ge=2, description="None: the model's own context")
    max_sequences: int = Field(64, ge=1)
    cache_gb: float | None = Field(None, gt=0, description="None: 4 on a CPU, vLLM's share of the memory on a GPU")
    engine_arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of vLLM's EngineArgs")


SamplerKeys = Literal["local"] | VllmKeys
