"""Some rows of a stage as they are trained on, token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from posttrain.core.errors import RecipeError
from posttrain.core.progress import SilentProgress
from posttrain.data.sources import DataSource
from posttrain.models.loading import read_context_tokens
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.preference_rows import PairStageConfig, describe_pairs, load_stage_pairs
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.reward_wiring import describe_reward_rows, load_reward_data
from posttrain.pipeline.wiring import describe_rows, load_stage_data
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.stages.sft import SftConfig


def preview_rows(recipe: Recipe, stage: str, count: int) -> list[dict[str, Any]]:
    """Return some rows of a stage as they are trained on: `{row_id, tokens: [[text, id, source, trainable]]}`.

    Rows that hold evaluation items are shown too: a few rows are not worth the search.

    Raises:
        RecipeError: The stage is a plug-in, whose data is known to itself alone.
        DataError: The rows cannot be read.
    """
    config = recipe.find_stage(stage).config
    if not isinstance(config, SftConfig | PairStageConfig | RewardModelConfig):
        raise RecipeError(
            f"stage '{stage}' is a plug-in, whose data is known to itself alone, or trains on what it samples",
            expected="a stage that is trained on rows",
            cure="choose another with --stage",
            place=stage,
        )
    base = find_base(recipe)
    few: dict[str, Any] = {
        "data": [_limit(source, count) for source in config.data],
        "validation": [],
        "max_affected_fraction": 1.0,
    }
    shown = replace(recipe, head=recipe.head.model_copy(update={"decontaminate": None}))
    with open_renderer(recipe, base) as renderer:
        tokenizer: Any = renderer.tokenizer
        context_tokens = read_context_tokens(base)
        if isinstance(config, PairStageConfig):
            config = config.model_copy(update={**few, "keep": "last", "validate_every_steps": None})
            pairs = load_stage_pairs(shown, config, renderer, context_tokens, SilentProgress())
            return describe_pairs(pairs.train, tokenizer, count)
        if isinstance(config, RewardModelConfig):
            config = config.model_copy(update=few)
            rows = load_reward_data(shown, config, renderer, context_tokens, SilentProgress()).train
            return describe_reward_rows(rows, tokenizer, count)
        data = load_stage_data(shown, config.model_copy(update=few), renderer, context_tokens, SilentProgress())
        return describe_rows(data.train.rows, tokenizer, count)


def _limit(source: DataSource, count: int) -> DataSource:
    return source.model_copy(update={"rows": min(count, source.rows or count)})
