"""Compiled kernels for tests, or a skip with the reason where they cannot be compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from posttrain.core.native_library import NativeUnavailableError, load_library
from posttrain.kernels import native_scores
from posttrain.kernels.native_scores import NativeScores


def load_or_skip(source: Path, defines: Mapping[str, int], headers: Sequence[Path]) -> ctypes.CDLL:
    try:
        return load_library(source, defines, headers)
    except NativeUnavailableError as error:
        pytest.skip(str(error))


def load_native_scores(dtype: torch.dtype) -> NativeScores:
    defines = {"BF16": 1} if dtype == torch.bfloat16 else {}
    return NativeScores(load_or_skip(native_scores.SOURCE, defines, native_scores.HEADERS), dtype)
