"""Some rows of a stage as they are trained on, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from posttrain.core.progress import SilentProgress
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.rounds import list_rounds
from posttrain.pipeline.stage_kinds.kind import StageSetting, find_kind
from posttrain.training.distributed import Ranks


def preview_rows(recipe: Recipe, stage: str, count: int) -> list[dict[str, Any]]:
    """Return some rows of a stage as they are trained on: `{row_id, tokens: [[text, id, source, trainable]]}`.

    Rows that hold evaluation items are shown too: a few rows are not worth the search.

    Raises:
        RecipeError: The stage is a plug-in, whose data is known to itself alone, or trains on what it samples.
        DataError: The rows cannot be read.
    """
    entry = recipe.find_stage(stage)
    shown = replace(recipe, head=recipe.head.model_copy(update={"decontaminate": None}))
    first = next(one for one in list_rounds(recipe) if one.entry.name == entry.name)
    base = find_base(recipe)
    with open_renderer(recipe, base) as renderer:
        setting = StageSetting(shown, first, base, renderer, Ranks(), SilentProgress())
        return find_kind(entry).preview(setting, entry.config, count)
