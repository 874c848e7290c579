"""A one-layer Llama of a few tokens whose completions can be listed, and their way through the project's own path.

`LlamaPolicy` works log-probs out in float64 by the forward pass that is written here from the architecture's
equations (transformers computes norms and softmax in fp32 whatever the weights' precision), so that it shares nothing
with what it is compared to. Shape letters: see the package; B rows, T tokens of a row, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import silu
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.core.records import RenderedSample
from posttrain.kernels.layouts import Layout
from posttrain.models.heads import find_backbone, find_head
from posttrain.training.batches import MicroBatch, build_micro_batch
from posttrain.training.policy import ScoredPolicy
from tests.oracles.enumeration import CompletionSpace, EnumerablePolicy

# Of different lengths, of tokens that may also come up in completions, and none of one token alone: attention cannot
# count how often a token is repeated where there is no other, so that not every distribution would be within reach.
PROMPTS = ((2, 1), (2, 3, 1), (3, 2, 2, 1))
NUM_TOKENS = 4
_NUM_HEADS, _NUM_PAIRS, _HEAD_SIZE = 4, 2, 8  # query heads, pairs of keys and values


def make_space(prompts: Sequence[Sequence[int]] = PROMPTS, max_tokens: int = 3) -> CompletionSpace:
    """The completions of some prompts, of which token 0 ends: 40 of each with three tokens at most, 13 with two."""
    return CompletionSpace(len(prompts), NUM_TOKENS, max_tokens)


def make_llama(seed: int = 0) -> Any:
    """A random fp32 model whose next tokens are neither even nor certain; the global generator is left alone."""
    config = LlamaConfig(
        vocab_size=NUM_TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=_NUM_HEADS, num_key_value_heads=_NUM_PAIRS, head_dim=_HEAD_SIZE,
        max_position_embeddings=32, bos_token_id=1, eos_token_id=0, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(0.35 * torch.randn(weight.shape, generator=generator))
    return model


class LlamaPolicy(EnumerablePolicy):
    """The distribution of such a model's completions, in float64; it holds a copy of the model's weights."""

    def __init__(self, space: CompletionSpace, model: Any, prompts: Sequence[Sequence[int]] = PROMPTS) -> None:
        super().__init__(space)
        self.weights = {
            name: weight.detach().double().clone().requires_grad_() for name, weight in model.named_parameters()
        }
        self.epsilon = model.config.rms_norm_eps
        self.rope_base = model.config.rope_parameters["rope_theta"]
        rows = [torch.tensor([*prompt, *prefix]) for prompt in prompts for prefix in space.prefixes]
        self._last_B = torch.tensor([len(row) for row in rows]) - 1
        # What stands behind a row's end is not seen from before it.
        self._ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def compute_next_logprobs(self) -> torch.Tensor:
        """Return the log-prob of each token after each prefix of each prompt, [X, F, V]."""
        logits_BTV = self.compute_logits(self._ids_BT)
        logits_BV = logits_BTV[torch.arange(len(self._last_B)), self._last_B]
        return logits_BV.log_softmax(-1).view(self.space.num_prompts, len(self.space.prefixes), -1)

    def get_parameters(self) -> list[torch.Tensor]:
        """Return every weight."""
        return list(self.weights.values())

    def compute_logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return logits [B, T, V]: embedding, attention and gated unit around a residual stream, norm, head."""
        w, layer = self.weights, "model.layers.0."
        x_BTH = w["model.embed_tokens.weight"][ids_BT]
        x_BTH = x_BTH + self._attend(self._normalise(x_BTH, layer + "input_layernorm.weight"), layer + "self_attn.")
        y_BTH = self._normalise(x_BTH, layer + "post_attention_layernorm.weight")
        gate = silu(y_BTH @ w[layer + "mlp.gate_proj.weight"].T)
        x_BTH = x_BTH + (gate * (y_BTH @ w[layer + "mlp.up_proj.weight"].T)) @ w[layer + "mlp.down_proj.weight"].T
        return self._normalise(x_BTH, "model.norm.weight") @ w["lm_head.weight"].T

    def _normalise(self, x_BTH: torch.Tensor, name: str) -> torch.Tensor:
        return self.weights[name] * x_BTH / (x_BTH.square().mean(-1, keepdim=True) + self.epsilon).sqrt()

    def _attend(self, x_BTH: torch.Tensor, place: str) -> torch.Tensor:
        B, T, _ = x_BTH.shape

        def project(name: str) -> torch.Tensor:
            return (x_BTH @ self.weights[f"{place}{name}_proj.weight"].T).view(B, T, -1, _HEAD_SIZE).transpose(1, 2)

        queries, keys, values = self._rotate(project("q")), self._rotate(project("k")), project("v")
        keys, values = (x.repeat_interleave(_NUM_HEADS // _NUM_PAIRS, 1) for x in (keys, values))
        scores = queries @ keys.transpose(-1, -2) / _HEAD_SIZE**0.5
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        mixed = (scores.softmax(-1) @ values).transpose(1, 2).reshape(B, T, -1)
        return mixed @ self.weights[f"{place}o_proj.weight"].T

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Turn dimension i of the first half with its partner of the second by position * base^(-2i / size)."""
        half = _HEAD_SIZE // 2
        angles = torch.arange(x.shape[2]).double()[:, None] * self.rope_base ** (-torch.arange(half).double() / half)
        first, second = x[..., :half], x[..., half:]
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1
        )


def build_samples(space: CompletionSpace, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[RenderedSample]:
    """Return every prompt with each of its completions as a training row, the completion's tokens trainable."""
    samples = []
    for prompt in prompts:
        for ids in space.completions:
            row = np.array([*prompt, *ids], np.int32)
            samples.append(RenderedSample(row, np.zeros(len(row), np.uint8), np.arange(len(row)) >= len(prompt)))
    return samples


def build_batch(space: CompletionSpace, prompts: Sequence[Sequence[int]] = PROMPTS) -> MicroBatch:
    """Return all rows as one packed micro-batch, whose scored tokens are the space's N tokens in order."""
    samples = build_samples(space, prompts)
    return build_micro_batch(samples, [f"sequence-{s}" for s in range(len(samples))])


def build_scored_policy(model: Any, layout: Layout = "packed") -> ScoredPolicy:
    """Return a model in the project's training form."""
    return ScoredPolicy(model, find_backbone(model), find_head, layout)


def find_gradient_error(model: Any, policy: LlamaPolicy, exact_loss: torch.Tensor) -> tuple[float, str]:
    """Return how far a model's gradients are from those of a loss of the policy, and of which weight.

    Norm of the difference by norm of the exact one, largest over weights; `model` has gone backward already.
    """
    gradients = torch.autograd.grad(exact_loss, policy.get_parameters())
    exact = dict(zip(policy.weights, gradients, strict=True))
    return max(
        (((weight.grad - exact[name]).norm() / exact[name].norm()).item(), name)
        for name, weight in model.named_parameters()
    )
