"""The record of a policy in memory, and where each part of it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.models.manifest import Manifest


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy ready to sample from, to score with, or to train on.

    Made by `models/loading.py`; `models/adapters.py` returns changed copies; read by stages, samplers and
    `models/artifacts.save_policy`.

    Args:
        model: A transformers model, or a PEFT model whose adapters are all active in order.
        tokenizer: The transformers fast tokenizer; pad may equal eos and is left as it is.
        chat_template: The tokenizer's own template text, or None for a base without one.
        tokenizer_eos_ids: What the tokenizer calls end of sequence (none or one id).
        generation_eos_ids: The stop ids of generation_config.json (an artifact's are its pinned ones).
        hash: Name of the content: an artifact's hash, else the weights' hash.
        base_hash: Content hash of the base weights, without adapters; "" after a merge, until saved.
        base_folder: Where the base weights lie on disk, so that saving links them; None after a merge.
        adapters: Names of the adapters, in order.
        folder: Where the policy was loaded from.
        manifest: The artifact's manifest; None for a folder from elsewhere.

    Example: an artifact of an SFT with LoRA has `adapters == ("00-sft",)`, `base_folder` ending in
    `/base`, and a `base_hash` that is equal before and after the stage.
    """

    model: Any
    tokenizer: Any
    chat_template: str | None
    tokenizer_eos_ids: tuple[int, ...]
    generation_eos_ids: tuple[int, ...]
    hash: str
    base_hash: str
    base_folder: Path | None
    adapters: tuple[str, ...]
    folder: Path
    manifest: Manifest | None = None
