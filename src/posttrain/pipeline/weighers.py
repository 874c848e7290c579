"""Weighers from policies: log-probs of given texts, prompts that several completions share computed once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from posttrain.chat.rendering import Renderer
from posttrain.evaluation.weighing import Weigher
from posttrain.models.branch_logprobs import compute_branch_logprobs
from posttrain.models.heads import choose_layout
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import read_context_tokens
from posttrain.models.logprobs import compute_logprobs


def build_weigher(policy: LoadedPolicy, renderer: Renderer, folder: Path) -> Weigher:
    """Return what weighs texts by a loaded policy.

    Args:
        policy: The policy.
        renderer: Turns problems into tokens.
        folder: Where the policy lies, which says how long its context is.
    """
    layout = choose_layout(policy.model)
    return Weigher(
        policy.hash,
        partial(compute_logprobs, policy.model, layout=layout),
        partial(compute_branch_logprobs, policy.model, layout=layout),
        renderer,
        read_context_tokens(folder),
    )
