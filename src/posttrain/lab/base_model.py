"""Where the shipped base model is: weights, tokenizer and card in `lab/base`, as `posttrain lab build` made them."""

from __future__ import annotations

from pathlib import Path

from posttrain.core.errors import ModelError

BASE_VERSION = 1
"""Raised whenever the weights change: `lab:base@1` names these weights for ever."""
CARD = "card.json"


def find_lab_base() -> Path:
    """Return the folder of the shipped base model.

    Raises:
        ModelError: The installation lacks its weights.
    """
    folder = Path(__file__).parent / "base"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            "this installation has no lab:base: its weights are missing",
            expected="model.safetensors beside the package's own files",
            cure="install the package again, or make them: posttrain lab build FOLDER",
            place=str(folder),
        )
    return folder
