"""The parts of a decode pass between its products, in compiled C (`native_decoding.c`).

A pass over one token of each of a few dozen sequences is so little arithmetic that calling torch's operations is
most of its time: some thirty a layer. Here they are four, and each sequence reads its own tokens and no padding.

Shape letters: B sequences, H query heads, K key/value heads, D head size, C hidden size, F features. Tensors of
features are [F, B], contiguous; the C file says why.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch

from posttrain.kernels.cached_attention import Decode

SOURCE = Path(__file__).with_suffix(".c")
HEADERS = (SOURCE.with_name("native_lanes.h"),)
LANES = 16
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Heads of a layer: H query heads over K key/value heads, sizes of keys and of values."""

    num_heads: int
    num_kv_heads: int
    key_size: int
    value_size: int

    def supports(self, dtype: torch.dtype) -> bool:
        """Return whether the kernels can be compiled for such heads."""
        sizes = (self.key_size, self.value_size)
        return dtype in _DTYPES and self.num_heads % self.num_kv_heads == 0 and all(x % LANES == 0 for x in sizes)

    def defines(self, dtype: torch.dtype) -> dict[str, int]:
        """Return the macros that the C file is compiled with."""
        macros = {"KEY_SIZE": self.key_size, "VALUE_SIZE": self.value_size}
        macros["GROUP"] = self.num_heads // self.num_kv_heads
        return macros | ({"BF16": 1} if dtype == torch.bfloat16 else {})


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "K", "row_tokens", "prompt_tokens", "window")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
    )


class NativeDecoding:
    """The compiled kernels of one model; tensors are on the CPU, of one dtype, contiguous, and nothing is checked.

    Args:
        library: `SOURCE` compiled with `shape.defines(dtype)` (`core.native_library`).
        shape: Of every layer.
    """

    def __init__(self, library: ctypes.CDLL, shape: HeadShape) -> None:
        self.shape = shape
        self._library = library
        pointer, size, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        library.add_and_normalise.argtypes = [*[pointer] * 4, size, size, real]
        library.gate.argtypes = [pointer, size]
        library.place.argtypes = [ctypes.POINTER(_Shape), *[pointer] * 9]
        library.attend.argtypes = [ctypes.POINTER(_Shape), *[pointer] * 9]
        for function in (library.add_and_normalise, library.gate, library.place):
            function.restype = None
        library.attend.restype = ctypes.c_int

    def add_and_normalise(
        self, hidden_CB: torch.Tensor, delta_CB: torch.Tensor | None, gain_C: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Add `delta_CB` to `hidden_CB` in place and return the sum's RMSNorm [C, B] (arXiv 1910.07467)."""
        normed = torch.empty_like(hidden_CB)
        delta = None if delta_CB is None else delta_CB.data_ptr()
        self._library.add_and_normalise(
            hidden_CB.data_ptr(), delta, gain_C.data_ptr(), normed.data_ptr(), *hidden_CB.shape, epsilon
        )
        return normed

    def gate(self, mixed_FB: torch.Tensor) -> torch.Tensor:
        """Return silu(first half) * second half [F / 2, B], written over the first half (SwiGLU, arXiv 2002.05202)."""
        half = mixed_FB.shape[0] // 2
        self._library.gate(mixed_FB.data_ptr(), half * mixed_FB.shape[1])
        return mixed_FB[:half]

    # many parameters: one layer's tensors and constants
    def attend(
        self,
        mixed_FB: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        gains: tuple[torch.Tensor, torch.Tensor] | None,
        step: Decode,
        layer: int,
        *,
        scale: float,
        epsilon: float = 0.0,
        window: int | None = None,
    ) -> torch.Tensor:
        """Keep the keys and values of one new token of each sequence, and return its attention output [B, H * D].

        Args:
            mixed_FB: Queries, keys and values, end to end: F = H * D + K * D + K * value size.
            rotation: Cosines and sines [D, B] of the rotary embedding (`rotate_half` form).
            gains: Of the RMSNorms of query and key heads [D] each, None for none.
            step: The pass.
            layer: Chooses the buffers.
            scale: Factor on the scores.
            epsilon: Of the head norms.
            window: Keys a query sees, itself included; None is all before it.

        Raises:
            MemoryError: There is none for the scores.
        """
        own, shared, heads = step.layers[layer], step.shared, self.shape
        B = mixed_FB.shape[1]
        query = mixed_FB.new_empty(B, heads.num_heads * heads.key_size)
        output = mixed_FB.new_empty(B, heads.num_heads * heads.value_size)
        prompts = shared.layers[layer] if shared is not None else None
        prompt_tokens = prompts.keys.shape[2] if prompts is not None else 0
        shape = _Shape(B, heads.num_kv_heads, own.keys.shape[2], prompt_tokens, window or 0, scale, epsilon)
        keys, values, lengths = own.keys.data_ptr(), own.values.data_ptr(), step.lengths_B.data_ptr()
        cos, sin = rotation[0].data_ptr(), rotation[1].data_ptr()
        query_gain, key_gain = (None, None) if gains is None else (gains[0].data_ptr(), gains[1].data_ptr())
        self._library.place(
            shape, mixed_FB.data_ptr(), cos, sin, query_gain, key_gain, lengths, query.data_ptr(), keys, values
        )
        prompt: tuple[int | None, ...] = (None, None, None, None)
        if shared is not None and prompts is not None:
            prompt = (
                prompts.keys.data_ptr(),
                prompts.values.data_ptr(),
                shared.slots_B.data_ptr(),
                shared.lengths_B.data_ptr(),
            )
        if self._library.attend(shape, query.data_ptr(), keys, values, lengths, *prompt, output.data_ptr()):
            raise MemoryError("no memory for the scores of a decode pass")
        return output
