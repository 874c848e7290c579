"""The keys and values that a sampler keeps: buffers within a budget, and who owns which row of them.

Each layer has two pairs of buffers: rows of sequences, and rows of prompts that several sequences share. What
is behind a sequence's last token is masked.

Shape letters as in `kernels.cached_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from posttrain.core.errors import SamplerError
from posttrain.kernels.attention import DocumentSpans
from posttrain.kernels.cached_attention import Decode, LayerCache, Prefill, PromptPiece, SharedPrompts
from posttrain.kernels.layouts import round_up_tokens

TOKEN_MULTIPLE = 32
"""Rows hold multiples of so many tokens: product kernels are compiled and kept for every shape."""

_FIXED_TOKEN_MULTIPLE = 128  # each number of tokens is a recording of its own
_SHRINK_FRACTION = 0.6


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps of a token: K heads of keys of one size and values of another.

    Made by `samplers/probing.py`. `window` is the layer's sliding window, None for all tokens.
    """

    num_heads: int
    key_size: int
    value_size: int
    window: int | None

    @property
    def num_elements(self) -> int:
        """Elements that a token takes."""
        return self.num_heads * (self.key_size + self.value_size)


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """How the buffers are cut for a call: rows of sequences and of shared prompts, and the tokens of each."""

    num_rows: int
    row_tokens: int
    num_prompts: int = 0
    prompt_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that all rows together hold."""
        return self.num_rows * self.row_tokens + self.num_prompts * self.prompt_tokens


@dataclass(frozen=True, slots=True)
class SharedRows:
    """Which shared prompt each running sequence has. Made by `samplers/rows.py`, read by `KvCache.build_decode`.

    `num_groups`: prompts' rows to look at, P. `longest`: tokens of the longest prompt that is kept. `row_of_member_PM`:
    the sequence in each place of a group, flat [P * M], any where a place is empty; `member_of_row_B` is each
    sequence's place. `slots_B`: the row of each sequence's prompt; `lengths_B`: the prompt's tokens.
    """

    num_groups: int
    longest: int
    row_of_member_PM: torch.Tensor
    member_of_row_B: torch.Tensor
    slots_B: torch.Tensor
    lengths_B: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors, in the order of the fields."""
        return [self.row_of_member_PM, self.member_of_row_B, self.slots_B, self.lengths_B]


def _round_up_row(count: int) -> int:
    """Return the least multiple of `TOKEN_MULTIPLE` that holds so many tokens."""
    return -(-count // TOKEN_MULTIPLE) * TOKEN_MULTIPLE


class TokenStore:
    """Keys and values of a number of rows over all layers, as long as the tokens in them need and no longer.

    Batched products read a buffer in place only where it is contiguous, and would copy a slice of its tokens
    at every step. So buffers end where the reading ends, and are laid out anew every few dozen tokens.
    """

    def __init__(self, shapes: Sequence[LayerShape], num_rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes = shapes
        self.num_rows = num_rows
        self.num_tokens = 0
        self.layers: list[LayerCache] = []
        self._dtype = dtype
        self._device = device

    def fit(self, tokens: int, most: int) -> None:
        """Let rows hold so many tokens, at most `most`; much longer rows are cut down to them."""
        if tokens <= self.num_tokens and _round_up_row(tokens) > _SHRINK_FRACTION * self.num_tokens:
            return
        wanted = min(_round_up_row(tokens + self.num_tokens // 16), most)
        kept = min(wanted, self.num_tokens)
        for layer, shape in enumerate(self.shapes):
            parts = []
            for kind, size in (("keys", shape.key_size), ("values", shape.value_size)):
                # Zeros, since a NaN in memory that was never written times a weight of 0 is a NaN.
                part = torch.zeros(self.num_rows, shape.num_heads, wanted, size, dtype=self._dtype, device=self._device)
                if kept:
                    part[:, :, :kept] = getattr(self.layers[layer], kind)[:, :, :kept]
                parts.append(part)
            cache = LayerCache(*parts)
            if layer < len(self.layers):
                self.layers[layer] = cache
            else:
                self.layers.append(cache)
        self.num_tokens = wanted

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)


class KvCache:
    """Buffers for all layers, cut into rows.

    Args:
        shapes: What each layer keeps of a token.
        dtype: That the model computes in.
        device: Where it computes.
        budget_bytes: Most bytes the buffers may take.
        has_masks: Passes say what to hide and where to write, as the torch path needs; compiled kernels read lengths.
        is_fixed: Buffers have their full size from the start and stay where they are over calls, as passes that
            are recorded and replayed need (`samplers/graphs.py`); products of a GPU read slices in place.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        dtype: torch.dtype,
        device: torch.device,
        budget_bytes: int,
        *,
        has_masks: bool = True,
        is_fixed: bool = False,
    ) -> None:
        self.shapes = list(shapes)
        self.dtype = dtype
        self.device = device
        self.budget_bytes = budget_bytes
        self.windows = sorted({shape.window for shape in shapes}, key=lambda window: window or 0)
        self.has_masks = has_masks
        self.is_fixed = is_fixed
        self.version = 0
        """Changes when buffers move."""
        self.sizes = CacheSizes(0, 0)
        self.rows = TokenStore(self.shapes, 0, dtype, device)
        self.prompts = TokenStore(self.shapes, 0, dtype, device)
        self._mask = torch.empty(0)  # of layers without a window, kept over steps

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes over all layers."""
        return sum(shape.num_elements for shape in self.shapes) * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return self.rows.num_bytes + self.prompts.num_bytes

    def count_rows(self, wanted: int, row_tokens: int, prompt_tokens: int, num_samples: int) -> CacheSizes:
        """Return the sizes of a call: as many rows as are wanted and the budget holds.

        Args:
            wanted: Sequences that may run at once.
            row_tokens: Most tokens of a sequence of its own.
            prompt_tokens: Most tokens of a shared prompt; 0 if prompts are in the sequences' own rows.
            num_samples: Sequences of a prompt.

        Raises:
            SamplerError: Not even one sequence fits.
        """
        row_tokens = _round_up_row(row_tokens)
        prompt_tokens = _round_up_row(prompt_tokens)
        for num_rows in range(wanted, 0, -1):
            num_prompts = min(num_rows, -(-num_rows // num_samples) + 1) if prompt_tokens else 0
            sizes = CacheSizes(num_rows, row_tokens, num_prompts, prompt_tokens)
            if sizes.num_tokens * self.bytes_per_token <= self.budget_bytes:
                return sizes
        needed = (row_tokens + prompt_tokens) * self.bytes_per_token
        raise SamplerError(
            f"one sequence of {row_tokens + prompt_tokens} tokens needs {needed / 1e9:.2f} GB of keys and values",
            expected=f"at most {self.budget_bytes / 1e9:.2f} GB, the sampler's budget",
            cure="lower max_new_tokens, shorten the prompts, or give the sampler a larger cache budget",
            place="max_new_tokens",
        )

    def cut(self, sizes: CacheSizes) -> None:
        """Prepare empty rows for a call; memory is taken as tokens come, or at once where buffers are fixed."""
        if self.is_fixed and sizes == self.sizes:
            self._mask.fill_(float("-inf"))
            return
        self.sizes = sizes
        self.version += 1
        self.rows = TokenStore(self.shapes, sizes.num_rows, self.dtype, self.device)
        self.prompts = TokenStore(self.shapes, sizes.num_prompts, self.dtype, self.device)
        if self.has_masks:
            self._mask = torch.full((sizes.num_rows, 1, 1, sizes.row_tokens), float("-inf"), device=self.device)
        if self.is_fixed and sizes.num_rows:
            self.rows.fit(sizes.row_tokens, sizes.row_tokens)
            if sizes.num_prompts:
                self.prompts.fit(sizes.prompt_tokens, sizes.prompt_tokens)

    def end_call(self) -> None:
        """Give back what a call needed; fixed buffers stay for the next."""
        if not self.is_fixed:
            self.release()

    def release(self) -> None:
        """Give all memory back."""
        self.cut(CacheSizes(0, 0))

    def build_prefill(self, pieces: Sequence[PromptPiece], *, is_shared: bool) -> Prefill:
        """Return a pass over pieces of prompts, which fill rows of shared prompts or of sequences.

        Tokens up to `round_up_tokens` of the pieces' are a filler behind them, isolated and not kept.
        """
        lengths = [piece.length for piece in pieces]
        filler = round_up_tokens(sum(lengths)) - sum(lengths)
        spans = DocumentSpans.from_lengths([*lengths, filler] if filler else lengths, self.device)
        store, most = (self.prompts, self.sizes.prompt_tokens) if is_shared else (self.rows, self.sizes.row_tokens)
        longest = max(piece.start + piece.length for piece in pieces)
        store.fit(max(longest, store.num_tokens), most)
        return Prefill(store.layers, pieces, spans)

    def begin_row(self, row: int, num_tokens: int) -> None:
        """Show the first tokens of a sequence's row, which a prefill has filled, and hide the rest."""
        if self.has_masks:
            self._mask[row] = float("-inf")
            self._mask[row, ..., :num_tokens] = 0

    def move_row(self, source: int, target: int, num_tokens: int) -> None:
        """Copy a sequence's first tokens to another row."""
        for layer in self.rows.layers:
            layer.keys[target, :, :num_tokens] = layer.keys[source, :, :num_tokens]
            layer.values[target, :, :num_tokens] = layer.values[source, :, :num_tokens]
        if self.has_masks:
            self._mask[target] = self._mask[source]

    def build_decode(self, lengths_B: torch.Tensor, longest: int, shared: SharedRows | None = None) -> Decode:
        """Return a pass over one new token of each of the first B rows.

        Args:
            lengths_B: Tokens that each row holds already, int64; the new token goes behind them.
            longest: The largest of them.
            shared: Where the rows' shared prompts are, if they have any.
        """
        N = self._look(self.rows, longest + 1, self.sizes.row_tokens)
        prompts = None if shared is None else self._build_shared(shared)
        if not self.has_masks:
            return Decode(self.rows.layers, lengths_B, {}, N, {}, prompts)
        masks = self._build_masks(lengths_B, N)
        if shared is not None and prompts is not None:
            for window, mask in masks.items():
                before = self._hide_prompts(shared, lengths_B, prompts.num_tokens, window)
                masks[window] = torch.cat([before, mask], -1)
        return Decode(self.rows.layers, lengths_B, self._find_places(lengths_B), N, masks, prompts)

    def _find_places(self, lengths_B: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return where new keys go in buffers seen as [R * K * S, D], for each number of heads K: flat [B * K]."""
        places = {}
        for K in {shape.num_heads for shape in self.shapes}:
            rows_B1 = torch.arange(len(lengths_B), device=self.device)[:, None]
            heads_BK = rows_B1 * K + torch.arange(K, device=self.device)
            places[K] = (heads_BK * self.rows.num_tokens + lengths_B[:, None]).flatten()
        return places

    def _build_masks(self, lengths_B: torch.Tensor, N: int) -> dict[int | None, torch.Tensor]:
        masks: dict[int | None, torch.Tensor] = {}
        for window in self.windows:
            if window is None:
                # Not by assignment to an index: that copies the 0 from the host, which no recording of a GPU takes.
                self._mask[: len(lengths_B), 0, 0].scatter_(1, lengths_B[:, None], 0.0)
                masks[window] = self._mask[: len(lengths_B), ..., :N]
            else:
                distance_BN = lengths_B[:, None] - torch.arange(N, device=self.device)
                masks[window] = _hide((distance_BN < 0) | (distance_BN >= window))
        return masks

    def count_looked_at(self, longest: int, shared: SharedRows | None) -> tuple[int, int]:
        """Return how many tokens of rows and of shared prompts a decode pass reads."""
        rows = self._look(self.rows, longest + 1, self.sizes.row_tokens)
        return rows, 0 if shared is None else self._look(self.prompts, shared.longest, self.sizes.prompt_tokens)

    def _look(self, store: TokenStore, tokens: int, most: int) -> int:
        """Return how many tokens of a store are read, so that the first `tokens` are."""
        if self.is_fixed:
            return min(-(-tokens // _FIXED_TOKEN_MULTIPLE) * _FIXED_TOKEN_MULTIPLE, most)
        store.fit(tokens, most)
        return store.num_tokens

    def _build_shared(self, shared: SharedRows) -> SharedPrompts:
        row_of_member, member_of_row = {}, {}
        P = shared.num_groups
        M = len(shared.row_of_member_PM) // P
        for K in {shape.num_heads for shape in self.shapes} if self.has_masks else ():
            heads_K = torch.arange(K, device=self.device)
            rows_PKM = shared.row_of_member_PM.view(P, 1, M) * K + heads_K[:, None]
            row_of_member[K] = rows_PKM.flatten()
            groups_B1, members_B1 = shared.member_of_row_B[:, None] // M, shared.member_of_row_B[:, None] % M
            member_of_row[K] = ((groups_B1 * K + heads_K) * M + members_B1).flatten()
        N = self._look(self.prompts, shared.longest, self.sizes.prompt_tokens)
        return SharedPrompts(self.prompts.layers, P, N, shared.slots_B, shared.lengths_B, row_of_member, member_of_row)

    def _hide_prompts(self, shared: SharedRows, lengths_B: torch.Tensor, N: int, window: int | None) -> torch.Tensor:
        tokens_N = torch.arange(N, device=self.device)
        is_hidden_BN = tokens_N >= shared.lengths_B[:, None]
        if window is not None:
            is_hidden_BN |= shared.lengths_B[:, None] + lengths_B[:, None] - tokens_N >= window
        return _hide(is_hidden_BN)


def _hide(is_hidden_BN: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(is_hidden_BN.shape, device=is_hidden_BN.device).masked_fill_(is_hidden_BN, float("-inf"))
    return mask[:, None, None]
