"""Backbone and head of a causal LM: where hidden states end and logits begin.

Training and scoring take hidden states from the backbone and form logits only for the rows that count
(`kernels.token_logprobs`). This file finds the two halves and proves, on a short probe, that putting
them together gives the model's own logits; where it does not, scaling or capping unknown to the house
is at work and the model is refused rather than trained on other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from posttrain.core.errors import ModelError
from posttrain.kernels.attention import choose_masked_attention, packed_attention, register_packed_attention
from posttrain.kernels.layouts import Layout, run_families, run_packed
from posttrain.kernels.shared_prefix import lay_out_families
from posttrain.kernels.token_logprobs import Head

_PROBE_TOKENS = 6
_PROBE_LENGTHS = (5, 9, 3)
_SHARED_PROBE_LENGTHS = (20, 30, 25)  # so long that continuations that see one another differ by far more than rounding
_PROBE_ATTENTION = "posttrain_packed_probe"
_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.02}


def find_causal_lm(model: nn.Module) -> Any:
    """Return the transformers model inside adapters (PEFT wraps it), or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def find_backbone(model: nn.Module) -> nn.Module:
    """Return the module that maps ids to last hidden states."""
    causal_lm = find_causal_lm(model)
    prefix = getattr(causal_lm, "base_model_prefix", "")
    backbone = getattr(causal_lm, prefix, None) if prefix else None
    if not isinstance(backbone, nn.Module):
        raise ModelError(
            f"{type(causal_lm).__name__} has no backbone under '{prefix}'",
            expected="a Hugging Face causal LM: a backbone and an output embedding",
            cure="use an AutoModelForCausalLM architecture with a language-model head",
        )
    return backbone


def find_head(model: nn.Module) -> Head:
    """Return the head's tensors and constants (they are read anew each step, since training changes them).

    Logit scaling and capping follow the configuration keys of the architectures that have them: Gemma
    (`final_logit_softcapping`), Cohere (`logit_scale`, a factor), Granite (`logits_scaling`, a divisor).

    Raises:
        ModelError: The head is not one linear map, for instance because an adapter sits on it.
    """
    causal_lm = find_causal_lm(model)
    layer = causal_lm.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"the language-model head is a {type(layer).__name__}",
            expected="a plain linear head",
            cure="leave the head out of the adapter's targets ('all-linear' does)",
            place="lm_head",
        )
    config = causal_lm.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(layer.weight, layer.bias, scale, float(softcap) if softcap else None)


@contextmanager
def attention_backend(model: nn.Module, name: str) -> Iterator[None]:
    """Use an attention back-end for a while and put the previous one back."""
    causal_lm = find_causal_lm(model)
    before = causal_lm.config._attn_implementation
    causal_lm.set_attn_implementation(name)
    try:
        yield
    finally:
        causal_lm.set_attn_implementation(before)


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Prove on a probe that backbone and head give the model's own logits.

    Raises:
        ModelError: They differ: the architecture does something to its logits that is not known here.
    """
    causal_lm = find_causal_lm(model)
    head = find_head(model)
    ids = (torch.arange(_PROBE_TOKENS) * 7 % head.weight.shape[0])[None].to(head.weight.device)
    with evaluation_mode(model), attention_backend(model, choose_masked_attention(causal_lm)):
        logits = causal_lm(input_ids=ids, use_cache=False).logits[0].float()
        hidden = find_backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    own = (hidden.to(head.weight.dtype) @ head.weight.T + (0 if head.bias is None else head.bias)).float() * head.scale
    if head.softcap:
        own = head.softcap * torch.tanh(own / head.softcap)
    difference = float((own - logits).abs().max())
    allowed = _PROBE_TOLERANCE.get(hidden.dtype, 1e-4) * max(1.0, float(logits.abs().max()))
    if not difference <= allowed:
        raise ModelError(
            f"backbone and head give logits that differ from the model's own by {difference:.3g}",
            expected=f"a difference of at most {allowed:.2g} on a probe of {_PROBE_TOKENS} tokens",
            cure="this architecture transforms its logits in a way posttrain does not know; please report its name",
            place=type(causal_lm).__name__,
        )


def depends_on_longest_row(model: nn.Module) -> bool:
    """Return whether a row's positions are encoded by the longest row beside it (longrope, dynamic NTK scaling)."""
    config = find_causal_lm(model).config.get_text_config()
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in settings.values() if isinstance(value, dict)]
    return any(part.get("rope_type", part.get("type")) in ("longrope", "dynamic") for part in (settings, *nested))


@torch.no_grad()
def is_packing_exact(model: nn.Module) -> bool:
    """Return whether documents of a packed row are isolated in this model, shown by running it.

    Three short documents are run packed in one row and each alone; the last hidden states must agree.
    An architecture whose layers carry state along the row (convolutions, recurrences), that does not take
    registered attention, drops attention weights out, or keeps a layer's sliding window from the back-end
    (its mask alone knows it, and packed rows have none) fails and is trained with padding instead.
    """
    causal_lm = find_causal_lm(model)
    if not getattr(causal_lm, "_supports_attention_backend", False):
        return False
    config = causal_lm.config.get_text_config()
    known = {"full_attention", "sliding_attention", None}
    if not set(getattr(config, "layer_types", None) or [None]) <= known:
        return False
    vocabulary = causal_lm.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(sum(_PROBE_LENGTHS)) * 11 % vocabulary).to(next(model.parameters()).device)
    documents = ids.split(_PROBE_LENGTHS)
    backbone = find_backbone(model)
    try:
        if _record_windows(model, ids) != _declared_windows(config):
            return False
        with evaluation_mode(model), attention_backend(model, register_packed_attention()):
            packed = run_packed(backbone, ids, _PROBE_LENGTHS)
            alone = torch.cat([run_packed(backbone, part, (len(part),)) for part in documents])
            leaked = run_packed(backbone, ids, (len(ids),))
    except (ValueError, TypeError, RuntimeError):  # RuntimeError: a GPU kernel that does not take this head size
        return False
    with evaluation_mode(model), attention_backend(model, choose_masked_attention(causal_lm)):
        reference = torch.cat([backbone(input_ids=x[None], use_cache=False).last_hidden_state[0] for x in documents])
    differences = [packed - alone, packed - reference]
    if packed.dtype == torch.float32:
        tolerance = 1e-5 * max(1.0, float(reference.abs().max()))
        return all(float(x.abs().max()) <= tolerance for x in differences)
    # A few dimensions of a trained model are hundreds of times larger than the rest, so rounding is judged
    # beside what no isolation at all would do.
    tolerance = 0.2 * _root_mean_square(leaked - reference)
    return all(_root_mean_square(row) <= tolerance for x in differences for row in x)


@torch.no_grad()
def is_sharing_exact(model: nn.Module) -> bool:
    """Return whether continuations may share their prompt's tokens in a packed row, shown by running it.

    Two continuations behind one prompt are run in one row, and each behind a prompt of its own. Where packing is not
    exact, and where a layer caps its scores, prompts are not shared.
    """
    if not is_packing_exact(model):
        return False
    prompt, *others = (torch.arange(count) * 11 + 3 for count in _SHARED_PROBE_LENGTHS)
    vocabulary = find_causal_lm(model).get_input_embeddings().weight.shape[0]
    device = next(model.parameters()).device
    rows = [(torch.cat([prompt, other]) % vocabulary).to(device) for other in others]
    shared_T = (torch.cat([prompt, *others]) % vocabulary).to(device)
    backbone, size = find_backbone(model), len(prompt)
    with evaluation_mode(model), attention_backend(model, register_packed_attention()):
        try:
            shared = run_families(backbone, shared_T, lay_out_families([_SHARED_PROBE_LENGTHS]))
        except (ValueError, TypeError, RuntimeError):
            return False
        alone = [run_packed(backbone, row, (len(row),)) for row in rows]
        leaked = run_packed(backbone, shared_T, (len(shared_T),))
    expected = torch.cat([alone[0], alone[1][size:]])
    if shared.dtype == torch.float32:
        return float((shared - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    tolerance = 0.2 * _root_mean_square((leaked - expected)[len(rows[0]) :])  # the second does not see the first
    return all(_root_mean_square(row) <= tolerance for row in shared - expected)


def choose_layout(model: nn.Module, *, may_pack: bool = True) -> Layout:
    """Return how rows are to be laid for a model: packed where that is proven exact, else padded or one at a time."""
    if depends_on_longest_row(model):
        return "single"
    return "packed" if may_pack and is_packing_exact(model) else "padded"


def _record_windows(model: nn.Module, ids_T: torch.Tensor) -> list[int | None]:
    """Return the sliding window that each attention layer hands to the back-end, in training mode.

    Raises:
        ValueError: A layer asks for what packed attention cannot do, for instance dropout.
    """
    from transformers import AttentionInterface

    windows: list[int | None] = []

    def attend(*arguments: Any, **keywords: Any) -> tuple[torch.Tensor, None]:
        windows.append(keywords.get("sliding_window"))
        return packed_attention(*arguments, **keywords)

    AttentionInterface.register(_PROBE_ATTENTION, attend)
    was_training = model.training
    model.train()
    try:
        devices = [ids_T.device] if ids_T.device.type == "cuda" else []
        with attention_backend(model, _PROBE_ATTENTION), torch.random.fork_rng(devices=devices):
            run_packed(find_backbone(model), ids_T, _PROBE_LENGTHS)
    finally:
        model.train(was_training)
    return windows


def _declared_windows(config: Any) -> list[int | None]:
    """Return each layer's sliding window as the configuration has it."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return [window] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _root_mean_square(tensor: torch.Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while and back into the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
