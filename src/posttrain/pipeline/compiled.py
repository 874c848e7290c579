"""Compiled kernels for a model on this machine: which decode pass it gets, and what its layers are trained with.

A decode pass is the fastest that a probe shows to agree with the model's own modules.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from posttrain.core.native_library import NativeUnavailableError, has_triton, load_library
from posttrain.kernels import native_decoding, native_drawing, native_layers, native_scores
from posttrain.kernels.layers import LayerKernels
from posttrain.kernels.score_kernels import ScoreKernels
from posttrain.models.heads import find_head
from posttrain.models.lean_decoding import LeanDecoder, build_lean_decoder
from posttrain.models.native_decoding import NativeDecoder, find_head_shape
from posttrain.samplers.graphs import DecodePass, run_backbone
from posttrain.samplers.kv_cache import LayerShape
from posttrain.samplers.probing import UnmanagedCacheError, check_decode


@dataclass(frozen=True, slots=True)
class ChosenDecode:
    """How one token of each sequence is run and drawn.

    `needs_masks` as in `samplers.kv_cache.KvCache`; `drawing` is None where torch's operations draw; `notes` tell the
    user what was done without.
    """

    decode: DecodePass
    needs_masks: bool
    drawing: native_drawing.NativeDrawing | None
    notes: tuple[str, ...]


class _Kernels:
    """Compiles what a model on a CPU can use, and remembers why it could not."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._dtype = weight.dtype
        self.is_useful = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        self.why_not = ""

    def load(self, source: Any, defines: dict[str, int]) -> ctypes.CDLL | None:
        if not self.is_useful:
            return None
        try:
            return load_library(source.SOURCE, defines, source.HEADERS)
        except NativeUnavailableError as error:
            self.why_not = str(error)
            return None

    def build_drawing(self) -> native_drawing.NativeDrawing | None:
        library = self.load(native_drawing, {"BF16": 1} if self._dtype == torch.bfloat16 else {})
        return None if library is None else native_drawing.NativeDrawing(library)

    def build_layers(self) -> native_layers.NativeLayers | None:
        library = self.load(native_layers, {"BF16": 1} if self._dtype == torch.bfloat16 else {})
        return None if library is None else native_layers.NativeLayers(library, self._dtype)

    def build_scores(self) -> native_scores.NativeScores | None:
        library = self.load(native_scores, {"BF16": 1} if self._dtype == torch.bfloat16 else {})
        return None if library is None else native_scores.NativeScores(library, self._dtype)

    def build_decoder(self, lean: LeanDecoder) -> NativeDecoder | None:
        shape = find_head_shape(lean)
        library = self.load(native_decoding, shape.defines(self._dtype)) if shape.supports(self._dtype) else None
        return None if library is None else NativeDecoder(lean, native_decoding.NativeDecoding(library, shape))


@dataclass(frozen=True, slots=True)
class TrainingKernels:
    """What layers and heads of a weight's dtype and device are trained with; `why_not` says why not, if there is none.

    On a GPU the head's are found by themselves (`kernels.score_kernels`).
    """

    layers: LayerKernels | None
    scores: ScoreKernels | None
    why_not: str


def build_training_kernels(weight: torch.Tensor) -> TrainingKernels:
    """Return the kernels that a weight's dtype and device are trained with."""
    if weight.device.type == "cuda":
        if not has_triton():
            return TrainingKernels(None, None, "Triton is not installed")
        from posttrain.kernels.triton_layers import TritonLayers

        return TrainingKernels(TritonLayers(weight.dtype), None, "")
    kernels = _Kernels(weight)
    return TrainingKernels(kernels.build_layers(), kernels.build_scores(), kernels.why_not)


def choose_decode(causal_lm: Any, backbone: Any, shapes: Sequence[LayerShape]) -> ChosenDecode:
    """Return the fastest decode pass of a model on cached attention that agrees with its own modules."""
    kernels = _Kernels(find_head(causal_lm).weight)
    drawing = kernels.build_drawing()
    lean = build_lean_decoder(backbone, [shape.window for shape in shapes])
    candidates: list[tuple[DecodePass, bool]] = []
    if lean is not None:
        native = kernels.build_decoder(lean)
        candidates = [(native, False)] if native is not None else []
        candidates.append((lean, True))
    notes = (f"sampling without compiled kernels, about half as fast: {kernels.why_not}",) if kernels.why_not else ()
    for decode, needs_masks in candidates:
        with contextlib.suppress(UnmanagedCacheError):  # something in the layers that the leaner pass does not know
            check_decode(causal_lm, backbone, shapes, decode, has_masks=needs_masks)
            return ChosenDecode(decode, needs_masks, drawing, notes)
    return ChosenDecode(partial(run_backbone, backbone), True, drawing, notes)
