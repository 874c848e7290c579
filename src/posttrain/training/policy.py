"""A policy that scores micro-batches: backbone, attention back-end and head behind one forward.

`ScoredPolicy(micro_batch, objective)` returns the weighted loss and the per-token figures. Rows are
packed without a mask where that is proven exact for the model (`models.heads.is_packing_exact` decides),
else padded, rows of like length together; a few architectures take one row at a time. It is the root
module that `training.distributed` shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from posttrain.core.seeds import derive_seed
from posttrain.kernels.attention import choose_masked_attention, register_packed_attention
from posttrain.kernels.coupled_logprobs import CoupledObjective, score_coupled_tokens
from posttrain.kernels.layouts import Layout, run_families, run_packed, run_padded
from posttrain.kernels.token_logprobs import Head, TokenObjective, TokenScores, score_tokens
from posttrain.training.batches import MicroBatch

Value = TypeVar("Value")


class ScoredPolicy(nn.Module):
    """Wraps a causal LM, with or without adapters, for training and scoring.

    Args:
        model: The transformers or PEFT model; its parameters are this module's.
        backbone: The part of it that maps ids to hidden states.
        find_head: Reads the head from the model (anew each time, since steps change it).
        layout: Packed where exact, else padded.
    """

    def __init__(
        self, model: nn.Module, backbone: nn.Module, find_head: Callable[[nn.Module], Head], layout: Layout
    ) -> None:
        super().__init__()
        self.model = model
        self.layout = layout
        self._find_head = find_head
        # In a list, so that torch does not register the backbone a second time.
        self._backbone = [backbone]
        unwrap: Any = getattr(model, "get_base_model", lambda: model)
        causal_lm = unwrap()
        self._has_mask = bool(getattr(causal_lm, "_supports_attention_backend", False))
        causal_lm.set_attn_implementation(
            register_packed_attention() if layout == "packed" else choose_masked_attention(causal_lm)
        )

    def head(self) -> Head:
        """Return the head as it is now."""
        return self._find_head(self.model)

    def forward(
        self, batch: MicroBatch, objective: TokenObjective, weights_N: torch.Tensor, *, with_entropy: bool = False
    ) -> TokenScores:
        """Return the weighted loss of a micro-batch and figures for each scored token.

        Args:
            batch: The rows.
            objective: See `kernels.token_logprobs.TokenObjective`.
            weights_N: Weights with the denominator in them (`objectives.reduction`).
            with_entropy: Also compute entropies.
        """
        hidden_TH = self.compute_hidden(batch)
        if not len(batch.scored_N) and hidden_TH.requires_grad:
            # No scored row: keep the graph alive, so that sharded parameters take part in the backward pass.
            zero = hidden_TH.sum() * 0 + self.head().weight.sum() * 0
            none = torch.empty(0, device=hidden_TH.device)
            return TokenScores(zero.float(), none, none.bool(), none if with_entropy else None)
        head = self.head()
        # Some backbones (Mamba) give fp32 residuals to a bf16 head.
        hidden_NH = hidden_TH.index_select(0, batch.scored_N).to(head.weight.dtype)
        rows = (hidden_NH, head, batch.targets_N, weights_N, objective)
        if isinstance(objective, CoupledObjective) and objective.is_coupled:
            groups_N = objective.find_groups(batch.constants)
            return score_coupled_tokens(*rows, groups_N, batch.constants, with_entropy=with_entropy)
        return score_tokens(*rows, batch.constants, with_entropy=with_entropy)

    def read_whole(self, read: Callable[[nn.Module], Value]) -> Value:
        """Return what `read` gives of the model while its weights stand whole; over several ranks all must call it.

        `shard_policy` sees to it that what is sharded is gathered before.
        """
        return read(self.model)

    def compute_hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Return the last hidden states [T, H] of a micro-batch, rows end to end."""
        if batch.families is not None:
            return run_families(self._backbone[0], batch.ids_T, batch.families)
        if self.layout == "packed":
            return run_packed(self._backbone[0], batch.ids_T, batch.lengths)
        if batch.ids_T.device.type == "meta":
            return self._run_padded_on_meta(batch)
        return run_padded(self._backbone[0], batch.ids_T, batch.lengths)

    def _run_padded_on_meta(self, batch: MicroBatch) -> torch.Tensor:
        """Run the padded rows as they are, since a mask without values cannot say where they end."""
        count, longest = len(batch.lengths), max(batch.lengths)
        # A mask that is whole already, since building one looks at its values.
        shape = (count, 1, longest, longest)
        mask = torch.zeros(shape, dtype=self.head().weight.dtype, device="meta") if self._has_mask else None
        ids = batch.ids_T.new_zeros(count, longest)
        output = self._backbone[0](input_ids=ids, attention_mask=mask, use_cache=False)
        return output.last_hidden_state.flatten(0, 1)

    @contextmanager
    def seeded_dropout(self, *stream: int | str) -> Iterator[None]:
        """Draw dropout masks from a named stream: a pure function of it, and the global state is left alone."""
        if not self.training:
            yield
            return
        devices = [p.device for p in self.parameters() if p.device.type == "cuda"][:1]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(*stream))
            yield


def enable_checkpointing(model: Any) -> None:
    """Have each block of a model recompute its activations in the backward pass instead of keeping them."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # the name since transformers 5.23
    if enable is not None:
        enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
