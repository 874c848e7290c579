"""The pairs of a preference stage: tokenized, kept in the run folder's cache, and shown token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder
from posttrain.data.pairs import PairData, PairSettings, load_pairs
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import DataPlace
from posttrain.lab.source import lab_rows
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.wiring import describe_sample, find_contaminated_rows, locate_sources
from posttrain.stages.preference import PreferenceConfig


@dataclass(frozen=True, slots=True)
class StagePairs:
    """The tokenized pairs of a stage: what it trains on and what it validates on."""

    train: PairData
    validation: PairData | None


def load_stage_pairs(
    recipe: Recipe, config: PreferenceConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
) -> StagePairs:
    """Return a stage's pairs, tokenized now or read from the run folder's cache.

    Args:
        recipe: Says where paths start and where the cache is.
        config: The stage's configuration.
        renderer: Turns messages into tokens.
        context_tokens: The model's longest row, which `max_length: null` stands for; None if it has no limit.
        progress: Shows tokenizing.

    Raises:
        DataError: A source cannot be read, or too many rows are bad or too long.
    """
    tokenizer: Any = renderer.tokenizer
    settings = PairSettings(
        renderer_hash=renderer.format.hash,
        tokenizer_hash=tokenizer.content_hash,
        max_length=config.max_length or context_tokens,
        truncation=config.truncation,
        max_affected_fraction=config.max_affected_fraction,
    )
    place = DataPlace(recipe.root, RunFolder(recipe.folder).cache / "tokens", lab_rows, progress)

    def load(sources: Sequence[DataSource], contaminated: Sequence[Mapping[str, str]] = ()) -> PairData:
        return load_pairs(locate_sources(recipe, sources), renderer, settings, place, contaminated)

    found = find_contaminated_rows(recipe, config.data, progress)
    return StagePairs(load(config.data, found), load(config.validation) if config.validation else None)


def describe_pairs(data: PairData, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return the first pairs of each source in turn, both branches token by token behind their prompt."""
    shown: list[dict[str, Any]] = []
    for index in range(max((len(rows) for rows in data.sources), default=0)):
        for rows in data.sources:
            if index < len(rows) and len(shown) < 2 * count:
                pair = rows[index]
                for name, completion in (("chosen", pair.chosen), ("rejected", pair.rejected)):
                    tokens = describe_sample(pair.join(completion), tokenizer)
                    shown.append({"row_id": f"{pair.row_id} {name}", "tokens": tokens})
        if len(shown) >= 2 * count:
            break
    return shown
