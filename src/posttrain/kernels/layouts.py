"""Rows through a backbone: laid end to end without a mask, or right-padded with one.

Shape letters: T tokens of all rows, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from posttrain.kernels.attention import DocumentSpans
from posttrain.kernels.shared_prefix import Family

Layout = Literal["packed", "padded", "single"]
"""How the rows of a pass lie: end to end, right-padded, or only one row at a time."""

_LARGEST_ROUNDING = 128


def round_up_tokens(count: int) -> int:
    """Return the token count of a pass with its filler: at most a tenth more, in a few distinct sizes.

    Matrix-product kernels are compiled and kept for every distinct shape, so that free lengths would cost
    time and a growing amount of memory.
    """
    step = 1
    while step * 20 <= count and step < _LARGEST_ROUNDING:
        step *= 2
    return -(-count // step) * step


def run_packed(
    backbone: Callable[..., Any], ids_T: torch.Tensor, lengths: Sequence[int], **arguments: Any
) -> torch.Tensor:
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
    hidden_TH: torch.Tensor = output.last_hidden_state[0]
    return hidden_TH


def run_families(backbone: Callable[..., Any], ids_T: torch.Tensor, families: Sequence[Family]) -> torch.Tensor:
    """Return last hidden states [T, H] of prompts and their continuations, which go on where their prompt ends.

    The model must use the packed attention back-end, and be one for which sharing is exact
    (`models.heads.is_sharing_exact`).
    """
    positions = []
    for family in families:
        size = family.borders[0] - family.start
        positions.append(torch.arange(size, device=ids_T.device))
        parts = family.continuations
        positions += [torch.arange(size, size + part.stop - part.start, device=ids_T.device) for part in parts]
    starts = (*(family.start for family in families), families[-1].borders[-1])
    output = backbone(
        input_ids=ids_T[None],
        position_ids=torch.cat(positions)[None],
        use_cache=False,
        document_spans=DocumentSpans(starts, families=tuple(families)),
    )
    hidden_TH: torch.Tensor = output.last_hidden_state[0]
    return hidden_TH


def run_padded(backbone: Callable[..., Any], ids_T: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Right-pad rows that lie end to end, run them with a mask, and return the hidden states [T, H] end to end again.

    The model must use an attention back-end that takes masks (`kernels.attention.choose_masked_attention`).
    """
    rows = ids_T.split(list(lengths))
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    ends = torch.tensor(lengths, device=ids.device)
    mask = torch.arange(ids.shape[1], device=ids.device)[None] < ends[:, None]
    output = backbone(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    hidden_TH: torch.Tensor = output.last_hidden_state[mask]
    return hidden_TH
