"""A causal LM with random weights: the lab's starting point, and what tests build their models with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from posttrain.core.errors import ModelError
from posttrain.models.validation import quiet_transformers


def make_model(architecture: Mapping[str, Any], tokenizer: Any, seed: int) -> Any:
    """Return a float32 model on the CPU whose weights are a function of its architecture and the seed.

    Args:
        architecture: A transformers configuration: `model_type` and what it takes. `vocab_size` defaults to
            the tokenizer's size, special token ids to the tokenizer's.
        tokenizer: The transformers tokenizer that will feed it.
        seed: Decides the weights; the global random state is left as it was.

    Raises:
        ModelError: transformers has no such causal LM, or the vocabulary does not hold the tokenizer.

    Example: `make_model({"model_type": "llama", "hidden_size": 64, ...}, tokenizer, seed=17)`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | dict(architecture)
    if values["vocab_size"] < len(tokenizer):
        raise ModelError(
            f"vocab_size {values['vocab_size']}",
            expected=f"at least the tokenizer's {len(tokenizer)} tokens",
            cure="raise vocab_size or leave it out",
            place="architecture",
        )
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.float32)
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise ModelError(
            f"no model can be made: {str(error)[:300]}",
            expected="a transformers configuration with a model_type that has a causal LM",
            cure="correct the architecture",
            place="architecture",
        ) from None
    return model.eval()
