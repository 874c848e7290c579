"""The head's product and the draw in one, in compiled C (`native_drawing.c`), where nothing is cut or masked.

The product of a head of V tokens with B hidden states reads its weights as they lie if its output is [V, B]; the draw
reads that as it lies. Settings beyond temperature go through `kernels/drawing.py`, whose semantics these are.

Shape letters: B sequences, C hidden size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from posttrain.core.sampling import SamplingSettings
from posttrain.kernels.drawing import LEAST_TARGET, LEAST_WEIGHT, Drawn, invert_temperature
from posttrain.kernels.token_logprobs import Head

SOURCE = Path(__file__).with_suffix(".c")
HEADERS = (SOURCE.with_name("native_lanes.h"),)
_LEAST_ROWS = 8
"""With fewer sequences most lanes would be empty."""


class _Settings(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("V", "B", "count")),
        ("is_greedy", ctypes.c_int32),
        ("inverse", ctypes.c_float),
        ("least_weight", ctypes.c_float),
        ("least_target", ctypes.c_double),
    )


class NativeDrawing:
    """Draws from a head's logits; hidden states and head are on the CPU, of the dtype that the library is for.

    Args:
        library: `SOURCE` compiled for the dtype, with `BF16` defined for bf16 (`core.native_library`).
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._draw = library.draw
        self._draw.argtypes = [ctypes.POINTER(_Settings), *[ctypes.c_void_p] * 5]
        self._draw.restype = ctypes.c_int

    def can_draw(self, settings: SamplingSettings, head: Head, num_rows: int) -> bool:
        """Return whether this is a draw from the head's own distribution, at some temperature, of enough rows."""
        cuts = (settings.top_k, settings.top_p, settings.min_p, settings.constraint, settings.top_logprobs or None)
        return (
            num_rows >= _LEAST_ROWS
            and all(cut is None for cut in cuts)
            and settings.repetition_penalty in (None, 1.0)
            and (head.bias, head.scale, head.softcap) == (None, 1.0, None)
        )

    def draw(
        self,
        hidden_BC: torch.Tensor,
        head: Head,
        settings: SamplingSettings,
        uniforms_B: torch.Tensor | None,
        num_rows: int,
    ) -> Drawn:
        """Return one token for each of the first rows (`kernels.drawing.draw_tokens`; `check_drawn` is the caller's).

        Args:
            hidden_BC: Last hidden states.
            head: The head.
            settings: Of which `can_draw` holds.
            uniforms_B: float64 in [0, 1), one for each row that is drawn for; None at temperature 0.
            num_rows: Rows to draw for.

        Raises:
            MemoryError: There is none for the sums.
        """
        logits_VB = head.weight @ hidden_BC.to(head.weight.dtype).T
        ids = torch.empty(num_rows, dtype=torch.int64)
        logprobs, drawing_logprobs = torch.empty(num_rows), torch.empty(num_rows)
        is_greedy = settings.temperature == 0
        own = _Settings(
            *logits_VB.shape,
            num_rows,
            is_greedy,
            1.0 if is_greedy else invert_temperature(settings),
            LEAST_WEIGHT,
            LEAST_TARGET,
        )
        uniforms = None if uniforms_B is None else uniforms_B.contiguous().data_ptr()
        outputs = (ids.data_ptr(), logprobs.data_ptr(), drawing_logprobs.data_ptr())
        if self._draw(own, logits_VB.data_ptr(), uniforms, *outputs):
            raise MemoryError("no memory for the sums of a draw")
        return Drawn(ids, logprobs, drawing_logprobs)
