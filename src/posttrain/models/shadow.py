"""A second set of a policy's weights to sample from: adapters merged in, in one precision, refreshed in place.

A policy that is trained keeps its adapters apart and its attention packed; a sampler wants plain matrices
that stay where they are. The shadow is a plain model of the same class; `refresh` copies the policy's weights
as they are now into it, so that nothing is built anew when they change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from posttrain.core.errors import ModelError
from posttrain.kernels.attention import choose_masked_attention
from posttrain.models.adapters import add_adapters, gather_whole, iterate_layers, list_adapters
from posttrain.models.heads import attention_backend, evaluation_mode, find_causal_lm


class Shadow:
    """A plain copy of a policy.

    Args:
        model: The policy: a transformers or PEFT model.
        dtype: The precision to sample in.

    Raises:
        ModelError: The model cannot be copied tensor by tensor.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        causal_lm = find_causal_lm(model)
        self.dtype = dtype
        self.device = next(causal_lm.parameters()).device
        with torch.device("meta"):
            self.model = type(causal_lm)(copy.deepcopy(causal_lm.config))
        self.model.eval().requires_grad_(False)
        for parameter in self.model.parameters():
            parameter.data = torch.empty(parameter.shape, dtype=dtype, device="meta")
        self.model.to_empty(device=self.device)
        self.model.tie_weights()
        buffers = {plain_name(name): buffer for name, buffer in causal_lm.named_buffers()}
        for name, _ in list(self.model.named_buffers()):
            place, _, key = name.rpartition(".")
            self.model.get_submodule(place)._buffers[key] = buffers[name].detach().clone()
        self.refresh(model)

    @torch.no_grad()
    def refresh(self, model: nn.Module) -> None:
        """Copy a policy's weights into the shadow, adapters merged in.

        Raises:
            ModelError: The policy has other weights than the one the shadow was made from.
        """
        own = dict(self.model.named_parameters())
        for name, weight in iterate_merged_weights(model):
            if name not in own:
                if name in self.model.all_tied_weights_keys:
                    continue
                raise ModelError(f"a weight '{name}'", expected="the weights of the first policy", place=name)
            target = own.pop(name)
            if target.shape != weight.shape:
                raise ModelError(
                    f"a weight of shape {tuple(weight.shape)}", expected=str(tuple(target.shape)), place=name
                )
            target.copy_(weight)
        if own:
            raise ModelError(
                f"{len(own)} weights are missing, the first '{next(iter(own))}'",
                expected="the weights of the policy that the sampler was built for",
                place=next(iter(own)),
            )


def iterate_merged_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight of a policy by its plain name, adapters added in fp32; sharded ones are gathered."""
    causal_lm = find_causal_lm(model)
    layers = dict(iterate_layers(causal_lm)) if list_adapters(model) else {}
    for name, parameter in causal_lm.named_parameters():
        if ".lora_" in name:
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight")) if name.endswith(".base_layer.weight") else None
        weight = gather_whole(parameter) if layer is None else add_adapters(layer)
        yield plain_name(name), weight


@torch.no_grad()
def compute_plain_logprobs(model: nn.Module, ids_T: torch.Tensor) -> torch.Tensor:
    """Return log-probs [T - 1] of one row's tokens after the first, by the model's own masked attention."""
    causal_lm = find_causal_lm(model)
    with evaluation_mode(model), attention_backend(model, choose_masked_attention(causal_lm)):
        logits = causal_lm(input_ids=ids_T[None], use_cache=False).logits[0, :-1]
    return logits.double().log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]


def plain_name(name: str) -> str:
    """Return the name that a parameter of a PEFT model's inner model has in the plain model."""
    return name.replace(".base_layer.", ".")
