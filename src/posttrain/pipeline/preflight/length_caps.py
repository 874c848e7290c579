"""Whether a task's cap on new tokens leaves room for the answers that its own rows hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from posttrain.evaluation.task import GenerationTask
from posttrain.pipeline.preflight.findings import Figure, Finding
from posttrain.pipeline.preflight.override_names import LENGTH_CAPS
from posttrain.pipeline.preflight.references import Reference

MOST_CUT_FRACTION = 0.2
"""Share of answers cut at the cap above which a task or a stage is refused."""
_CAP_STEP = 8


def compute_cap(lengths: Sequence[int]) -> int:
    """Return a cap for answers of these lengths: their 99th percentile, rounded up to a multiple of 8.

    The percentile is the smallest length that at least 99 % of them do not exceed.

    Args:
        lengths: Tokens of each answer, its stop token among them, at least one answer.
    """
    ordered = sorted(lengths)
    return -(-ordered[math.ceil(0.99 * len(ordered)) - 1] // _CAP_STEP) * _CAP_STEP


def check_length_caps(
    place: str, task: GenerationTask, references: Sequence[Reference], context_tokens: int | None
) -> Finding:
    """Return whether a task's cap holds its rows' own answers, and its prompts leave room for it.

    Args:
        place: What the task is called in findings.
        task: The task.
        references: Some of its rows.
        context_tokens: The model's context; None if it has no limit.
    """
    cap = task.max_new_tokens
    lengths = [len(reference.answer_ids) for reference in references if reference.answer_ids is not None]
    prompts = [len(reference.prompt_ids) for reference in references]
    crowded = sum(context_tokens is not None and prompt + cap > context_tokens for prompt in prompts)
    num_cut = sum(length > cap for length in lengths)
    figures: dict[str, Figure] = {
        "rows": len(references),
        "references": len(lengths),
        "max_new_tokens": cap,
        "references_cut": num_cut,
        "longest_prompt": max(prompts, default=0),
        "prompts_without_room": crowded,
        "proposed_max_new_tokens": compute_cap(lengths) if lengths else None,
    }
    if crowded:
        return Finding(
            place,
            LENGTH_CAPS,
            "refused",
            f"{crowded:,} of {len(prompts):,} prompts (the longest has {max(prompts):,} tokens) leave no room for "
            f"{cap:,} new tokens",
            f"at most {context_tokens:,} tokens together, the model's context",
            _propose_for_context(context_tokens or 0, max(prompts), lengths),
            figures,
            is_overridable=False,  # no sampler takes such a prompt
        )
    if num_cut > MOST_CUT_FRACTION * len(lengths):
        return Finding(
            place,
            LENGTH_CAPS,
            "refused",
            f"{num_cut:,} of {len(lengths):,} reference answers ({num_cut / len(lengths):.0%}) are longer than "
            f"max_new_tokens {cap:,}: a policy that writes them as they are would be cut",
            f"at most {MOST_CUT_FRACTION:.0%} of the references above the cap",
            f"set max_new_tokens: {compute_cap(lengths)} (their 99th percentile, rounded up)",
            figures,
        )
    if not lengths:
        found = "no row ends with an answer that could be measured; every prompt leaves room"
        return Finding(place, LENGTH_CAPS, "skipped", found, figures=figures)
    found = f"{num_cut:,} of {len(lengths):,} reference answers are longer than max_new_tokens {cap:,}"
    return Finding(place, LENGTH_CAPS, "passed", found, figures=figures)


def _propose_for_context(context_tokens: int, longest_prompt: int, lengths: Sequence[int]) -> str:
    room = context_tokens - longest_prompt
    if room < 1 or (lengths and compute_cap(lengths) > room):
        return "leave out or shorten the longest rows, or choose a model with a longer context"
    return f"set max_new_tokens: {room}, or leave out the longest rows"
