"""Attention over packed rows whose documents share prompts: `[P | C1 | C2 ...]`, the prompt run once.

A family is a prompt and its continuations, end to end. The prompt attends to itself, causally; every continuation to
the whole prompt and, causally, to itself, as if the prompt stood before each of them. It does stand before the first
one, so that the two are one causal run. Of the later ones, two softmaxes over parts of the keys are one over all of
them, merged by their log-sum-exps:

    l = log(e^l1 + e^l2)        o = o1 e^(l1 - l) + o2 e^(l2 - l)

and the flash backward of a part, called with the merged o and l, gives exactly that part's share of the gradients
(`Dao et al. 2022, arXiv 2205.14135, section B.2`, where a row's gradient needs o, l and its own keys alone); the shares
of the queries add up.

That is the way of the CPU's flash kernel. Elsewhere (other devices, sliding windows, heads of two sizes, and short
continuations that nothing is differentiated through) the prompt is one `scaled_dot_product_attention` call and its
continuations another, over the prompt's keys and theirs with a mask that is made once a pass. Shape letters: H query
heads, K key/value heads, T tokens of the row, P tokens of a prompt, Q tokens of the continuations of one call, D head
size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_MASKED_TOKENS = 1024  # of the continuations of one masked call: they are scored against one another in vain
_SHORT_TOKENS = 256  # of all continuations of a prompt: one masked call costs less than a flash call for each
_FLOAT_BACKWARD_TOKENS = 512  # as kernels.attention's: below, the bf16 backward of the CPU has a fixed cost

_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Family:
    """A prompt and its continuations in a packed row: the token where each begins, and the end of the last.

    Made by `lay_out_families` for training and multiple choice, read by `attend_families`.

    Example: a prompt of 3 tokens at the start of the row with continuations of 2 and 4: `start = 0`, `borders =
    (3, 5, 9)`. A document that shares nothing has `borders = (end,)`.
    """

    start: int
    borders: tuple[int, ...]
    _masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def prompt(self) -> slice:
        """The prompt's tokens."""
        return slice(self.start, self.borders[0])

    @property
    def continuations(self) -> list[slice]:
        """The tokens of each continuation."""
        return [slice(a, b) for a, b in itertools.pairwise(self.borders)]

    @property
    def runs(self) -> list[slice]:
        """Tokens that attend to themselves causally: the prompt with its first continuation, and each later one."""
        borders = self.borders[1:] or self.borders
        return [slice(a, b) for a, b in itertools.pairwise((self.start, *borders))]

    @property
    def later(self) -> slice:
        """The tokens of all continuations but the first, which the prompt does not stand before."""
        return slice(self.borders[1] if len(self.borders) > 1 else self.borders[-1], self.borders[-1])

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longest continuation after it."""
        sizes = [part.stop - part.start for part in self.continuations]
        return self.borders[0] - self.start + max(sizes, default=0)

    @property
    def bundles(self) -> list[slice]:
        """The tokens of continuations that one masked call takes: as many as are not too long together."""
        starts = [self.borders[0]]
        for before, after in itertools.pairwise(self.borders):
            if after - starts[-1] > _MASKED_TOKENS and before > starts[-1]:
                starts.append(before)
        return [slice(a, b) for a, b in itertools.pairwise([*starts, self.borders[-1]]) if b > a]

    def see(self, asking: slice, window: int | None, device: torch.device) -> torch.Tensor:
        """Return which keys of the prompt and of a bundle the bundle's tokens see [Q, P + Q], or the prompt's [P, P].

        Made once for all layers. The P tokens of the prompt stand first.
        """
        key = (asking.start, window)
        if key not in self._masks:
            sizes = [b - a for a, b in itertools.pairwise(self.borders) if asking.start <= a < asking.stop]
            self._masks[key] = _see(self.borders[0] - self.start, sizes, window, device)
        return self._masks[key]


def lay_out_families(lengths: Sequence[Sequence[int]]) -> tuple[Family, ...]:
    """Return the families of a row, each given as the tokens of its prompt and of its continuations.

    Raises:
        ValueError: A prompt or a continuation has no token.
    """
    families, start = [], 0
    for sizes in lengths:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"a family of {list(sizes)} tokens")
        borders = tuple(itertools.accumulate(sizes, initial=start))[1:]
        families.append(Family(start, borders))
        start = borders[-1]
    return tuple(families)


# many parameters: what attends to what, and how
def attend_families(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    families: Sequence[Family],
    scale: float,
    *,
    window: int | None = None,
    is_flash: bool,
) -> torch.Tensor:
    """Return attention within families.

    Args:
        query: [1, H, T, D].
        key: [1, K, T, D], K divides H.
        value: [1, K, T, D]; of another head size where `is_flash` is false.
        families: They cover the row's tokens, in order.
        scale: Factor on the scores.
        window: Keys a query sees, itself included, along its prompt and its continuation; None is all before it.
        is_flash: Whether the CPU's flash kernel may be used.

    Returns:
        Output of shape [1, T, H, D].
    """
    if window is not None and window >= max(family.longest for family in families):
        window = None
    is_short = max(family.borders[-1] - family.borders[0] for family in families) <= _SHORT_TOKENS
    if is_flash and window is None and (query.requires_grad or not is_short):
        output: torch.Tensor = _FamiliesFlashCpu.apply(query, key, value, tuple(families), scale)
        return output
    parts = [part for family in families for part in _attend_family(query, key, value, family, scale, window)]
    return torch.cat(parts, 2).transpose(1, 2)


# many parameters: those of attend_families
def _attend_family(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, family: Family, scale: float, window: int | None
) -> list[torch.Tensor]:
    """Return the attention [1, H, tokens, D] of the prompt and of each bundle of continuations."""
    prompt = family.prompt

    def attend(asking: slice, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        return scaled_dot_product_attention(
            query[:, :, asking], keys, values, attn_mask=seen, is_causal=seen is None, scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip

    has_window = window is not None and prompt.stop - prompt.start > window
    seen = family.see(prompt, window, query.device) if has_window else None
    parts = [attend(prompt, key[:, :, prompt], value[:, :, prompt], seen)]
    for own in family.bundles:
        keys, values = (_join(x, prompt, own) for x in (key, value))
        parts.append(attend(own, keys, values, family.see(own, window, query.device)))
    return parts


def _join(tensor: torch.Tensor, first: slice, second: slice) -> torch.Tensor:
    """Return two spans of tokens as one, without a copy where they are neighbours."""
    if first.stop == second.start:
        return tensor[:, :, first.start : second.stop]
    return torch.cat([tensor[:, :, first], tensor[:, :, second]], 2)


def _see(prompt: int, continuations: Sequence[int], window: int | None, device: torch.device) -> torch.Tensor:
    """Return which keys of a prompt and of continuations the latter see, or those the prompt sees of itself."""
    positions, owners = list(range(prompt)), [-1] * prompt
    for number, length in enumerate(continuations):
        positions += range(prompt, prompt + length)
        owners += [number] * length
    position, owner = torch.tensor(positions, device=device), torch.tensor(owners, device=device)
    asking = slice(prompt, None) if continuations else slice(None)
    distance = position[asking, None] - position[None]
    seen = ((owner[None] == -1) | (owner[None] == owner[asking, None])) & (distance >= 0)
    return seen if window is None else seen & (distance < window)


class _FamiliesFlashCpu(torch.autograd.Function):
    """The CPU's flash kernel over prompts, continuations and continuations on prompts, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        families: tuple[Family, ...],
        scale: float,
    ) -> torch.Tensor:
        _, H, T, D = query.shape
        output = query.new_empty(1, T, H, D)
        logsumexps = query.new_empty(1, T, H, dtype=torch.float32)
        for family in families:
            for part in family.runs:
                out, lse = _flash_cpu(query[:, :, part], key[:, :, part], value[:, :, part], 0.0, True, scale=scale)
                output[:, part] = out.transpose(1, 2)
                logsumexps[:, part] = lse.transpose(1, 2)
            prompt, rest = family.prompt, family.later
            if rest.stop > rest.start:
                out, lse = _flash_cpu(query[:, :, rest], key[:, :, prompt], value[:, :, prompt], 0.0, scale=scale)
                _merge(output[:, rest], logsumexps[:, rest], out.transpose(1, 2), lse.transpose(1, 2))
        ctx.save_for_backward(query, key, value, output, logsumexps)
        ctx.families, ctx.scale = families, scale
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, output, logsumexps = ctx.saved_tensors
        out, grad_out, lse = (x.transpose(1, 2) for x in (output, grad_output, logsumexps))
        grads = [x.new_empty(1, x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (query, key, value)]
        for family in ctx.families:
            whole = slice(family.start, family.borders[-1])
            tensors = [x[:, :, whole] for x in (grad_out, query, key, value, out)]
            if family.longest <= _FLOAT_BACKWARD_TOKENS:
                tensors = [x.float() for x in tensors]
            moved = _move(family, -family.start)
            shares = _differentiate_family(tensors, lse[:, :, whole], moved, ctx.scale)
            for grad, share in zip(grads, shares, strict=True):
                grad[:, :, whole] = share
        return *grads, None, None


def _merge(out_TH: torch.Tensor, lse_TH: torch.Tensor, other_TH: torch.Tensor, other_lse_TH: torch.Tensor) -> None:
    """Merge a softmax over other keys into one that stands in place."""
    total = torch.logaddexp(lse_TH, other_lse_TH)
    mine, others = (lse_TH - total).exp()[..., None], (other_lse_TH - total).exp()[..., None]
    out_TH.copy_(out_TH * mine + other_TH * others)
    lse_TH.copy_(total)


def _move(family: Family, tokens: int) -> Family:
    return Family(family.start + tokens, tuple(border + tokens for border in family.borders))


def _differentiate_family(
    tensors: Sequence[torch.Tensor], lse: torch.Tensor, family: Family, scale: float
) -> list[torch.Tensor]:
    """Return the gradients of one family's queries, keys and values; `tensors` are grad_out, query, key, value, out."""
    grad_out, query, key, value, out = tensors
    shares = [torch.empty_like(x) for x in (query, key, value)]
    for part in family.runs:
        mine = [x[:, :, part] for x in (grad_out, query, key, value, out)]
        found = _flash_cpu_backward(*mine, lse[:, :, part], 0.0, True, scale=scale)
        for share, grad in zip(shares, found, strict=True):
            share[:, :, part] = grad
    prompt, rest = family.prompt, family.later
    if rest.stop > rest.start:
        mine = [grad_out[:, :, rest], query[:, :, rest], key[:, :, prompt], value[:, :, prompt], out[:, :, rest]]
        found = _flash_cpu_backward(*mine, lse[:, :, rest], 0.0, False, scale=scale)
        for share, grad, part in zip(shares, found, (rest, prompt, prompt), strict=True):
            share[:, :, part] += grad
    return shares
