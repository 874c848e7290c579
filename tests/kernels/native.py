"""Compiled kernels for tests, or a skip with the reason where they cannot be compiled."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from posttrain.core.native_library import NativeUnavailableError, load_library


def load_or_skip(source: Path, defines: Mapping[str, int], headers: Sequence[Path]) -> ctypes.CDLL:
    try:
        return load_library(source, defines, headers)
    except NativeUnavailableError as error:
        pytest.skip(str(error))
