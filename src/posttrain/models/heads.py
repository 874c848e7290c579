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
from posttrain.kernels.attention import DocumentSpans, register_packed_attention
from posttrain.kernels.token_logprobs import Head

_PROBE_TOKENS = 6
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
    with _evaluation_mode(model), attention_backend(model, "sdpa"):
        logits = causal_lm(input_ids=ids, use_cache=False).logits[0].float()
        hidden = find_backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    own = (hidden @ head.weight.T + (0 if head.bias is None else head.bias)).float() * head.scale
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


@torch.no_grad()
def is_packing_exact(model: nn.Module) -> bool:
    """Return whether documents of a packed row are isolated in this model, shown by running it.

    Three short documents are run packed in one row and each alone; the last hidden states must agree.
    An architecture whose layers carry state along the row (convolutions, recurrences), or that does not
    take registered attention, fails and is trained with padding instead.
    """
    causal_lm = find_causal_lm(model)
    if not getattr(causal_lm, "_supports_attention_backend", False):
        return False
    config = causal_lm.config.get_text_config()
    known = {"full_attention", "sliding_attention", None}
    if not set(getattr(config, "layer_types", None) or [None]) <= known:
        return False
    if getattr(config, "attention_dropout", 0.0) or hasattr(config, "attention_sinks"):
        return False
    vocabulary = find_head(model).weight.shape[0]
    device = next(model.parameters()).device
    lengths = (5, 9, 3)
    ids = (torch.arange(sum(lengths)) * 11 % vocabulary).to(device)
    backbone = find_backbone(model)
    with _evaluation_mode(model), attention_backend(model, register_packed_attention()):
        try:
            packed = run_packed(backbone, ids, lengths)
            alone = torch.cat([run_packed(backbone, part, (len(part),)) for part in ids.split(lengths)])
        except (ValueError, TypeError):
            return False
    with _evaluation_mode(model), attention_backend(model, "sdpa"):
        reference = torch.cat(
            [backbone(input_ids=part[None], use_cache=False).last_hidden_state[0] for part in ids.split(lengths)]
        )
    scale = max(1.0, float(reference.float().abs().max()))
    tolerance = {torch.float32: 1e-5}.get(packed.dtype, 0.1) * scale
    return all(float((packed.float() - other.float()).abs().max()) <= tolerance for other in (alone, reference))


def run_packed(backbone: nn.Module, ids_T: torch.Tensor, lengths: tuple[int, ...], **arguments: Any) -> torch.Tensor:
    """Return last hidden states [T, H] of documents laid end to end; positions restart at each.

    The model must use the packed attention back-end (`kernels.attention.register_packed_attention`).
    """
    positions = torch.cat([torch.arange(length, device=ids_T.device) for length in lengths])
    output = backbone(
        input_ids=ids_T[None],
        position_ids=positions[None],
        use_cache=False,
        document_spans=DocumentSpans.from_lengths(lengths, ids_T.device),
        **arguments,
    )
    return output.last_hidden_state[0]


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
