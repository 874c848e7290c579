"""A policy's log-probs of given completions: multiple choice, references, distillation, perplexity.

Rows are packed where that is proven exact, else padded or run one at a time (`models.heads.choose_layout`), rows
of like length together; logits exist only of the completions' tokens, a chunk at a time. A row's last token is
predicted and not read, so that a row may have one token more than the model's context. Shape letters: T tokens of one
completion, N tokens of all completions of a pass, K most probable tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from posttrain.core.errors import DataError
from posttrain.core.records import TopLogprobs
from posttrain.kernels.attention import choose_masked_attention, register_packed_attention
from posttrain.kernels.layouts import Layout, round_up_tokens, run_packed, run_padded
from posttrain.kernels.token_logprobs import RowLogprobs, compute_row_logprobs
from posttrain.models.heads import (
    attention_backend,
    choose_layout,
    evaluation_mode,
    find_backbone,
    find_causal_lm,
    find_head,
)

Ids = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class CompletionLogprobs:
    """What a policy thinks of one given completion.

    Made by `compute_logprobs`, read by scorers, evaluation and stages. `logprobs_T` holds one number a token of the
    completion, nats under the full distribution at the temperature that was asked for; `top` the most probable
    tokens at each position, under the same.

    Example: a completion of two tokens, the first certain and the second a coin toss: `logprobs_T = [0, -0.693]`,
    `total = -0.693`.
    """

    logprobs_T: npt.NDArray[np.float32]
    top: TopLogprobs | None = None

    @property
    def total(self) -> float:
        """The log-prob of the whole completion, in nats; 0 of an empty one."""
        return float(self.logprobs_T.sum(dtype=np.float64))


@torch.no_grad()
def compute_logprobs(
    policy_model: nn.Module,
    prompts: Sequence[Ids],
    completions: Sequence[Ids],
    *,
    top_logprobs: int = 0,
    temperature: float = 1.0,
    micro_batch_tokens: int = 8192,
    layout: Layout | None = None,
) -> list[CompletionLogprobs]:
    """Return a policy's log-probs of each completion after its prompt, in the order given.

    Dropout is off; the model is left in the mode and with the attention that it had.

    Args:
        policy_model: A transformers or PEFT causal LM.
        prompts: Token ids, one prompt for each completion, at least one token long.
        completions: Token ids; an empty one gives an empty result.
        top_logprobs: How many of the most probable tokens to give at each position.
        temperature: Logits are divided by it, > 0.
        micro_batch_tokens: Most tokens of a pass, padding included; a longer row runs alone.
        layout: How rows lie, where it is known; None finds out by running a probe.

    Raises:
        DataError: A prompt is empty (its completion's first token has no predecessor), or a row without its last
            token is longer than the model's context.
        ValueError: The arguments do not belong together.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(completions)} completions for {len(prompts)} prompts")
    if not temperature > 0 or top_logprobs < 0 or micro_batch_tokens < 1:
        raise ValueError("temperature and micro_batch_tokens must be above 0, top_logprobs at least 0")
    causal_lm = find_causal_lm(policy_model)
    check_rows(prompts, completions, getattr(causal_lm.config.get_text_config(), "max_position_embeddings", None))
    rows = [np.concatenate([prompt, ids]).astype(np.int64) for prompt, ids in zip(prompts, completions, strict=True)]
    starts = [len(prompt) for prompt in prompts]
    num_top = min(top_logprobs, find_head(policy_model).weight.shape[0])
    results = [_build_empty(num_top)] * len(rows)
    scored = [index for index in range(len(rows)) if len(completions[index])]
    if not scored:
        return results
    layout = layout or choose_layout(policy_model)
    attention = register_packed_attention() if layout == "packed" else choose_masked_attention(causal_lm)
    with evaluation_mode(policy_model), attention_backend(policy_model, attention):
        for batch in plan_passes([len(row) - 1 for row in rows], scored, micro_batch_tokens, layout):
            lengths = [len(rows[index]) - starts[index] for index in batch]
            scores = _score_rows(
                policy_model, [rows[i] for i in batch], [starts[i] for i in batch], layout, temperature, num_top
            )
            for index, result in zip(batch, _split(scores, lengths), strict=True):
                results[index] = result
    return results


def check_rows(prompts: Sequence[Ids], completions: Sequence[Ids], context: int | None) -> None:
    """Check that every completion has something before it, and fits the model's context with it.

    Raises:
        DataError: A prompt is empty, or a row is longer than the context.
    """
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if not len(prompt):
            raise DataError(
                "the prompt is empty, so that the completion's first token has no predecessor",
                expected="at least one token",
                cure="begin the prompt with the model's BOS token, or with the completion's first token",
                place=f"row {index}",
            )
        if context is not None and len(prompt) + len(completion) - 1 > context:
            raise DataError(
                f"a prompt of {len(prompt)} tokens and a completion of {len(completion)}",
                expected=f"at most {context} tokens and one that is predicted alone: the model's context",
                cure="leave out or shorten this row",
                place=f"row {index}",
            )


def plan_passes(
    lengths: Sequence[int], scored: Sequence[int], micro_batch_tokens: int, layout: Layout
) -> Iterator[list[int]]:
    """Yield row numbers of each pass, longest rows first, so that what does not fit in memory fails at once."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(scored, key=lambda index: -lengths[index]):
        added = lengths[batch[0]] if batch and layout == "padded" else lengths[index]
        if batch and (layout == "single" or tokens + added > micro_batch_tokens):
            yield batch
            batch, tokens, added = [], 0, lengths[index]
        batch.append(index)
        tokens += added
    if batch:
        yield batch


# many parameters: one pass of each of compute_logprobs' own
def _score_rows(
    model: nn.Module,
    rows: Sequence[npt.NDArray[np.int64]],
    starts: Sequence[int],
    layout: Layout,
    temperature: float,
    num_top: int,
) -> RowLogprobs:
    """Run one pass and return the log-probs of all its completions' tokens, row after row."""
    head = find_head(model)
    device = head.weight.device
    lengths = [len(row) - 1 for row in rows]
    begins = np.cumsum([0, *lengths[:-1]])
    scored = np.concatenate(
        [np.arange(begin + start - 1, begin + size) for begin, start, size in zip(begins, starts, lengths, strict=True)]
    )
    targets = np.concatenate([row[start:] for row, start in zip(rows, starts, strict=True)])
    ids = np.concatenate([row[:-1] for row in rows])
    targets_N = torch.from_numpy(targets).to(device)
    scored_N = torch.from_numpy(scored).to(device)
    filler = round_up_tokens(len(ids)) - len(ids) if layout == "packed" else 0
    if filler:  # a row of its own that nothing is read from
        ids = np.concatenate([ids, np.zeros(filler, np.int64)])
        lengths.append(filler)
    run = run_packed if layout == "packed" else run_padded
    hidden_TH = run(find_backbone(model), torch.from_numpy(ids).to(device), lengths)
    # Some backbones (Mamba) give fp32 residuals to a bf16 head.
    hidden_NH = hidden_TH.index_select(0, scored_N).to(head.weight.dtype)
    return compute_row_logprobs(hidden_NH, head, targets_N, temperature=temperature, num_top=num_top)


def _split(scores: RowLogprobs, lengths: Sequence[int]) -> Iterator[CompletionLogprobs]:
    """Yield the scores of each completion of a pass."""
    logprobs = scores.logprobs_N.cpu().numpy()
    top = None
    if scores.top_ids_NK is not None and scores.top_logprobs_NK is not None:
        top = scores.top_ids_NK.int().cpu().numpy(), scores.top_logprobs_NK.cpu().numpy()
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        yield CompletionLogprobs(
            logprobs[part].copy(), TopLogprobs(top[0][part].copy(), top[1][part].copy()) if top is not None else None
        )
        start += length


def _build_empty(num_top: int) -> CompletionLogprobs:
    none = np.empty(0, np.float32)
    if not num_top:
        return CompletionLogprobs(none)
    return CompletionLogprobs(none, TopLogprobs(np.empty((0, num_top), np.int32), np.empty((0, num_top), np.float32)))
