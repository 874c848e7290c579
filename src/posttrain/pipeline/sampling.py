"""Samplers from policies: the house's engine where a probe shows that it runs the model, else transformers' cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.records import Problem, TokenizedProblem
from posttrain.core.sampling import Sampler
from posttrain.models.heads import check_head, depends_on_longest_row, find_backbone, find_head, is_packing_exact
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.shadow import Shadow, compute_plain_logprobs
from posttrain.models.stacking import stack_linears
from posttrain.pipeline.compiled import choose_decode
from posttrain.samplers.constraints import ConstraintCompiler
from posttrain.samplers.generate import GenerateSampler
from posttrain.samplers.local import EngineModel, EngineOptions, LocalSampler, PromptRenderer
from posttrain.samplers.probing import UnmanagedCacheError, probe_layers

LiveLogprobs = Callable[[Any, torch.Tensor], torch.Tensor]
"""Gives the log-probs [T - 1] of a row's tokens after the first, under a live model."""


def find_context_tokens(model: Any) -> int | None:
    """Return the longest row that a model takes, None for no limit."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


def build_engine_model(
    model: Any, dtype: torch.dtype, compute_reference: LiveLogprobs = compute_plain_logprobs
) -> EngineModel:
    """Return what the engine samples a policy's weights from: a copy, adapters merged in, in one precision.

    Raises:
        UnmanagedCacheError: The engine cannot run this architecture.
        ModelError: The model's head is not what its logits say.
    """
    check_head(model)
    if depends_on_longest_row(model):
        raise UnmanagedCacheError("positions of a sequence depend on the longest one beside it")
    if not is_packing_exact(model):
        raise UnmanagedCacheError("prompts laid end to end are not isolated in this architecture")
    shadow = Shadow(model, dtype)
    stack_linears(shadow.model)
    backbone = find_backbone(shadow.model)
    shapes = probe_layers(shadow.model, backbone)
    chosen = choose_decode(shadow.model, backbone, shapes)
    context = find_context_tokens(shadow.model)
    return EngineModel(
        backbone=backbone,
        decode=chosen.decode,
        find_head=lambda: find_head(shadow.model),
        shapes=shapes,
        refresh=shadow.refresh,
        compute_reference=compute_reference,
        context_tokens=context,
        needs_masks=chosen.needs_masks,
        drawing=chosen.drawing,
        notes=chosen.notes,
    )


def build_prompt_renderer(renderer: Renderer) -> PromptRenderer:
    """Return what gives the prompt ids of problems: rendered, or those that a problem has already."""

    def render_prompts(problems: Sequence[Problem]) -> list[list[int]]:
        rendered = iter(renderer.render_prompts([(p.messages, p.tools) for p in problems if not _has_ids(p)]))
        return [list(p.prompt_ids) if isinstance(p, TokenizedProblem) else next(rendered).tolist() for p in problems]

    return render_prompts


def build_sampler(
    policy: LoadedPolicy,
    renderer: Renderer,
    *,
    dtype: torch.dtype | None = None,
    options: EngineOptions | None = None,
    compute_reference: LiveLogprobs = compute_plain_logprobs,
) -> tuple[Sampler, list[str]]:
    """Return a sampler of a policy, and notes for the user on how it was chosen.

    Args:
        policy: What to sample from; it may go on being trained, and `publish` takes its weights over.
        renderer: Turns problems into prompt ids and ids into text.
        dtype: The precision to sample in; None is the policy's own.
        options: Rows, memory and passes of the engine.
        compute_reference: Gives the log-probs of a live policy that the engine has to reproduce.
    """
    render_prompts = build_prompt_renderer(renderer)
    decode, stop_ids = renderer.tokenizer.decode, renderer.format.stop_ids
    chosen = dtype or next(policy.model.parameters()).dtype
    try:
        model = build_engine_model(policy.model, chosen, compute_reference)
    except UnmanagedCacheError as error:
        note = f"sampling through transformers' own cache, several times slower: {error}"
        plain = GenerateSampler(
            policy.model,
            policy.hash,
            render_prompts,
            decode,
            stop_ids=stop_ids,
            constraints=_build_compiler(policy, policy.model.get_output_embeddings().weight.shape[0]),
        )
        return plain, [note]
    sampler = LocalSampler(
        model,
        policy.hash,
        render_prompts,
        decode,
        stop_ids=stop_ids,
        constraints=_build_compiler(policy, model.find_head().weight.shape[0]),
        options=options,
    )
    sampler.check_probe(policy.model)
    return sampler, list(model.notes)


def _has_ids(problem: Problem) -> bool:
    return isinstance(problem, TokenizedProblem)


def _build_compiler(policy: LoadedPolicy, vocabulary: int) -> ConstraintCompiler:
    return ConstraintCompiler(policy.tokenizer.backend_tokenizer.to_str(), vocabulary)
