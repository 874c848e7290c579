"""Linear layers that share their input, run as one product: query, key and value; gate and up.

With few rows a product costs its call and the reading of its weights, hardly its arithmetic, so that one wide
product beats three narrow ones. The weights of such siblings are laid end to end in one tensor, of which each
layer's weight becomes a view: copying new values into the layers fills the stack.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Stack:
    """Runs siblings at the first call with an input, and hands each its part when its call comes."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self.ends = [0]
        for layer in layers:
            self.ends.append(self.ends[-1] + layer.out_features)
        self.weight = torch.cat([layer.weight.data for layer in layers])
        self.bias = None if layers[0].bias is None else torch.cat([layer.bias.data for layer in layers])
        self.input: torch.Tensor | None = None
        self.output = torch.empty(0)
        for number, layer in enumerate(layers):
            part = slice(self.ends[number], self.ends[number + 1])
            layer.weight.data = self.weight[part]
            if self.bias is not None:
                layer.bias.data = self.bias[part]
            layer.forward = partial(self.run, number)  # type: ignore[method-assign]
            layer.stack = self  # type: ignore[assignment]

    def run(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """Return one sibling's part of the product."""
        if self.input is not hidden:
            self.output = linear(hidden, self.weight, self.bias)
            self.input = hidden
        output = self.output[..., self.ends[number] : self.ends[number + 1]]
        if number == len(self.ends) - 2:
            self.input, self.output = None, torch.empty(0)  # kept no longer than they are needed
        return output


def stack_linears(model: Any) -> int:
    """Stack sibling layers of a model that is not trained, in place, and return how many stacks there are.

    The siblings must be called with the same tensor, in the order of their names here, as Llama's descendants do;
    a layer that is called with another tensor is run for itself.
    """
    count = 0
    for module in model.modules():
        for names in _SIBLINGS:
            layers: list[Any] = [getattr(module, name, None) for name in names]
            if all(type(layer) is nn.Linear for layer in layers) and _match(layers):
                Stack(layers)
                count += 1
    return count


def _match(layers: list[Any]) -> bool:
    first = layers[0]
    has_bias = first.bias is not None
    return all(
        layer.in_features == first.in_features
        and (layer.bias is not None) == has_bias
        and layer.weight.dtype == first.weight.dtype
        and not layer.weight.requires_grad
        for layer in layers
    )
