"""One call of the sampler: a pool of problems times samples, run row by row until all have ended.

Each prompt is run once, whatever the number of its samples. Sequences that end leave their row to the next;
prompts wait until several rows are free, so that a prefill pass pays. Longest prompts go first: what does not
fit fails at once, and sequences that run together are of like length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

from posttrain.core.records import FinishReason
from posttrain.core.sampling import SamplingSettings, derive_sample_seed
from posttrain.kernels.cached_attention import PromptPiece
from posttrain.kernels.drawing import Drawn, check_drawn, compute_uniforms, draw_tokens
from posttrain.kernels.native_drawing import NativeDrawing
from posttrain.kernels.token_logprobs import Head
from posttrain.samplers.graphs import DecodeInputs, run_backbone
from posttrain.samplers.kv_cache import CacheSizes, KvCache, SharedRows
from posttrain.samplers.rows import Group, RowState, Running, Written
from posttrain.samplers.watch import RowWatch

OnTokens = Callable[[int, int, Sequence[int]], None]
"""Told of tokens as they are drawn: index of the prompt, sample index, ids; what it raises ends the call."""

_ROW_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class Finished:
    """A sequence that has ended. Made by `Pool`, read by `LocalSampler`."""

    group: Group
    sample_index: int
    seed: int
    written: Written
    finish_reason: FinishReason
    text: str | None


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What the engine runs: a backbone with cached attention, a head, buffers. Made by `samplers/local.py`.

    `decode` runs one token of each sequence, eagerly or from recordings. `prefill_tokens` is the token budget of
    one pass over prompts. `drawing` draws by compiled kernels where it can.
    """

    backbone: Callable[..., Any]
    decode: Callable[[DecodeInputs], torch.Tensor]
    head: Head
    cache: KvCache
    prefill_tokens: int
    drawing: NativeDrawing | None = None


class Pool:
    """Draws all samples of all prompts.

    Args:
        parts: Model and buffers.
        sizes: How the buffers are cut.
        settings: How to draw.
        stop_ids: All token ids that end a sequence.
        watch: Constraints and stop strings.
    """

    def __init__(
        self,
        parts: EngineParts,
        sizes: CacheSizes,
        settings: SamplingSettings,
        stop_ids: Sequence[int],
        watch: RowWatch,
    ) -> None:
        self.parts = parts
        self.cache = parts.cache
        self.settings = settings
        self.sizes = sizes
        self.watch = watch
        self.on_tokens: OnTokens | None = None
        self.is_shared = sizes.num_prompts > 0
        device = parts.head.weight.device
        self.rows = RowState.build(sizes.num_rows, settings, parts.head.weight.shape[0], device)
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.int64, device=device)
        self._prompts: deque[Group] = deque()  # prompts that are yet to be run
        self._ready: deque[Group] = deque()  # prompts that have been run and have samples yet to start
        self._free_slots = list(range(sizes.num_prompts))[::-1]
        self._kept: dict[int, int] = {}  # tokens of the shared prompt in each slot that is taken
        self._shared: SharedRows | None = None
        self._is_shared_stale = True

    def run(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> Iterator[Finished]:
        """Yield sequences as they end; closing the iterator leaves the buffers free for the next call."""
        groups = [Group(i, ids, [seed]) for i, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))]
        self._prompts = deque(sorted(groups, key=lambda group: -len(group.prompt)))
        while self._prompts or self._ready or self.rows.running:
            yield from self._advance()

    @torch.inference_mode()
    def _advance(self) -> list[Finished]:
        finished = self._admit()
        if self.rows.running:
            finished += self._decode()
        return finished

    # ---- starting sequences

    def _admit(self) -> list[Finished]:
        """Start as many sequences as there are rows for, and draw their first tokens."""
        finished = []
        while self.rows.active < self.sizes.num_rows and (self._ready or self._is_prefill_due()):
            first = self.rows.active
            if not self._ready:
                self._prefill()
            hidden = []
            while self._ready and self.rows.active < self.sizes.num_rows:
                hidden.append(self._start(self._ready[0]))
            rows = slice(first, self.rows.active)
            missing = round_up_rows(len(hidden)) - len(hidden)
            finished += self._accept(rows, self._draw(torch.stack(hidden + hidden[:1] * missing), rows))
        return finished

    def _is_prefill_due(self) -> bool:
        if not self._prompts or (self.is_shared and not self._free_slots):
            return False
        free = self.sizes.num_rows - self.rows.active
        wanted = min(self.sizes.num_rows // 8, len(self._prompts) * self.settings.num_samples)
        return free >= max(1, wanted)

    def _start(self, group: Group) -> torch.Tensor:
        """Start a group's next sample and return the hidden state that its first token is drawn from."""
        sample = group.next_sample
        sequence = Running(group, sample, derive_sample_seed(group.seeds[0], sample))
        row = self.rows.start(sequence, 0 if self.is_shared else len(group.prompt))
        self.cache.begin_row(row, int(self.rows.lengths[row]))
        self.watch.start(row)
        group.next_sample += 1
        self._is_shared_stale = True
        if group.next_sample == self.settings.num_samples:
            self._ready.popleft()
        assert group.last_hidden is not None
        return group.last_hidden

    def _prefill(self) -> None:
        """Run the next prompts: as many as find a place and together fit one pass, or one that needs several."""
        groups: list[Group] = []
        tokens = 0
        places = len(self._free_slots) if self.is_shared else self.sizes.num_rows - self.rows.active
        free = self.sizes.num_rows - self.rows.active
        while self._prompts and len(groups) < places and len(groups) * self.settings.num_samples < free:
            tokens += len(self._prompts[0].prompt)
            if groups and tokens > self.parts.prefill_tokens:
                break
            groups.append(self._prompts.popleft())
        targets = []
        for number, group in enumerate(groups):
            group.unfinished = self.settings.num_samples
            if self.is_shared:
                group.slot = self._free_slots.pop()
                self._kept[group.slot] = len(group.prompt)
            targets.append(group.slot if group.slot is not None else self.rows.active + number)
        for group, hidden in zip(groups, self._run_prompts(targets, groups), strict=True):
            group.last_hidden = hidden
        self._ready.extend(groups)

    def _run_prompts(self, targets: Sequence[int], groups: Sequence[Group]) -> list[torch.Tensor]:
        """Fill buffers with prompts and return each one's last hidden state."""
        if len(groups) > 1:
            whole = [PromptPiece(row, 0, len(group.prompt)) for row, group in zip(targets, groups, strict=True)]
            hidden = self._run_pieces(whole, [group.prompt for group in groups])
            ends = torch.tensor([len(group.prompt) for group in groups]).cumsum(0) - 1
            return list(hidden[ends.to(hidden.device)])
        (row,), (group,) = targets, groups
        last = torch.empty(0)
        for start in range(0, len(group.prompt), self.parts.prefill_tokens):
            ids = group.prompt[start : start + self.parts.prefill_tokens]
            last = self._run_pieces([PromptPiece(row, start, len(ids))], [ids])[-1]
        return [last]

    def _run_pieces(self, pieces: Sequence[PromptPiece], ids: Sequence[list[int]]) -> torch.Tensor:
        """Run pieces of prompts and return their hidden states, end to end; a filler behind them rounds the pass up."""
        device = self.rows.ids.device
        step = self.cache.build_prefill(pieces, is_shared=self.is_shared)
        count = sum(piece.length for piece in pieces)
        filler = step.spans.starts[-1] - count
        flat = [token for piece in ids for token in piece] + [0] * filler
        positions = [torch.arange(piece.start, piece.start + piece.length) for piece in pieces] + [torch.arange(filler)]
        hidden = run_backbone(
            self.parts.backbone, torch.tensor(flat, device=device), torch.cat(positions).to(device), step
        )
        return hidden[:count]

    # ---- one token of each sequence

    def _decode(self) -> list[Finished]:
        rows = self.rows
        count = min(self.sizes.num_rows, round_up_rows(rows.active))
        lengths = rows.lengths[:count]
        if self._is_shared_stale:
            self._shared = self._build_shared(count) if self.is_shared else None
            self._is_shared_stale = False
        hidden = self.parts.decode(
            DecodeInputs(
                rows.ids[:count], rows.positions[:count], lengths, int(lengths[: rows.active].max()), self._shared
            )
        )
        rows.lengths[: rows.active] += 1
        active = slice(0, rows.active)
        return self._accept(active, self._draw(hidden, active))

    def _build_shared(self, count: int) -> SharedRows:
        """Return where each row's prompt is; rows behind the running ones have none."""
        M = self.settings.num_samples
        groups = [sequence.group for sequence in self.rows.running]
        slots = [group.slot or 0 for group in groups]
        members = [slot * M + sequence.sample_index for slot, sequence in zip(slots, self.rows.running, strict=True)]
        P = self.sizes.num_prompts if self.cache.is_fixed else max(slots) + 1
        row_of_member = [0] * (P * M)
        for row, member in enumerate(members):
            row_of_member[member] = row
        missing = count - len(groups)
        lengths = [len(group.prompt) for group in groups] + [0] * missing
        device = self.rows.ids.device
        return SharedRows(
            P,
            max(self._kept.values()),
            torch.tensor(row_of_member, device=device),
            torch.tensor(members + [0] * missing, device=device),
            torch.tensor(slots + [0] * missing, device=device),
            torch.tensor(lengths, device=device),
        )

    def _draw(self, hidden_BH: torch.Tensor, rows: slice) -> Drawn:
        """Draw the next token of some rows; hidden states behind them are of padding."""
        state, head, native = self.rows, self.parts.head, self.parts.drawing
        count = rows.stop - rows.start
        uniforms = compute_uniforms(state.seeds[rows], state.counts[rows]) if self.settings.temperature else None
        if native is not None and native.can_draw(self.settings, head, count):
            return native.draw(hidden_BH, head, self.settings, uniforms, count)
        return draw_tokens(
            compute_logits(hidden_BH, head)[:count],
            self.settings,
            uniforms,
            seen_BV=state.seen_RV[rows] if state.seen_RV is not None else None,
            allowed_BW=self.watch.allowed(rows),
        )

    def _accept(self, rows: slice, drawn: Drawn) -> list[Finished]:
        """Write drawn tokens and take out the sequences that end with them."""
        check_drawn(drawn)
        state = self.rows
        state.write(rows, drawn)
        ids = drawn.ids_B.tolist()
        if self.on_tokens is not None:
            for sequence, token in zip(state.running[rows], ids, strict=True):
                self.on_tokens(sequence.group.index, sequence.sample_index, [token])
        is_stop = torch.isin(drawn.ids_B, self.stop_ids)
        is_full = state.counts[rows] >= self.settings.max_new_tokens
        reasons: dict[int, FinishReason] = {}
        for offset, (stop, full) in enumerate(torch.stack([is_stop, is_full], 1).tolist()):
            if stop or full:
                reasons[rows.start + offset] = "stop" if stop else "length"
        texts = self.watch.accept(rows.start, ids)
        reasons |= {row: "stop" for row in texts if reasons.get(row) != "stop"}
        return [self._take_out(row, reasons[row], texts.get(row)) for row in sorted(reasons, reverse=True)]

    def _take_out(self, row: int, reason: FinishReason, text: str | None) -> Finished:
        state = self.rows
        sequence = state.running[row]
        finished = Finished(sequence.group, sequence.sample_index, sequence.seed, state.read(row), reason, text)
        last = state.active - 1
        if row != last:
            state.move(last, row)
            self.cache.move_row(last, row, int(state.lengths[last]))
            self.watch.move(last, row)
        state.running.pop()
        state.lengths[last] = 0
        group = sequence.group
        group.unfinished -= 1
        if not group.unfinished and group.slot is not None:
            self._free_slots.append(group.slot)
            self._free_slots.sort(reverse=True)
            del self._kept[group.slot]
            group.last_hidden = None
        self._is_shared_stale = True
        return finished


def round_up_rows(count: int) -> int:
    """Return how many rows are run: up to eight as they are, and then multiples of eight.

    Product kernels are compiled and kept for every shape.
    """
    return count if count <= _ROW_MULTIPLE else -(-count // _ROW_MULTIPLE) * _ROW_MULTIPLE


def compute_logits(hidden_BH: torch.Tensor, head: Head) -> torch.Tensor:
    """Return logits [B, V], scaled and capped as the head says: in the head's dtype where neither is asked for."""
    logits = linear(hidden_BH.to(head.weight.dtype), head.weight, head.bias)
    if head.scale != 1.0:
        logits = logits.float() * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits.float() / head.softcap)
    return logits
