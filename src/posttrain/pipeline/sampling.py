"""Samplers from policies: the house's engine where a probe shows that it runs the model, else transformers' cache."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from posttrain.chat.rendering import Renderer
from posttrain.core.native_library import NativeUnavailableError, load_library
from posttrain.core.records import Problem
from posttrain.core.sampling import Sampler
from posttrain.kernels import native_decoding, native_drawing
from posttrain.kernels.native_drawing import NativeDrawing
from posttrain.models.heads import check_head, depends_on_longest_row, find_backbone, find_head, is_packing_exact
from posttrain.models.lean_decoding import LeanDecoder, build_lean_decoder
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.native_decoding import NativeDecoder, find_head_shape
from posttrain.models.shadow import Shadow, compute_plain_logprobs
from posttrain.models.stacking import stack_linears
from posttrain.samplers.constraints import ConstraintCompiler
from posttrain.samplers.generate import GenerateSampler
from posttrain.samplers.graphs import DecodePass, run_backbone
from posttrain.samplers.kv_cache import LayerShape
from posttrain.samplers.local import EngineModel, EngineOptions, LocalSampler
from posttrain.samplers.probing import UnmanagedCacheError, check_decode, probe_layers


def build_engine_model(model: Any, dtype: torch.dtype) -> EngineModel:
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
    decode, needs_masks = choose_decode(shadow.model, backbone, shapes)
    context = getattr(shadow.model.config.get_text_config(), "max_position_embeddings", None)
    return EngineModel(
        backbone=backbone,
        decode=decode,
        find_head=lambda: find_head(shadow.model),
        shapes=shapes,
        refresh=shadow.refresh,
        compute_reference=compute_plain_logprobs,
        context_tokens=context,
        needs_masks=needs_masks,
        drawing=build_native_drawing(find_head(shadow.model).weight),
    )


def choose_decode(causal_lm: Any, backbone: Any, shapes: Sequence[LayerShape]) -> tuple[DecodePass, bool]:
    """Return the fastest decode pass that agrees with a model's own modules, and whether it needs masks."""
    lean = build_lean_decoder(backbone, [shape.window for shape in shapes])
    plain = partial(run_backbone, backbone)
    if lean is None:
        return plain, True
    candidates: list[tuple[DecodePass, bool]] = [(lean, True)]
    native = build_native_decoder(lean, next(backbone.parameters()))
    if native is not None:
        candidates.insert(0, (native, False))
    for decode, needs_masks in candidates:
        with contextlib.suppress(UnmanagedCacheError):  # something in the layers that the leaner pass does not know
            check_decode(causal_lm, backbone, shapes, decode, has_masks=needs_masks)
            return decode, needs_masks
    return plain, True


def build_native_drawing(weight: torch.Tensor) -> NativeDrawing | None:
    """Return a draw in compiled kernels, or None where they cannot be compiled."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    defines = {"BF16": 1} if weight.dtype == torch.bfloat16 else {}
    try:
        return NativeDrawing(load_library(native_drawing.SOURCE, defines, native_drawing.HEADERS))
    except NativeUnavailableError:
        return None


def build_native_decoder(lean: LeanDecoder, weight: torch.Tensor) -> NativeDecoder | None:
    """Return a decode pass in compiled kernels, or None where they cannot be compiled for such heads."""
    shape = find_head_shape(lean)
    if weight.device.type != "cpu" or not shape.supports(weight.dtype):
        return None
    try:
        library = load_library(native_decoding.SOURCE, shape.defines(weight.dtype), native_decoding.HEADERS)
    except NativeUnavailableError:
        return None
    return NativeDecoder(lean, native_decoding.NativeDecoding(library, shape))


def build_sampler(
    policy: LoadedPolicy, renderer: Renderer, *, dtype: torch.dtype | None = None, options: EngineOptions | None = None
) -> tuple[Sampler, list[str]]:
    """Return a sampler of a policy, and notes for the user on how it was chosen.

    Args:
        policy: What to sample from; it may go on being trained, and `publish` takes its weights over.
        renderer: Turns problems into prompt ids and ids into text.
        dtype: The precision to sample in; None is the policy's own.
        options: Rows, memory and passes of the engine.
    """

    def render_prompts(problems: Sequence[Problem]) -> list[list[int]]:
        prompts = renderer.render_prompts([(problem.messages, problem.tools) for problem in problems])
        return [ids.tolist() for ids in prompts]

    decode, stop_ids = renderer.tokenizer.decode, renderer.format.stop_ids
    chosen = dtype or next(policy.model.parameters()).dtype
    try:
        model = build_engine_model(policy.model, chosen)
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
    return sampler, []


def _build_compiler(policy: LoadedPolicy, vocabulary: int) -> ConstraintCompiler:
    return ConstraintCompiler(policy.tokenizer.backend_tokenizer.to_str(), vocabulary)
