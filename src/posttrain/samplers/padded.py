"""Any transformers causal model run one token at a time: rows padded on the left, in the cache that the model makes.

Rows that have ended leave the batch. A model whose cache cannot let rows go (or that has none) reads its rows anew
for every token. Shape letters: B rows of the batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from posttrain.core.records import FinishReason
from posttrain.core.sampling import SamplingSettings
from posttrain.kernels.attention import PACKED_ATTENTION, choose_masked_attention
from posttrain.kernels.drawing import Drawn, check_drawn, compute_uniforms, draw_tokens
from posttrain.samplers.pool import Finished
from posttrain.samplers.rows import RowState, Running
from posttrain.samplers.watch import RowWatch

_STATE_NAME = "cache_params"  # what state-space models call their cache
_CACHE_NAMES = ("past_key_values", _STATE_NAME)
_PROBE_IDS = (1, 2, 0, 2, 1)
_PROBE_PADDING = 2
_PADDING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}  # of the largest logit, at least 1


def find_plain_model(model: Any) -> Any:
    """Return the transformers model inside a PEFT model, or the model itself."""
    find_base: Callable[[], Any] | None = getattr(model, "get_base_model", None)
    return model if find_base is None else find_base()


@contextmanager
def drawing_mode(model: Any) -> Iterator[None]:
    """Evaluate without gradients, by an attention that takes padding and a cache; put all back as it was."""
    plain = find_plain_model(model)
    was_training, attention = model.training, plain.config._attn_implementation
    model.eval()
    if attention == PACKED_ATTENTION:
        plain.set_attn_implementation(choose_masked_attention(plain))
    try:
        with torch.no_grad():
            yield
    finally:
        if attention == PACKED_ATTENTION:
            plain.set_attn_implementation(attention)
        model.train(was_training)


class PaddedModel:
    """Calls a model with what it takes of ids, mask, positions and cache.

    Args:
        model: A transformers or PEFT causal language model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        plain = find_plain_model(model)
        self.device: torch.device = plain.device
        self._dtype: torch.dtype = plain.dtype
        self._parameters = inspect.signature(plain.forward).parameters

    def run(
        self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Any, *, with_cache: bool
    ) -> tuple[torch.Tensor, Any]:
        """Return the logits [B, V] after the last ids, and the cache, or None if there is none to go on with."""
        named: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": with_cache}
        if "position_ids" in self._parameters:
            named["position_ids"] = positions_BT
        if "logits_to_keep" in self._parameters:
            named["logits_to_keep"] = 1
        if cache is not None:
            name = next(name for name in _CACHE_NAMES if name in self._parameters)
            named[name] = cache
            if name == _STATE_NAME:
                named["attention_mask"] = mask_BT[:, -ids_BT.shape[1] :]  # of these ids: states hold no positions
        output = self.model(**named)
        caches = [getattr(output, name, None) for name in _CACHE_NAMES if name in self._parameters]
        usable = next((found for found in caches if hasattr(found, "reorder_cache")), None)
        return output.logits[:, -1], usable if with_cache else None

    def is_padding_exact(self) -> bool:
        """Return whether a row's logits are the same with padding before it, found out on a probe."""
        with drawing_mode(self.model):
            ids = torch.tensor([_PROBE_IDS], device=self.device)
            alone = self._run_whole(ids, torch.ones_like(ids))
            padding = torch.zeros_like(ids[:, :_PROBE_PADDING])
            padded = self._run_whole(torch.cat([padding, ids], 1), torch.cat([padding, torch.ones_like(ids)], 1))
        allowed = _PADDING_TOLERANCE.get(self._dtype, 1e-4) * max(1.0, float(alone.abs().max()))
        return bool((alone - padded).abs().max() <= allowed)

    def _run_whole(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return self.run(ids_BT, mask_BT, _count_positions(mask_BT), None, with_cache=False)[0].float()


class PaddedBatch:
    """Draws some sequences until all have ended.

    Args:
        model: What to draw from.
        sequences: Problems with their prompts, and seeds.
        settings: How to draw.
        stop_ids: Token ids that end a sequence.
        watch: Constraints and stop strings.
    """

    def __init__(
        self,
        model: PaddedModel,
        sequences: Sequence[Running],
        settings: SamplingSettings,
        stop_ids: Sequence[int],
        watch: RowWatch,
    ) -> None:
        self._model = model
        self._settings = settings
        self._watch = watch
        self._device = model.device
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=self._device)
        self._waiting = list(sequences)
        self._rows: RowState | None = None
        self._cache: Any = None
        self._ids_BT, self._mask_BT = _pad_left([sequence.group.prompt for sequence in sequences], self._device)

    @property
    def is_running(self) -> bool:
        """Whether some sequence has not ended."""
        return bool(self._waiting or (self._rows is not None and self._rows.running))

    def run_to_next_end(self) -> list[Finished]:
        """Draw until at least one sequence ends, and return those that did; called in `drawing_mode`.

        Raises:
            SamplerError: Logits are not finite, or a constraint leaves no token.
        """
        while True:
            logits_BV = self._run_model()
            if self._rows is None:
                self._rows = self._start_rows(logits_BV.shape[1])
            finished = self._accept(self._rows, self._draw(self._rows, logits_BV))
            if finished:
                return finished

    def _run_model(self) -> torch.Tensor:
        """Return the logits of each row's next token."""
        if self._rows is None or self._cache is None:
            positions_BT = _count_positions(self._mask_BT)
            logits_BV, cache = self._model.run(
                self._ids_BT, self._mask_BT, positions_BT, None, with_cache=self._rows is None
            )
            self._cache = cache
            return logits_BV
        ids_BT, positions_BT = self._ids_BT[:, -1:], self._rows.positions[: self._rows.active, None]
        logits_BV, self._cache = self._model.run(ids_BT, self._mask_BT, positions_BT, self._cache, with_cache=True)
        return logits_BV

    def _start_rows(self, vocabulary: int) -> RowState:
        rows = RowState.build(len(self._waiting), self._settings, vocabulary, self._device)
        for sequence in self._waiting:
            self._watch.start(rows.start(sequence, 0))
        self._waiting = []
        return rows

    def _draw(self, rows: RowState, logits_BV: torch.Tensor) -> Drawn:
        active = slice(0, rows.active)
        drawn = draw_tokens(
            logits_BV,
            self._settings,
            compute_uniforms(rows.seeds[active], rows.counts[active]) if self._settings.temperature else None,
            seen_BV=None if rows.seen_RV is None else rows.seen_RV[active],
            allowed_BW=self._watch.allowed(active),
        )
        check_drawn(drawn)
        rows.write(active, drawn)
        return drawn

    def _accept(self, rows: RowState, drawn: Drawn) -> list[Finished]:
        """Take out the rows that end with what was drawn, and make the others ready for their next token."""
        is_stop = torch.isin(drawn.ids_B, self._stop_ids).tolist()
        is_full = (rows.counts[: rows.active] >= self._settings.max_new_tokens).tolist()
        texts = self._watch.accept(0, drawn.ids_B.tolist())
        order = list(range(rows.active))
        finished = []
        for row in reversed(range(rows.active)):
            if not (is_stop[row] or is_full[row] or row in texts):
                continue
            reason: FinishReason = "stop" if is_stop[row] or row in texts else "length"
            sequence, last = rows.running[row], rows.active - 1
            written = rows.read(row)
            finished.append(
                Finished(sequence.group, sequence.sample_index, sequence.seed, written, reason, texts.get(row))
            )
            if row != last:
                rows.move(last, row)
                self._watch.move(last, row)
                order[row] = order[last]
            rows.running.pop()
            order.pop()
        self._select(torch.tensor(order, dtype=torch.int64, device=self._device), bool(finished))
        ids_B1 = rows.ids[: rows.active, None]
        self._ids_BT = torch.cat([self._ids_BT, ids_B1], 1)
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(ids_B1)], 1)
        return finished

    def _select(self, order_B: torch.Tensor, is_changed: bool) -> None:
        """Keep these rows of everything that has a row for each sequence, in this order."""
        if not is_changed:
            return
        self._ids_BT, self._mask_BT = self._ids_BT[order_B], self._mask_BT[order_B]
        if self._cache is not None and len(order_B):
            self._cache.reorder_cache(order_B)


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, prompts))
    # Any id may pad: the mask hides it.
    ids_BT = torch.zeros(len(prompts), length, dtype=torch.int64)
    mask_BT = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids_BT[row, length - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, length - len(prompt) :] = 1
    return ids_BT.to(device), mask_BT.to(device)


def _count_positions(mask_BT: torch.Tensor) -> torch.Tensor:
    return (mask_BT.cumsum(1) - 1).clamp(min=0)
