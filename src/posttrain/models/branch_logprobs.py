"""A policy's log-probs of several continuations of one prompt: the prompt is computed once for all of them.

Multiple choice asks for the likelihoods of a question's answers. Where packed rows are proven exact for a model
(`models.heads.choose_layout`) the answers share one prompt (`kernels.shared_prefix`), whose tokens are run once; an
answer's last token is not run at all, since nothing follows it. Elsewhere every answer is a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from posttrain.kernels.attention import register_packed_attention
from posttrain.kernels.layouts import Layout, round_up_tokens, run_families
from posttrain.kernels.shared_prefix import lay_out_families
from posttrain.kernels.token_logprobs import compute_row_logprobs
from posttrain.models.heads import (
    attention_backend,
    choose_layout,
    evaluation_mode,
    find_backbone,
    find_causal_lm,
    find_head,
)
from posttrain.models.logprobs import CompletionLogprobs, Ids, check_rows, compute_logprobs, plan_passes


@dataclass(frozen=True, slots=True)
class Branching:
    """A prompt and its continuations, as token ids; every one has at least one token."""

    prompt: Ids
    completions: Sequence[Ids]

    @property
    def num_tokens(self) -> int:
        """Tokens that are run: the prompt's, and of each continuation all but the last."""
        return len(self.prompt) + sum(len(ids) - 1 for ids in self.completions)


@torch.no_grad()
def compute_branch_logprobs(
    policy_model: nn.Module,
    branchings: Sequence[Branching],
    *,
    micro_batch_tokens: int = 8192,
    layout: Layout | None = None,
) -> list[list[CompletionLogprobs]]:
    """Return a policy's log-probs of each continuation of each prompt, in the order given.

    Dropout is off; the model is left in the mode and with the attention that it had.

    Args:
        policy_model: A transformers or PEFT causal LM.
        branchings: Prompts, each at least one token long, with what is to be weighed after them.
        micro_batch_tokens: Most tokens of a pass; a longer prompt with its continuations runs alone.
        layout: How rows lie, where it is known; None finds out by running a probe.

    Raises:
        DataError: A prompt is empty, or with a continuation longer than the model's context.
    """
    layout = layout or choose_layout(policy_model)
    causal_lm = find_causal_lm(policy_model)
    config = causal_lm.config.get_text_config()
    prompts = [one.prompt for one in branchings for _ in one.completions]
    completions = [ids for one in branchings for ids in one.completions]
    if layout != "packed" or getattr(config, "attn_logit_softcapping", None) is not None:
        return _regroup(
            branchings,
            compute_logprobs(policy_model, prompts, completions, micro_batch_tokens=micro_batch_tokens, layout=layout),
        )
    check_rows(prompts, completions, getattr(config, "max_position_embeddings", None))
    results: list[list[CompletionLogprobs]] = [[]] * len(branchings)
    with evaluation_mode(policy_model), attention_backend(policy_model, register_packed_attention()):
        sizes = [one.num_tokens for one in branchings]
        for batch in plan_passes(sizes, range(len(sizes)), micro_batch_tokens, "packed"):
            for index, found in zip(batch, _run(policy_model, [branchings[i] for i in batch]), strict=True):
                results[index] = found
    return results


def _regroup(branchings: Sequence[Branching], weighed: Sequence[CompletionLogprobs]) -> list[list[CompletionLogprobs]]:
    found = iter(weighed)
    return [[next(found) for _ in one.completions] for one in branchings]


def _run(model: nn.Module, branchings: Sequence[Branching]) -> list[list[CompletionLogprobs]]:
    """Run one pass and return the log-probs of its continuations."""
    head = find_head(model)
    device = head.weight.device
    ids: list[int] = []
    sizes: list[list[int]] = []
    targets: list[int] = []
    predictors: list[int] = []
    for one in branchings:
        ids += map(int, one.prompt)
        last = len(ids) - 1
        for completion in one.completions:
            start = len(ids)
            ids += map(int, completion[:-1])
            targets += map(int, completion)
            predictors += [last, *range(start, len(ids))]
        sizes.append([len(one.prompt), *(len(part) - 1 for part in one.completions if len(part) > 1)])
    filler = round_up_tokens(len(ids)) - len(ids)
    if filler:  # a family of its own that nothing is read from
        ids += [0] * filler
        sizes.append([filler])
    num_targets = len(targets)
    added = round_up_tokens(num_targets) - num_targets  # few distinct shapes for the head too
    predictors += [0] * added
    targets += [0] * added
    hidden_TH = run_families(find_backbone(model), torch.tensor(ids, device=device), lay_out_families(sizes))
    hidden_NH = hidden_TH.index_select(0, torch.tensor(predictors, device=device)).to(head.weight.dtype)
    scores = compute_row_logprobs(hidden_NH, head, torch.tensor(targets, device=device), temperature=1.0, num_top=0)
    logprobs = scores.logprobs_N[:num_targets].cpu().numpy()
    ends = np.cumsum([len(completion) for one in branchings for completion in one.completions])
    return _regroup(branchings, [CompletionLogprobs(part.copy()) for part in np.split(logprobs, ends[:-1])])
