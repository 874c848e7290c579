"""A stage that samples, run by several ranks on this machine: what each of them saw of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.core.errors import PosttrainError
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.training.distributed import Ranks
from tests.stages.tiny_sft import StopAfter


def run_on_rank(
    ranks: Ranks, *, recipe: str, override: tuple[str, ...] = ("length_caps",), stop_after: int | None = None
) -> str:
    """Carry a recipe out as one of the ranks and return what stopped it, empty if nothing did."""
    del ranks  # the run joins the process group that it finds
    arguments: dict[str, Any] = {} if stop_after is None else {"should_stop": StopAfter(stop_after)}
    try:
        run_recipe(read_recipe(Path(recipe)), override=list(override), **arguments)
    except PosttrainError as error:
        return error.describe()
    return ""


def write_recipe(folder: Path, values: dict[str, Any], name: str) -> str:
    """Write a recipe whose run folder is named after it."""
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**values, "folder": f"runs/{name}"}))
    return str(path)
