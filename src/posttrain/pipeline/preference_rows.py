"""The pairs or labelled rows of a stage: tokenized, kept in the run folder's cache, and shown token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder
from posttrain.data.mismatched import check_completions
from posttrain.data.pairs import PairData, PairSettings, load_pairs
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import DataPlace
from posttrain.data.unpaired import read_labels
from posttrain.lab.source import lab_rows
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.wiring import describe_sample, find_contaminated_rows, locate_sources
from posttrain.stages.kto import KtoConfig
from posttrain.stages.preference import PreferenceConfig

PairStageConfig = PreferenceConfig | KtoConfig
"""The stages that are trained on completions behind prompts, compared or labelled."""


@dataclass(frozen=True, slots=True)
class StagePairs:
    """The tokenized pairs of a stage: what it trains on and what it validates on."""

    train: PairData
    validation: PairData | None


def load_stage_pairs(
    recipe: Recipe, config: PairStageConfig, renderer: Renderer, context_tokens: int | None, progress: Progress
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
        kind="unpaired" if isinstance(config, KtoConfig) else "preference",
        splits_pairs=isinstance(config, KtoConfig) and config.pairs == "split",
    )
    place = DataPlace(recipe.root, RunFolder(recipe.folder).cache / "tokens", lab_rows, progress)

    def load(sources: Sequence[DataSource], contaminated: Sequence[Mapping[str, str]] = ()) -> PairData:
        return load_pairs(locate_sources(recipe, sources), renderer, settings, place, contaminated)

    found = find_contaminated_rows(recipe, config.data, progress)
    return StagePairs(load(config.data, found), load(config.validation) if config.validation else None)


def check_labelled(config: KtoConfig, data: StagePairs) -> None:
    """Check the labels and completions of a KTO stage's rows.

    Raises:
        DataError: Labels, or for `loss: kto` completions, are all the same.
    """
    for place, part in (("data", data.train), ("validation", data.validation)):
        if part is not None:
            read_labels(part.sources, place)
            if config.loss == "kto":
                check_completions(part.sources, place)


def describe_pairs(data: PairData, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return the first rows of each source in turn, their completions token by token behind the prompt."""
    shown: list[dict[str, Any]] = []
    limit = count * max((rows.width for rows in data.sources), default=0)
    for index in range(max((len(rows) for rows in data.sources), default=0)):
        for rows in data.sources:
            if index < len(rows) and len(shown) < limit:
                pair = rows[index]
                names: tuple[str, ...] = ("chosen", "rejected")
                if rows.width == 1:
                    names = ("desirable" if pair.columns["label"] else "undesirable",)
                for name, completion in zip(names, pair.completions, strict=True):
                    tokens = describe_sample(pair.join(completion), tokenizer)
                    shown.append({"row_id": f"{pair.row_id} {name}", "tokens": tokens})
        if len(shown) >= limit:
            break
    return shown
